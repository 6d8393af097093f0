"""Make README's table of speed from benchmarks/results.json, which `make bench` writes.

python benchmarks/readme.py            writes the part of README.md between the two marks
python benchmarks/readme.py --check    exit code 1 if it is not what the results give
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START, END = "<!-- made by benchmarks/readme.py from benchmarks/results.json -->", "<!-- end -->"


def section(results: Mapping[str, Any]) -> str:
    """Markdown of all that was measured."""
    parts = [PARTS[name](found) for name, found in results.items() if name in PARTS]
    return "\n\n".join(parts)


def merge(found: Mapping[str, Any]) -> str:
    """Merging folders beside mergekit."""
    rows = []
    for method, row in found["rows"].items():
        ours, full, theirs = (row["sides"].get(name) for name in ("wspace", "full", "mergekit"))
        cells = [method, f"{ours['cpu']:.1f}", f"{full['cpu']:.1f}", f"{ours['anonymous'] / 2**20:.0f}"]
        if theirs:
            cells += [f"{theirs['cpu']:.1f}", f"{theirs['anonymous'] / 2**20:.0f}"]
            cells += [f"{theirs['cpu'] / ours['cpu']:.1f}", f"{theirs['wall'] / ours['wall']:.1f}"]
        rows.append([*cells, *[""] * (8 - len(cells))])
    head = (
        "method", "`wspace run --bare`, CPU s", "`wspace run`, CPU s", "MiB", "mergekit, CPU s", "MiB", "CPU ratio",
        "wall ratio",
    )  # fmt: skip
    what = (
        f"A Llama-shaped base and three fine-tunes of {found['parameters'] / 1e9:.2f} billion parameters, bf16, "
        "merged from folder to folder, start-up included: CPU seconds (user + system), peak of anonymous memory; "
        "ratio = mergekit / `--bare`. `wspace run` writes a ledger, a report and a record of the inputs besides. "
        f"{_machine(found)}"
    )
    return f"{what}\n\n{_table(head, rows)}"


def match(found: Mapping[str, Any]) -> str:
    """Weight matching beside the published JAX code."""
    head = ("pair of nets", "`match.weight`, s", "objective", "git-re-basin, s", "objective", "ratio")
    rows = [
        [name, f"{r['seconds']:.2f}", f"{r['objective']:.1f}"]
        + ([f"{r['peer seconds']:.2f}", f"{r['peer objective']:.1f}", f"{r['peer seconds'] / r['seconds']:.1f}"]
           if "peer seconds" in r else ["", "", ""])
        for name, r in found["rows"].items()
    ]  # fmt: skip
    what = f"Matching two perceptrons 784-{found['width']}x3-10, median of {found['seeds']} keys. {_machine(found)}"
    return f"{what}\n\n{_table(head, rows)}"


def quant(found: Mapping[str, Any]) -> str:
    """Layer solvers beside the published torch codes."""
    rows = []
    for job, r in found["rows"].items():
        theirs = [f"{r['peer cpu']:.2f}", f"{r['peer cpu'] / r['cpu']:.1f}"] if r["peer cpu"] is not None else ["", ""]
        rows.append([job, f"{r['cpu']:.2f}", f"{r['compile cpu']:.2f}", *theirs])
    inputs, outputs = found["layer"]
    what = (
        f"A layer of {inputs} inputs and {outputs} outputs, {found['tokens']} correlated tokens, int4, groups of 128: "
        f"CPU seconds, compilation apart, beside the published torch codes. {_machine(found)}"
    )
    return f"{what}\n\n{_table(('job', 'ours, CPU s', 'compilation', 'torch, CPU s', 'ratio'), rows)}"


def quantile(found: Mapping[str, Any]) -> str:
    """Order statistics beside a partition and sorts."""
    ways = ("host", "np.partition", "jit", "jnp.sort", "lax.top_k", "bound")
    rows = [[leaf, *(f"{r[way]:.0f}" for way in ways)] for leaf, r in found["rows"].items()]
    what = (
        "The median magnitude of a leaf, milliseconds: ours for a leaf on the host, NumPy's partition, ours under jit, "
        f"jax's sort and top_k; the bound is one read of the leaf. {_machine(found)}"
    )
    return f"{what}\n\n{_table(('leaf', *ways), rows)}"


def _machine(found: Mapping[str, Any]) -> str:
    m = found["machine"]
    busy = f", shared: load {m['load']} on {m['cores']} cores" if m["load"] > m["cores"] else ""
    return f"{m['cpu']}, {m['cores']} cores, jax {m['jax']}, {m['date']}{busy}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, line, *rows))


PARTS = {"merge": merge, "match": match, "quant": quant, "quantile": quantile}


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}\n\n{section(json.loads((HERE / 'results.json').read_text()))}\n\n{END}{after}"
    if given.check:
        return int(made != text)
    readme.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
