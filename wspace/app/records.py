"""What lies beside the weights of a run: report page, ledger, recipe, digests, companions, the Orbax copy."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wspace
from wspace.app import plots
from wspace.app.allocator import release_pages
from wspace.app.changes import set_dtype
from wspace.app.report import Block, Figure, Table, Text, page
from wspace.core.buffers import keeping
from wspace.core.errors import MissingExtra, TreeMismatch, listed
from wspace.core.plan import HEAD as PLAN
from wspace.core.plan import tabulate
from wspace.io import (
    FolderSink,
    config_differences,
    copy_companions,
    digest,
    fill_adapter,
    model_card,
    write_card,
    write_orbax,
)
from wspace.measure.ledger import HEAD, Entry

if TYPE_CHECKING:
    from wspace.app.execute import Opened, Result


def write_records(job: Opened, sink: FolderSink, result: Result, *, bare: bool = False, digests: bool = False) -> None:
    """Everything but the weights, into the folder while it is still hidden; of a bare run what takes no reading."""
    folder, recipe = sink.directory, job.recipe
    keeper = job.reference
    if keeper.folder is not None and keeper.folder.is_dir():
        result.files = copy_companions(keeper.folder, folder)
        dtype = recipe.output.dtype or job.dtype
        for change in (*keeper.changes, *([set_dtype(dtype)] if dtype else [])):
            result.notes += change.apply(folder)
    folders = {w.label: w.folder for w in job.sources.values() if w.folder and w.checkpoints}
    result.notes += [str(d) for d in config_differences(list(folders.values()))]
    read = {
        w.label: digest(w.checkpoints[-1].path, digests) for w in job.sources.values() if w.checkpoints and not bare
    }
    sink.record.update(recipe=recipe.text, sets=list(recipe.sets), inputs=read, wspace=wspace.__version__)
    suffix = Path(recipe.file).suffix or ".txt"
    (folder / f"recipe{suffix}").write_text(recipe.text, encoding="utf-8")
    title = recipe.title or Path(recipe.file).name
    if folders:
        write_card(folder, model_card(title, read, recipe.text, job.work.base))
    if not bare:
        rows = [row._asdict() for row in result.ledger]
        (folder / "ledger.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (folder / "report.html").write_text(report(job, result, title, read), encoding="utf-8")
    if "peft" in recipe.output.formats:
        write_peft(folder / "adapter", result, str(keeper.folder or ""))
    if "orbax" in recipe.output.formats:
        written = sink.checkpoint()
        with keeping(0):
            release_pages()
            write_orbax(folder / "orbax", written.tree(), metadata=written.metadata)


def write_peft(folder: Path, result: Result, base: str) -> None:
    """The LoRA leaves as a PEFT folder; nothing else may differ from the reference, as nothing else is in it."""
    others = [row.path for row in result.ledger if row.changed and row.path not in result.adapters]
    if others:
        advice = "adapt them too, keep the base's (steps with 'where'), or leave peft out of the formats"
        raise TreeMismatch(f"peft: {len(others)} leaves that are no adapters changed: {listed(others, 5)}; {advice}")
    folder.mkdir()
    fill_adapter(folder, result.adapters, base)


def report(job: Opened, result: Result, title: str, digests: Mapping[str, Mapping[str, str]]) -> str:
    """The report page."""
    table = tabulate(job.ready)
    sections: list[tuple[str, list[Block]]] = []
    if result.scores:
        sections.append(
            ("Scores", [scores_table(result), *_figure(lambda: plots.grouped(result.scores, "score"), SCORES)])
        )
    if result.path is not None:
        ts, lines = result.path
        drawn = _figure(lambda: plots.curve(ts, lines, "t: 0 is the base, 1 is the merged model", "score"), ALONG)
        sections.append(("Path from the base to the merged model", drawn))
    errors = {row.path: row.relative for row in result.ledger if row.relative is not None}
    drawn = _figure(lambda: plots.bars(errors, "relative distance to the reference"), DISTANCES)
    sections.append((f"Ledger: what changed against {job.reference.label}", [*drawn, ledger_table(result.ledger)]))
    if result.notes:
        sections.append(("To know", [Text(note) for note in result.notes]))
    sections.append(("Plan", [Text(table.summary()), Table(PLAN, table.cells(), folded=True)]))
    files = [(label, file, value) for label, found in digests.items() for file, value in sorted(found.items())]
    sources = [(w.label, str(len(w.specs)), w.origin) for w in job.sources.values()]
    inputs: list[Block] = [Table(("source", "leaves", "from"), sources)]
    sections.append(("Inputs", inputs + ([Table(("source", "file", "sha256"), files, folded=True)] if files else [])))
    sections.append(("Recipe", [Text(job.recipe.text, code=True)]))
    kept = f"{len(result.files)} other files of the base went through unchanged. " if result.files else ""
    made = f"{kept}Made with wspace {wspace.__version__}, jax {version('jax')}, Python {platform.python_version()}."
    sections.append(("Made with", [Text(made), Text(LOAD, code=True)]))
    lead = f"{' > '.join(label for label, _ in job.work.stages)} on {', '.join(job.work.models)}"
    return page(title, lead + (f", base {job.work.base}" if job.work.base else ""), sections)


SCORES = "Every source, then the result after each stage."
ALONG = "Scores at (1 - t) base + t merged: a dip between the ends is a barrier."
DISTANCES = "Per leaf, the Euclidean distance to the reference over the reference's length."
LOAD = (
    'import wspace as ws\nparams = ws.materialize(ws.io.load("THIS FOLDER"))   # or leave Implicit leaves as they are'
)


def scores_table(result: Result) -> Table:
    """Sources and stages by metrics."""
    metrics = list(dict.fromkeys(m for scores in result.scores.values() for m in scores))
    rows = [(label, *(f"{s[m]:.4f}" if m in s else "" for m in metrics)) for label, s in result.scores.items()]
    return Table(("", *metrics), rows)


def ledger_table(entries: Sequence[Entry]) -> Table:
    """One row a leaf; folded if there are many."""
    return Table(HEAD, [e.cells() for e in entries], folded=len(entries) > 30)


def _figure(draw: Any, caption: str) -> list[Block]:
    try:
        return [Figure(draw(), caption)]
    except MissingExtra as missing:
        return [Text(f"No plot: {missing}")]
