"""What each command does; imported only when there is work to do."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from wspace.app.allocator import keep_pages
from wspace.app.catalog import Method, catalog
from wspace.app.output import TRANSFORM
from wspace.core.errors import WspaceError, listed, nearest, printable
from wspace.core.implicit import Implicit
from wspace.core.sizes import size
from wspace.io import NODES, Adapted, AdapterFolder, Checkpoint, Whole, is_adapter, open_checkpoint

T = TypeVar("T")


def run(arguments: argparse.Namespace) -> int:
    """Run a parsed command; returns the exit code."""
    console = Console(quiet=arguments.quiet, highlight=False)
    if not console.is_terminal:
        console = Console(quiet=arguments.quiet, highlight=False, width=160)
    return COMMANDS[arguments.command](arguments, console)


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from wspace.app.execute import planned, run_recipe
    from wspace.app.mesh import per_device
    from wspace.app.records import ledger_table, scores_table

    recipe = arguments.recipe
    recipe = replace(recipe, allow_nonfinite=recipe.allow_nonfinite or arguments.allow_nonfinite)
    if arguments.seed is not None:
        recipe = replace(recipe, seed=arguments.seed)
    keep_pages()
    began = time.perf_counter()
    with tracked(console) as track:
        job, result = run_recipe(
            recipe,
            arguments.out,
            track,
            overwrite=arguments.overwrite,
            bare=arguments.bare,
            memory=arguments.memory,
            restart=arguments.restart,
            digests=arguments.digests,
            spread=arguments.mesh,
        )
    if result.scores:
        show(console, scores_table(result), "Scores")
    if 0 < len(result.ledger) <= 30:
        show(console, ledger_table(result.ledger), f"Ledger against {job.reference.label}", SHORT)
    if result.resumed:
        console.print(f"resumed: {result.resumed} of {len(job.models[0].specs)} leaves were there from a run that died")
    if result.anew:
        console.print(escape(f"begun anew, not from what a run that died left: {result.anew}"))
    for note in result.notes:
        console.print(f"note: {escape(note)}")
    console.print(escape(planned(job).summary()))
    if result.predicted and result.actual:
        console.print(f"predicted: {result.predicted.text()}\nactual:    {result.actual.text()}")
    if result.ledger:
        before, after = (sum(getattr(r, f"bits_{when}") for r in result.ledger) / 8 for when in ("before", "after"))
        console.print(
            f"weights: {size(before)} before, {size(after)} after ({before / max(after, 1):.2f} times smaller)"
        )
    if arguments.mesh is not None:
        console.print(escape(per_device(job, arguments.mesh)))
    report = "" if arguments.bare or arguments.mesh is not None else f" (open {arguments.out}/report.html)"
    console.print(f"done in {time.perf_counter() - began:.1f} s: [bold]{arguments.out}[/]{report}")
    return 0


def _plan(arguments: argparse.Namespace, console: Console) -> int:
    from wspace.app.execute import open_recipe, planned
    from wspace.app.forecast import forecast
    from wspace.app.mesh import per_device
    from wspace.app.records import PLAN
    from wspace.app.report import Table as Cells

    keep_pages()  # as a run does
    with tracked(console) as track:
        job = open_recipe(arguments.recipe, track, arguments.memory)
        table = planned(job)
        cost = forecast(job, table)
    show(console, Cells(PLAN, table.cells()), "Plan")
    console.print(escape(table.summary()))
    said = (
        " (seconds: an estimate from a small sample, of this machine with nothing else to do)" if cost.seconds else ""
    )
    console.print(f"a run: {cost.text()}{said}")
    if arguments.mesh is not None:
        console.print(escape(per_device(job, arguments.mesh)))
    return 0


def _convert(arguments: argparse.Namespace, console: Console) -> int:
    from wspace.io import OrbaxCheckpoint, copy_companions, write_folder, write_orbax

    source, folder, reads, kept = _convertible(arguments)
    to = arguments.to or ("safetensors" if isinstance(source, OrbaxCheckpoint | Adapted) else "orbax")
    if to == "peft":
        return _to_peft(arguments, console)
    if to == "orbax":
        whole = source if isinstance(source, Checkpoint) else source.tree()
        write_orbax(arguments.out, whole, overwrite=arguments.overwrite, inputs=reads)
    else:
        options: dict[str, Any] = {"shard_size": arguments.shard_size} if arguments.shard_size else {}
        with (
            tracked(console) as track,
            write_folder(
                arguments.out, source.specs, structure=source.structure, metadata=kept, overwrite=arguments.overwrite,
                inputs=reads, **options,
            ) as sink,
        ):  # fmt: skip
            tell = track("write")
            for n, name in enumerate(source.specs, start=1):
                sink[name] = source[name]
                tell(n, len(source.specs), name)
            if folder.is_dir():
                copy_companions(folder, sink.directory)
    total = sum(spec.nbytes for spec in source.specs.values())
    console.print(f"{len(source.specs)} leaves, {size(total)}, as {to}: [bold]{arguments.out}[/]")
    return 0


def _convertible(arguments: argparse.Namespace) -> tuple[Any, Path, list[Any], dict[str, str]]:
    """The source, the folder whose other files go through, what is read, and the metadata that stays."""
    adapts = is_adapter(arguments.source)
    if adapts and arguments.base is None:
        raise WspaceError(printable(f"{arguments.source} is a PEFT adapter: give the model it stands on, --base DIR"))
    if not adapts and arguments.base is not None and arguments.to != "peft":
        raise WspaceError(printable(f"--base is for a PEFT adapter, and {arguments.source} is none"))
    opened = open_checkpoint(arguments.base if adapts else arguments.source)
    kept = {k: v for k, v in opened.metadata.items() if k != "wspace"}
    if not adapts:
        return opened, Path(arguments.source), [opened], kept
    adapter, whole = AdapterFolder(arguments.source), Whole(opened)
    kept = {k: v for k, v in kept.items() if k != NODES}
    merged = Adapted(whole, adapter, merged=True)
    if nodes := [name for name, spec in merged.specs.items() if isinstance(spec, Implicit)]:
        raise WspaceError(f"the base holds quantized leaves beside the adapted ones: {listed(nodes, 3)}; use a recipe")
    return merged, Path(arguments.base), [opened, adapter], kept


def _to_peft(arguments: argparse.Namespace, console: Console) -> int:
    """The LoRA leaves of a checkpoint that a run wrote, as a PEFT folder."""
    from wspace.io import save_adapter

    if is_adapter(arguments.source):
        raise WspaceError(printable(f"{arguments.source} is a PEFT adapter already"))
    checkpoint = open_checkpoint(arguments.source)
    whole = Whole(checkpoint)
    nodes = {name: whole[name] for name, spec in whole.specs.items() if isinstance(spec, Implicit)}
    save_adapter(arguments.out, nodes, str(arguments.base or ""), overwrite=arguments.overwrite, inputs=[checkpoint])
    console.print(f"{len(nodes)} adapters, as peft: [bold]{arguments.out}[/]")
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from wspace.io import verify

    with tracked(console) as track:
        report = verify(arguments.folder, progress=track("verify"))
    console.print(f"{report.leaves} leaves ({size(report.bytes)}) in {report.files} files: every digest is right")
    for name in report.unlisted:
        console.print(f"note: {escape(printable(name))} is not in the manifest")
    return 0


def _inspect(arguments: argparse.Namespace, console: Console) -> int:
    source = open_checkpoint(arguments.path)
    leaves = Whole(source)
    table = grid("", "name", "dtype", "shape", "size", "mean", "std", "max |w|", "zeros")
    bad = count = 0
    for name in steps(console, "read", list(leaves)):
        leaf = leaves[name]
        kind, taken = str(leaf.dtype), source.specs[name].nbytes if name in source else leaf.stored_bits() / 8
        if name not in source:  # a node: what it stands for is shown, and what it takes
            kind = f"{getattr(leaf, 'format', type(leaf).__name__)}, {8 * taken / max(leaf.size, 1):.2f} bits"
            leaf = np.asarray(leaf.materialize())
        mean, std, top, zeros, sick = statistics(leaf)
        bad += bool(sick)
        count += leaf.size
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        table.add_row(escape(printable(name)), kind, shape, size(taken), mean, std, top, zeros)
    console.print(table)
    total = sum(spec.nbytes for spec in source.specs.values())
    warning = f", [bold red]{bad} with NaN or infinity[/]" if bad else ""
    console.print(f"{len(leaves)} leaves, {count:,} numbers, {size(total)}{warning}")
    return 0


def statistics(leaf: np.ndarray[Any, Any]) -> tuple[str, str, str, str, int]:
    """Mean, deviation, largest magnitude and share of zeros as text, and how many values are not finite."""
    if not leaf.size or leaf.dtype.kind in "bUSO":
        return "", "", "", "", 0
    x = leaf.astype(np.float64) if leaf.dtype.kind != "c" else np.abs(leaf)
    sick = int(np.sum(~np.isfinite(x)))
    with np.errstate(all="ignore"):
        return f"{x.mean():.3g}", f"{x.std():.3g}", f"{np.max(np.abs(x)):.3g}", f"{np.mean(x == 0):.1%}", sick


def _diff(arguments: argparse.Namespace, console: Console) -> int:
    from wspace.app.records import ledger_table
    from wspace.core.errors import TreeMismatch, listed
    from wspace.measure import compare

    a, b = open_checkpoint(arguments.first), open_checkpoint(arguments.second)
    only = [f"only in {path}: {listed(sorted(x.keys() - y.keys()))}" for path, x, y in
            ((arguments.first, a, b), (arguments.second, b, a)) if x.keys() - y.keys()]  # fmt: skip
    shapes = [
        f"{name} is {a.specs[name].shape} in {arguments.first} and {b.specs[name].shape} in {arguments.second}"
        for name in a if name in b and a.specs[name].shape != b.specs[name].shape
    ]  # fmt: skip
    same = [name for name in a if name in b and a.specs[name].shape == b.specs[name].shape]
    if not same:
        raise TreeMismatch(f"{arguments.first} and {arguments.second} share no leaf; {'; '.join(only)}")
    rows = [compare(name, a[name], b[name]) for name in steps(console, "compare", same)]
    changed = [row for row in rows if row.changed]
    if changed:
        show(console, ledger_table(changed), f"{arguments.first} against {arguments.second}", SHORT)
    console.print(f"{len(rows) - len(changed)} of {len(rows)} shared leaves have equal values")
    for line in (*only, *shapes):
        console.print(escape(printable(line)))
    return 1 if changed or only or shapes else 0


def _methods(arguments: argparse.Namespace, console: Console) -> int:
    methods, name = catalog(), arguments.name
    rooms = {m.partition(".")[0] for m in methods}
    alone = [m for m in methods if m.partition(".")[2] == name and name not in rooms]
    if name in methods or len(alone) == 1:
        name = name if name in methods else alone[0]
        method = methods[name]
        console.print(f"[bold]{name}[/]{escape(_signature(method))}\n\n{escape(method.doc)}")
        if method.differentiable:
            console.print(f"\nGradients: right through {', '.join(method.differentiable)}.")
        return 0
    if name is not None and name not in rooms:
        words = [*alone, *rooms] if alone else [*methods, *rooms, *(m.partition(".")[2] for m in methods)]
        raise WspaceError(printable(f"no method or room {name!r}.{nearest(name, words)}"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("method", "kind", "needs", "what it does"):
        table.add_column(head, no_wrap=head == "method")
    for found, method in methods.items():
        if name is None or found.startswith(f"{name}."):
            scope = method.sections.get("Scope", "").partition(" ")[0]
            kind = f"{scope} transform" if method.kind == "Transform" else method.kind
            kind = "optimizer" if kind == "GradientTransformation" else kind
            table.add_row(found, kind, escape(_needs(method)), escape(method.summary))
    console.print(table)
    console.print("wspace methods NAME shows one with its formula, arguments and paper")
    return 0


def _needs(method: Method) -> str:
    """The side trees a method needs: they stand in the line of its scope."""
    _, _, rest = method.sections.get("Scope", "").partition("Needs: ")
    needs = rest.partition(".")[0]
    return "" if needs == "nothing" else needs


def _signature(method: Method) -> str:
    return str(method.signature.replace(return_annotation=method.signature.empty))


def show(console: Console, table: Any, title: str, columns: Sequence[str] = ()) -> None:
    """A table of the report in the terminal; of many columns only those named."""
    kept = [i for i, head in enumerate(table.head) if not columns or head in columns]
    made = grid(title, *(table.head[i] for i in kept))
    for row in table.rows:
        made.add_row(*(escape(row[i]) for i in kept))
    console.print(made)


def grid(title: str, *head: str) -> Table:
    """A plain table: names left, numbers right, nothing wrapped."""
    made = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(head):
        made.add_column(name, justify="right" if i else "left", no_wrap=True, overflow="ellipsis")
    return made


def steps(console: Console, label: str, items: Collection[T]) -> Iterator[T]:
    """The items, with a bar."""
    with tracked(console) as track:
        tell = track(label)
        for n, item in enumerate(items, start=1):
            yield item
            tell(n, len(items), "")


@contextmanager
def tracked(console: Console) -> Iterator[Any]:
    """Gives `track(label) -> progress callback`: one bar a label."""
    columns: Sequence[Any] = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("[dim]{task.fields[leaf]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=console.quiet, transient=not console.is_terminal) as progress:

        def track(label: str) -> Any:
            task, began = progress.add_task(label, total=None, leaf="", amount=""), time.perf_counter()

            def tell(done: int, total: int, leaf: str) -> None:
                amount = f"{done}/{total}"
                if label == TRANSFORM:
                    seconds = max(time.perf_counter() - began, 1e-9)
                    amount = f"{size(done)} of {size(total)}, {size(done / seconds)}/s"
                shown = escape(leaf) if done < total else ""
                progress.update(task, completed=done, total=total, leaf=shown, amount=amount)

            return tell

        yield track


SHORT = ("path", "dtype", "max error", "relative", "cosine", "sign flips", "zeros")
COMMANDS = {
    "run": _run,
    "plan": _plan,
    "convert": _convert,
    "verify": _verify,
    "inspect": _inspect,
    "diff": _diff,
    "methods": _methods,
}
