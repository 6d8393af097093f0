"""The k-th largest magnitude: ours on the host and under jit, beside NumPy's partition and jax's sort and top_k.

    python benchmarks/quantile.py                     11.5 and 65.5 million entries, float32 and bfloat16
    python benchmarks/quantile.py --sizes 11.5        fewer

All find the same number, which is checked. Half of the entries are above it. Times are the best of some runs in turns,
after one that compiles. The bound is one read of the leaf at the bandwidth of a sum over it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measured import table, write
from wspace.core.blocks import BLOCK
from wspace.core.entries import Entries
from wspace.stats import kth_magnitude
from wspace.stats.host_ranks import kth_largest

SLOW = ("jnp.sort", "lax.top_k")  # seconds to minutes
HEAD = ("leaf", *(names := ("host", "np.partition", "jit", *SLOW, "bound")), "partition / host", "sort / jit")


def ways(leaf: np.ndarray[Any, Any], k: int) -> Mapping[str, Callable[[], float]]:
    """Each finds the k-th largest magnitude. What it works on is made beforehand."""
    words = leaf.view({2: np.uint16, 4: np.uint32}[leaf.itemsize])
    device = jnp.asarray(leaf)
    sort = jax.jit(lambda x: jnp.sort(jnp.abs(x))[x.size - k].astype(jnp.float32))
    top = jax.jit(lambda x: jax.lax.top_k(jnp.abs(x).astype(jnp.float32), k)[0][-1])

    most = words.dtype.type(np.iinfo(words.dtype).max >> 1)
    codes = Entries(
        words.size, words.dtype, range(0, words.size, BLOCK), lambda start: words[start : start + BLOCK] & most,
        lambda k: words[::k] & most,
    )  # fmt: skip

    def host() -> float:
        look = kth_largest(codes, [k])
        while True:
            try:
                look.send(None)
            except StopIteration as end:
                return float(np.asarray(end.value[k].code).view(leaf.dtype))
            for stretch in codes:
                look.send(stretch)

    def partition() -> float:
        codes = words & most
        return float(np.partition(codes, leaf.size - k)[leaf.size - k].view(leaf.dtype))

    def bound() -> float:
        words.view(np.uint64).max()
        return float("nan")

    found = (host, partition, lambda: float(kth_magnitude(device, k)), lambda: float(sort(device)))
    return dict(zip(names, (*found, lambda: float(top(device)), bound), strict=True))


def measure(leaf: np.ndarray[Any, Any], rounds: int) -> dict[str, float]:
    """Milliseconds of each way."""
    k = leaf.size // 2
    each, best, values = ways(leaf, k), dict[str, float](), dict[str, float]()
    for turn in range(rounds + 1):
        for name, way in each.items():
            if name in SLOW and turn > 1:
                continue
            start = time.perf_counter()
            values[name] = way()
            if turn:
                best[name] = min(best.get(name, np.inf), 1e3 * (time.perf_counter() - start))
    if len({value for value in values.values() if not np.isnan(value)}) != 1:
        raise SystemExit(f"they differ: {values}")
    return best


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[11.5, 65.5], help="million entries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for size in given.sizes:
        normal = np.random.default_rng(0).standard_normal(int(size * 1e6) // 4 * 4, np.float32)
        for dtype in (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)):
            rows[f"{size:g} M {dtype.name}"] = measure(normal.astype(dtype), given.rounds)
    shown = [
        [leaf, *(f"{r[name]:.0f}" for name in names), *(f"{a:.1f}" for a in ratios(r))] for leaf, r in rows.items()
    ]
    print(table(HEAD, shown))
    write(given.json, "quantile", {"rows": rows})


def ratios(row: Mapping[str, float]) -> tuple[float, float]:
    """Of NumPy's partition to ours on the host, of jax's sort to ours under jit."""
    return row["np.partition"] / row["host"], row["jnp.sort"] / row["jit"]


if __name__ == "__main__":
    main()
