"""Deleted, a run could take more memory than it was given, or change its result to fit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

import wspace as ws
from tests.core.parts import unit
from wspace.app.execute import open_recipe
from wspace.app.load import load
from wspace.core import blocks, buffers, memory, run, sweep
from wspace.core.errors import TooLarge
from wspace.core.plan import tabulate
from wspace.core.run import prepare, transfer
from wspace.io import SafetensorsFolder, open_orbax, verify, write_folder, write_tree

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes nothing, blocks of 5 entries, parts of at most 12."""
    monkeypatch.setattr(blocks, "BLOCK", 5)
    monkeypatch.setattr(sweep, "ALIGNED", 1)  # a block is longer than what lies before the first aligned entry
    monkeypatch.setattr(memory, "BLOCK", 5)
    monkeypatch.setattr(memory, "PART", 12)
    monkeypatch.setattr(memory, "SCANNING", 0)
    monkeypatch.setattr(run, "RESERVE", 0)
    monkeypatch.setattr(run, "anonymous", lambda: 0)


def tree() -> dict[str, Any]:
    shapes = {"a": (9, 4), "b": (1, 29), "c": (41,), "d": (2,), "e": (3, 2, 5)}
    return {name: RNG.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


@pytest.mark.usefixtures("small")
def test_leaves_in_parts_are_the_whole_leaves_to_the_last_bit(tmp_path: Path) -> None:
    for name in ("base", "one", "two"):
        write_tree(tmp_path / name, tree())
    base, one, two = (SafetensorsFolder(tmp_path / name) for name in ("base", "one", "two"))
    t = ws.chain(ws.merge.task_arithmetic([0.3, 0.7]), ws.leafwise("by size", lambda x, ctx: x[0] * x[0].size + x[0]))
    ready = prepare(t, [one, two], sides={"base": base}, memory=48)
    assert {path[0]: n for path, n in ready.cuts.items()} == {"a": 4, "b": 5, "c": 7, "e": 3}
    whole: dict[str, Any] = {}
    ws.stream(t, [one, two], whole, base=base)
    with write_folder(tmp_path / "out", one.specs) as sink:
        ws.stream(t, [one, two], sink, base=base, memory=48)  # type: ignore[arg-type]
    verify(tmp_path / "out")
    for name, leaf in SafetensorsFolder(tmp_path / "out").items():
        np.testing.assert_array_equal(leaf, whole[name], err_msg=name)
    with pytest.raises(TooLarge, match=r"a .9, 4. only fits in parts, which this sink can't store"):
        ws.stream(t, [one, two], {}, base=base, memory=48)


M = ws.merge
IN_PARTS = {  # and how often a leaf is read before: for sums, for a sample of magnitudes and to count them
    "ties": (M.ties(0.4), 2), "ties with its norm": (M.ties(0.4, rescale=True), 3), "dare": (M.dare(0.5), 0),
    "dare with its norm": (M.dare(0.5, rescale="l1"), 1), "breadcrumbs": (M.breadcrumbs(0.5, 0.1), 2),
    "model_stock": (ws.average.model_stock(), 1), "slerp": (ws.around_base(ws.interpolate.slerp(0.3)), 1),
    "multislerp": (ws.around_base(ws.interpolate.multislerp()), 3),
    "nuslerp": (ws.around_base(ws.interpolate.nuslerp()), 2),
    "geometric_median": (ws.around_base(M.geometric_median()), 1), "delta_weighted": (M.delta_weighted(), 1),
    "signature": (M.robust_weight_signature(), 1), "ramplus_tl": (M.ramplus_tl(epsilon=0.5), 1),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", IN_PARTS)
def test_norms_thresholds_and_masks_of_leaves_in_parts(name: str, tmp_path: Path) -> None:
    (t, rounds), key = IN_PARTS[name], jax.random.key(1)
    for source in ("base", "one", "two"):
        ties = RNG.integers(-3, 4, (50, 6)).astype(np.float32)  # a threshold falls among equal ones
        write_tree(tmp_path / source, {"a": RNG.standard_normal((1, 300)).astype(np.float32), "b": ties})
    base, one, two = (SafetensorsFolder(tmp_path / source) for source in ("base", "one", "two"))
    ready = prepare(t, [one, two], sides={"base": base}, key=key, memory=1100)
    assert len(ready.cuts) == 2 and {ready.costs[path].rounds for path in ready.cuts} == {rounds}
    whole: dict[str, Any] = {}
    ws.stream(t, [one, two], whole, base=base, key=key)
    with write_folder(tmp_path / "out", one.specs) as sink:
        transfer(ready, sink)  # type: ignore[arg-type]
    told, read = tabulate(ready).bytes_read, sum(ready.work.read.values())
    assert told == (rounds + 1) * 3 * 600 * 4
    ranks = 8 if rounds > 1 else 0  # at most two of a model's leaf; where equal ones lie is looked up
    assert told <= read <= told + ranks * 2 * 3 * 12 * 4
    for leaf, found in SafetensorsFolder(tmp_path / "out").items():
        np.testing.assert_array_equal(found, whole[leaf])


class Parts(dict[str, Any]):
    """A sink that takes results as they are computed."""

    streams = True

    def part(self, name: str, index: tuple[slice, ...], leaf: Any) -> None:
        self.setdefault(name, []).append((index, leaf))


@pytest.mark.usefixtures("small")
def test_a_sink_that_streams_gets_large_leaves_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PORTION", 12)
    base, one, two = (Host(tree()) for _ in range(3))
    for t in (M.ties(0.4, rescale=True), M.dare(0.5, rescale="l1")):
        sink, whole, key = Parts(), dict[str, Any](), jax.random.key(1)
        for out in (sink, whole):
            ws.stream(t, [one, two], out, base=base, key=key)
        cut = {name: len(parts) for name, parts in sink.items() if isinstance(parts, list)}
        assert cut == {"a": 3, "b": 3, "c": 4, "e": 3}
        for name, parts in sink.items():
            found = np.zeros_like(whole[name])
            for index, part in parts if isinstance(parts, list) else [((), parts)]:
                found[index] = part
            np.testing.assert_array_equal(found, whole[name])


class Unread(Mapping[str, Any]):
    """A checkpoint that can give parts, and fails when it is read."""

    specs = {"small": ((8,), "float32"), "large": ((64, 32), "float32"), "larger": ((64, 64), "float32")}

    def parts(self, name: str) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


@pytest.mark.usefixtures("small")
def test_what_does_not_fit_is_refused_before_any_work() -> None:
    wanted = (
        r"^larger .64, 64. float32 takes [0-9.]+ KiB in .*, which needs the whole leaf, and 1 more leaves don't fit: "
    )
    for t in (ws.prune.nm(2, 4), ws.chain(unit(), ws.prune.magnitude(0.5)), ws.quant.rtn(8)):
        with pytest.raises(TooLarge, match=wanted) as error:
            ws.stream(ws.on("large", t), [Unread()], {}, memory="4KiB")
        given = str(error.value).partition("memory='")[2].partition("'")[0]
        assert "large" in str(prepare(ws.on("large", t), [Unread()], memory=given).costs)  # it is enough, as it says
    with pytest.raises(ws.WspaceError, match="'4 apples' is not a size"):
        ws.stream(unit(), [Unread()], {}, memory="4 apples")


def traced(run: Any) -> int:
    """Bytes of NumPy's arrays at the peak."""
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", ["uniform_soup", "task_arithmetic", "ties", "magnitude", "chain"])
def test_what_a_leaf_holds_is_known_beforehand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 2**14)
    trees = [{"w": RNG.standard_normal((2048, 2048)).astype(ml_dtypes.bfloat16)} for _ in range(3)]
    ties = ws.merge.ties(density=0.3)
    t, n, sides = {
        "uniform_soup": (ws.average.uniform_soup(), 3, {}),
        "task_arithmetic": (ws.merge.task_arithmetic([0.3, 0.4]), 2, {"base": trees[2]}),
        "ties": (ties, 2, {"base": trees[2]}),
        "magnitude": (ws.prune.magnitude(0.5), 1, {}),
        "chain": (ws.chain(ties, ws.prune.magnitude(0.5)), 2, {"base": trees[2]}),
    }[name]
    lazy = [Host(tree) for tree in trees[:n]]
    sides = {name: Host(side) for name, side in sides.items()}
    told = prepare(t, lazy, sides=sides, weigh=True).costs[("w",)].whole
    with buffers.keeping(0):  # else the second run takes what the first one left
        ws.stream(t, lazy, {}, **sides)
        found = traced(lambda: ws.stream(t, lazy, {}, **sides))
    assert told <= found * 1.05 and found <= told * 1.15 + 2**22, (told, found)


class Host(dict[str, Any]):
    """Leaves on the host, as a checkpoint gives them."""

    @property
    def specs(self) -> Any:
        return {name: (x.shape, x.dtype) for name, x in self.items()}


def test_programs_without_a_twin_are_weighed_by_what_lives_at_once() -> None:
    w = jax.ShapeDtypeStruct((256, 256), "float32")
    n = math.prod(w.shape) * 4
    assert memory.weighed(lambda w: w @ w, w).whole == 2 * n
    assert memory.weighed(lambda w: ((w @ w) @ w) @ w, w).whole == 3 * n  # its input, one and the next
    assert memory.weighed(jax.jit(lambda w: (abs(w) + 1).sum()), w, lift=True).lift < n + 64  # one program, no array
    assert memory.weighed(jax.jit(lambda w: (w + 1) @ (w + 2)), w).whole == 4 * n


def peak_of(command: list[str], cwd: Path) -> int:
    """Anonymous bytes of a process at its peak; it must end well."""
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    child = subprocess.Popen(command, cwd=cwd, env={**os.environ, "PYTHONPATH": path})
    peak = 0
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))])
        time.sleep(0.002)
    assert child.returncode == 0
    return peak


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of a process")
def test_a_run_stays_within_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf of 64 MiB goes through a process that takes about 105 MiB with all its libraries, 60 more with Orbax's."""
    leaf = np.resize(RNG.standard_normal(2**20).astype(ml_dtypes.bfloat16), (2**15, 2**10))
    for name in ("base", "a"):
        write_tree(tmp_path / name, {"w": leaf, "v": leaf[:3]})
    recipe = (
        "sources: {base: ./base, a: ./a}\nmodels: [a]\nbase: base\nsteps: [merge.dare: {density: 0.5, rescale: l1}]\n"
    )
    (tmp_path / "recipe.yml").write_text(f"{recipe}output: {{formats: [safetensors, orbax]}}\n")
    command = [sys.executable, "-m", "wspace.app.cli", "run", "recipe.yml", "out", "--quiet", "--bare"]
    peak = peak_of([*command, "--memory", "300MiB"], tmp_path)
    assert peak <= 300 * 2**20, f"{peak / 2**20:.0f} MiB"
    for out in (SafetensorsFolder(tmp_path / "out"), open_orbax(tmp_path / "out" / "orbax")):
        np.testing.assert_array_equal(out["w"], leaf)  # there is nothing to drop
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TooLarge, match=r"writing Orbax takes 128.0 MiB: 64.0 MiB are too few"):
        open_recipe(load(tmp_path / "recipe.yml"), lambda label: lambda *told: None, 2**26).ready  # noqa: B018
