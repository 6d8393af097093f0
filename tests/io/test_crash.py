"""Deleted, a killed process could leave half a checkpoint, or neither the old one nor the new one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wspace.core.errors import FormatError, WspaceError
from wspace.io import open_checkpoint, verify, write_tree

ROOT = Path(__file__).parents[2]


def python(*args: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *map(str, args)], env=environment, stdin=pipe, stdout=pipe, text=True)


def crashed(folder: Path, how: str) -> dict[str, int]:
    child = python(ROOT / "tests/io/crash.py", folder, how)
    out, _ = child.communicate(timeout=100)
    assert child.returncode == 0
    return dict(json.loads(out))


def test_killed_at_every_call_of_a_first_write(tmp_path: Path) -> None:
    found = crashed(tmp_path, "new")
    assert found["points"] > 15 and found["absent"] > 15
    assert found["new"] >= 1 and found["old"] == 0


def test_killed_at_every_call_while_overwriting(tmp_path: Path) -> None:
    found = crashed(tmp_path, "overwrite")
    assert found["points"] > 20 and found["absent"] == 0
    assert found["old"] > 15 and found["new"] >= 1
    assert found["put_back"] >= 1  # a kill between the two renames was among them


WRITER = """
import sys, numpy as np
from wspace.io import write_folder
names = [f"l{i}" for i in range(40)]
print("begun", flush=True)
while True:
    with write_folder(sys.argv[1], {n: ((1000,), "float64") for n in names}, overwrite=True, shard_size="80KB") as sink:
        value = np.random.default_rng().random()
        for n in names:
            sink[n] = np.full(1000, value)
"""


def test_killed_at_random_times(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "out"
    write_tree(path, {f"l{i}": np.zeros(1000) for i in range(40)})
    for _ in range(6):
        child = python("-c", WRITER, path)
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        time.sleep(draw.uniform(0.0, 0.25))
        child.kill()
        child.communicate()
        source = open_checkpoint(path)
        verify(path)
        assert len({float(v) for name in source for v in source[name]}) == 1
    write_tree(path, {"done": np.ones(1)}, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


HOLDER = """
import sys, numpy as np
from wspace.io import write_folder
with write_folder(sys.argv[1], {"w": ((), "int64")}) as sink:
    sink["w"] = np.int64(1)
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    child = python("-c", HOLDER, path)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def test_two_processes_cannot_write_one_output(tmp_path: Path) -> None:
    path = tmp_path / "out"
    first = holder(path)
    with pytest.raises(WspaceError, match=f"out is being written by process {first.pid}"):
        write_tree(path, {"w": np.zeros(1)}, overwrite=True)
    with pytest.raises(FormatError, match="no such file or folder"):
        open_checkpoint(path)
    hidden = next(entry for entry in tmp_path.iterdir() if "wspace-tmp" in entry.name)
    with pytest.raises(FormatError, match="not complete"):
        open_checkpoint(hidden)
    first.communicate("go\n")
    assert first.returncode == 0 and int(open_checkpoint(path)["w"]) == 1
    assert os.listdir(tmp_path) == ["out"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "out"
    first = holder(path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert len(os.listdir(tmp_path)) == 2  # its lock and its hidden folder
    write_tree(path, {"w": np.full(1, 2)})
    assert open_checkpoint(path)["w"].tolist() == [2] and os.listdir(tmp_path) == ["out"]


RACER = """
import sys, numpy as np
from wspace.core.errors import WspaceError
from wspace.io import write_tree
for _ in range(15):
    value = np.random.default_rng().random()
    try:
        write_tree(sys.argv[1], {f"l{i}": np.full(1000, value) for i in range(40)}, overwrite=True)
    except WspaceError as error:
        print(error)
"""


def test_writers_that_race_leave_one_of_them_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_tree(path, {f"l{i}": np.zeros(1000) for i in range(40)})
    children = [python("-c", RACER, path) for _ in range(2)]
    seen = 0
    while any(child.poll() is None for child in children):
        try:
            source = open_checkpoint(path)
            assert len({float(v) for name in source for v in source[name]}) == 1
            seen += 1
        except WspaceError:  # it was being replaced at that moment, and the error says so
            pass
    for child in children:
        out, _ = child.communicate()
        assert child.returncode == 0
        assert all("is being written by" in line for line in out.splitlines())
    verify(path)
    assert seen and os.listdir(tmp_path) == ["out"]
