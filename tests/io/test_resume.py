"""Deleted, a run that was killed could begin anew, or go on from bytes that are not what they should be."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.io.test_crash import crashed, python
from wspace.core.errors import FormatError, WspaceError
from wspace.io import FolderSink, open_checkpoint, verify, write_folder
from wspace.io.journal import journal_of
from wspace.io.stage import MANIFEST

NAMES = [f"l{i:02}" for i in range(8)]
SPECS = {name: ((50,), np.float32) for name in NAMES}


def value(name: str) -> Any:
    return np.random.default_rng(NAMES.index(name)).standard_normal(50).astype(np.float32)


def stopped(path: Path, count: int, key: str = "k") -> Path:
    """The hidden folder of a write that ended after some leaves as if the process had been killed."""
    context = write_folder(path, SPECS, shard_size=500, resume=key)
    sink = context.__enter__()
    for name in NAMES[:count]:
        sink[name] = value(name)
    (sink.directory / "report.html").write_text("half")
    away = path.parent / "away"
    sink.directory.rename(away)
    journal_of(sink.directory).rename(journal_of(away))
    context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    hidden = path.with_name(f".{path.name}.wspace-tmp-1-dead")
    away.rename(hidden)
    journal_of(away).rename(journal_of(hidden))
    return hidden


def written(path: Path, key: str | None = "k") -> list[str]:
    """Write it; the leaves that had to be written."""
    with write_folder(path, SPECS, shard_size=500, resume=key) as sink:
        todo = [name for name in NAMES if name not in sink.done]
        for name in todo:
            sink[name] = value(name)
    verify(path)
    assert [entry for entry in os.listdir(path.parent) if "wspace" in entry] == []
    return todo


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_whole_leaves_are_taken_over_and_the_output_is_that_of_one_run(tmp_path: Path) -> None:
    assert written(tmp_path / "once", None) == NAMES
    hidden = stopped(tmp_path / "out", 5)
    with pytest.raises(FormatError, match="not complete"):
        open_checkpoint(hidden)
    with pytest.raises(FormatError, match="no such file or folder"):
        open_checkpoint(tmp_path / "out")
    assert written(tmp_path / "out") == NAMES[5:]
    assert files(tmp_path / "out") == files(tmp_path / "once")
    assert MANIFEST in files(tmp_path / "out")


def flipped(hidden: Path) -> None:
    file = sorted(hidden.glob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def no_header(hidden: Path) -> None:
    file = sorted(hidden.glob("*.safetensors"))[0]
    file.write_bytes(b"\1" + file.read_bytes()[1:])


def cut(hidden: Path) -> None:
    file = sorted(hidden.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-4])


def torn(hidden: Path) -> None:
    journal = journal_of(hidden)
    journal.write_bytes(journal.read_bytes()[:-9])


def lying(hidden: Path) -> None:
    with journal_of(hidden).open("a") as journal:
        journal.write(json.dumps({"leaf": NAMES[7], "sha256": "0" * 64}) + "\n" + json.dumps({"leaf": "x"}) + "\n")


@pytest.mark.parametrize(
    ("damage", "again"),
    [(flipped, [1]), (no_header, [0, 1]), (cut, [1]), (torn, [4]), (lying, [])],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_damaged_is_written_again(tmp_path: Path, damage: Callable[[Path], None], again: list[int]) -> None:
    damage(stopped(tmp_path / "out", 5))
    todo = written(tmp_path / "out")
    assert todo == [NAMES[i] for i in (*again, 5, 6, 7)]
    assert all(np.array_equal(open_checkpoint(tmp_path / "out")[name], value(name)) for name in NAMES)


@pytest.mark.parametrize("key", [None, "another"])
def test_another_run_begins_anew(tmp_path: Path, key: str | None) -> None:
    stopped(tmp_path / "out", 5)
    assert written(tmp_path / "out", key) == NAMES


def test_other_shapes_under_one_key_begin_anew(tmp_path: Path) -> None:
    stopped(tmp_path / "out", 5)
    with write_folder(tmp_path / "out", {"l00": ((50,), np.float32)}, resume="k") as sink:
        assert not sink.done
        sink["l00"] = value("l00")


def test_an_error_leaves_nothing_to_resume(tmp_path: Path) -> None:
    def fail(sink: FolderSink) -> None:
        sink[NAMES[0]] = value(NAMES[0])
        raise WspaceError("no")

    with pytest.raises(WspaceError, match="no"), write_folder(tmp_path / "out", SPECS, resume="k") as sink:
        fail(sink)
    assert os.listdir(tmp_path) == []


def test_parts_of_a_leaf_that_was_not_whole_are_written_again(tmp_path: Path) -> None:
    specs = {"w": ((4, 2), np.float32)}
    w = np.arange(8, dtype=np.float32).reshape(4, 2)
    for _ in range(2):
        context = write_folder(tmp_path / "out", specs, resume="k")
        sink = context.__enter__()
        assert not sink.done
        sink.part("w", (slice(0, 3),), w[:3])
        sink.directory.rename(tmp_path / "away")
        journal_of(sink.directory).rename(tmp_path / "away.journal")
        context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        (tmp_path / "away").rename(tmp_path / ".out.wspace-tmp-1-dead")
        (tmp_path / "away.journal").rename(tmp_path / ".out.wspace-tmp-1-dead.journal")
    with write_folder(tmp_path / "out", specs, resume="k") as sink:
        sink.part("w", (slice(0, 3),), w[:3])
        sink.part("w", (slice(3, 4),), w[3:])
    verify(tmp_path / "out")
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "out")["w"], w)


def test_killed_at_every_call_and_resumed(tmp_path: Path) -> None:
    found = crashed(tmp_path, "resume")
    assert found["points"] > 20 and found["absent"] > 15 and found["taken_over"] > 5


WRITER = """
import sys, time, numpy as np
from wspace.io import write_folder
names = [f"l{i}" for i in range(60)]
specs = {n: ((1000,), "float64") for n in names}
with write_folder(sys.argv[1], specs, overwrite=True, shard_size="80KB", resume="k") as sink:
    print(len(sink.done), flush=True)
    for i, n in enumerate(names):
        if n not in sink.done:
            sink[n] = np.random.default_rng(i).random(1000)
            time.sleep(0.002)
"""


def test_killed_at_random_times_until_it_is_done(tmp_path: Path) -> None:
    once, path = tmp_path / "once" / "out", tmp_path / "out"
    python("-c", WRITER, once).communicate()
    draw, done, kills = random.Random(0), [0], 0
    while not path.exists():
        child = python("-c", WRITER, path)
        assert child.stdout is not None
        done.append(int(child.stdout.readline()))
        time.sleep(draw.uniform(0.01, 0.06))
        kills += child.poll() is None
        child.kill()
        child.communicate()
    assert kills > 1 and done == sorted(done) and done[-1] > 0  # nothing is lost from kill to kill
    assert files(path) == files(once) and verify(path).leaves == 60
    with write_folder(path, {}, overwrite=True):  # killed after the swap, the last one left its lock and journal
        pass
    assert sorted(os.listdir(tmp_path)) == ["once", "out"]
