"""Weight matching beside the published JAX code, where its time goes, and how long a large model's axes take to trace.

    python benchmarks/match.py                                   our side alone
    python benchmarks/match.py --rebasin ~/git-re-basin          and the published code, from your own checkout
    python benchmarks/match.py --width 256 --sizes 512 4096      smaller nets, other sizes

The published code is run as it is, in the same process, on the same nets; its own `utils` does not import on today's
jax, so the one function that it takes from there is given to it. Times are second runs (both sides are compiled).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import wspace as ws
from benchmarks.measured import write
from tests.trace.layers import drawn, rms_norm, tokens
from tests.trace.transformers import LLAMA, llama_block
from wspace.match.gains import Pair

Net = dict[str, jax.Array]


def net(sizes: tuple[int, ...], seed: int) -> Net:
    """A perceptron at initialization, with the published code's names."""
    rng = np.random.default_rng(seed)
    out: Net = {}
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        out[f"Dense_{k}/kernel"] = jnp.asarray(rng.standard_normal((n, m)) / np.sqrt(n), jnp.float32)
        out[f"Dense_{k}/bias"] = jnp.asarray(0.1 * rng.standard_normal(m), jnp.float32)
    return out


def rules(layers: int) -> dict[str, tuple[str | None, ...]]:
    """Which axis of which leaf is which hidden layer."""
    names = [None, *(f"P_{k}" for k in range(layers - 1)), None]
    kernels = {f"Dense_{k}/kernel": (names[k], names[k + 1]) for k in range(layers)}
    return kernels | {f"Dense_{k}/bias": (names[k + 1],) for k in range(layers)}


def published(path: Path) -> Any:
    """The checkout's weight_matching module."""
    given = types.ModuleType("utils")
    given.rngmix = lambda key, x: jax.random.fold_in(key, hash(x))  # type: ignore[attr-defined]
    sys.modules["utils"] = given
    spec = importlib.util.spec_from_file_location("published_rebasin", path / "src" / "weight_matching.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} has no src/weight_matching.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    start = time.perf_counter()
    out = fn()
    return time.perf_counter() - start, out


def side_by_side(width: int, seeds: int, peer: Any) -> dict[str, dict[str, float]]:
    """Time and objective <a, act(b, g)> of both, on a planted permutation and on two unrelated nets."""
    sizes = (784, width, width, width, 10)
    a = net(sizes, 0)
    axes = ws.trace.by_hand(rules(4), a)
    g = ws.match.random_element(axes, key=jax.random.key(5))
    cases = {"planted": ws.match.act(a, axes, ws.match.inverse(axes, g)), "unrelated": net(sizes, 1)}
    print(f"\nMLP 784-{width}x3-10, median of {seeds} keys; ratio = published / ours")
    print(
        f"{'':10} {'ours s':>8} {'objective':>10} {'publ. s':>8} {'objective':>10} {'ratio':>6} {'same objective':>15}"
    )
    rows: dict[str, dict[str, float]] = {}
    for name, b in cases.items():
        runs = [one_run(a, b, axes, seed, peer) for seed in range(seeds + 1)][1:]
        ours, value, theirs, their_value, reached = (float(np.median(x)) for x in zip(*runs, strict=True))
        rows[name] = {"seconds": ours, "objective": value}
        if peer is None:
            print(f"{name:10} {ours:8.2f} {value:10.2f}")
            continue
        rows[name] |= {"peer seconds": theirs, "peer objective": their_value}
        same = f"{theirs / reached:.1f}x" if np.isfinite(reached) else "not reached"
        print(f"{name:10} {ours:8.2f} {value:10.2f} {theirs:8.2f} {their_value:10.2f} {theirs / ours:6.1f} {same:>15}")
    return rows


def one_run(a: Net, b: Net, axes: Any, seed: int, peer: Any) -> tuple[float, float, float, float, float]:
    """(our time, our objective, their time, their objective, our time until at theirs)."""
    theirs, their_value = np.nan, -np.inf
    if peer is not None:
        spec = peer.permutation_spec_from_axes_to_perm(rules(4))
        key = jax.random.PRNGKey(seed)
        theirs, perm = timed(lambda: peer.weight_matching(key, spec, a, b, silent=True))
        their_value = ws.match.objective(a, b, axes, perm)
    marks: list[tuple[float, float]] = []
    start = time.perf_counter()
    g = ws.match.weight(
        a,
        b,
        axes,
        key=jax.random.key(seed),
        on_sweep=lambda _, value, __: marks.append((time.perf_counter() - start, value)),
    )
    ours = time.perf_counter() - start
    near = their_value - 1e-5 * abs(their_value)  # two sums of a million products
    reached = next((t for t, value in marks if value >= near), np.inf)
    return ours, ws.match.objective(a, b, axes, g), theirs, their_value, reached


def shares(sizes: list[int]) -> None:
    """One visit of the middle group of an n-n-n-n net: products and assignment."""
    print("\none group between two n x n kernels: seconds in products, in assignment, share of assignment")
    for n in sizes:
        a = net((n, n, n, n), 0)
        axes = ws.trace.by_hand(rules(3), a)
        g = ws.match.random_element(axes, key=jax.random.key(5))
        cases = {"planted": ws.match.act(a, axes, ws.match.inverse(axes, g)), "unrelated": net((n, n, n, n), 1)}
        for name, b in cases.items():
            pair = Pair(axes, {(path,): [(x, b[path])] for path, x in a.items()})
            state = {k: np.asarray(p) for k, p in (g if name == "planted" else ws.match.identity(axes)).items()}
            pair.gains("P_1", state)
            products, gains = timed(lambda: pair.gains("P_1", state))  # noqa: B023
            assignment, _ = timed(lambda: ws.match.solve(gains))  # noqa: B023
            share = assignment / (products + assignment)
            print(f"n={n:5} {name:10} {products:8.3f} {assignment:8.3f} {share:6.0%}")


def tracing(layers: int) -> None:
    """Seconds to find the groups of a Llama-like model; the widths don't matter, only how many operations there are."""
    print(f"\naxes of a Llama-like model with {layers} layers")
    ends = {"embed": (11, 8), "norm": (8,), "head": (8, 11)}

    def loop(p: Any, ids: Any) -> Any:
        x = p["embed"][ids]
        for layer in p["layers"]:
            x = llama_block(layer, x)
        return rms_norm(p["norm"], x) @ p["head"]

    def scan(p: Any, ids: Any) -> Any:
        x, _ = jax.lax.scan(lambda x, layer: (llama_block(layer, x), None), p["embed"][ids], p["layers"])
        return rms_norm(p["norm"], x) @ p["head"]

    forms = {
        "scan": (scan, drawn({**ends, "layers": {k: (layers, *s) for k, s in LLAMA.items()}})),
        "loop": (loop, drawn({**ends, "layers": [LLAMA] * layers})),
    }
    for name, (apply, params) in forms.items():
        seconds, axes = timed(lambda: ws.trace.axes(apply, params, tokens(6)))  # noqa: B023
        print(f"{name}: {seconds:6.2f} s, {len(axes.groups)} groups")


def main() -> None:
    """Read the flags and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rebasin", type=Path, help="your checkout of the published JAX code; left out if absent")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 2048], help="n of the time shares")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].platform}, {len(jax.devices())} device(s)")
    rows = side_by_side(given.width, given.seeds, published(given.rebasin) if given.rebasin else None)
    write(given.json, "match", {"width": given.width, "seeds": given.seeds, "rows": rows})
    shares(given.sizes)
    tracing(given.layers)


if __name__ == "__main__":
    main()
