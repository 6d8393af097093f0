"""Deleted, many processes could write other numbers than one, hang when one dies, or leave half an output."""

from __future__ import annotations

import json
import os
import runpy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wspace.core.errors import FormatError
from wspace.io import open_checkpoint, verify, write_tree

ROOT = Path(__file__).parents[2]
JOBS: dict[str, Any] = runpy.run_path(str(ROOT / "configs/pod/jobs.py"))
PROCESSES = 2


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The jobs, a failed save and a killed one, by processes that are started once; the same jobs by this one."""
    folder = tmp_path_factory.mktemp("pod")
    JOBS["inputs"](folder / "in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'kernels'}")
        codes = JOBS["loopback"]([str(ROOT / "tests/app/pod.py"), str(folder)], PROCESSES)
    JOBS["run"](folder / "in", folder / "one", None, orbax=False)
    return folder, codes


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"said-{k}.json").read_text()) for k in range(PROCESSES)]


@pytest.mark.parametrize("name", ["merged", "pruned"])
def test_merge_and_global_prune_equal_one_process_to_the_last_bit(ran: tuple[Path, list[int]], name: str) -> None:
    found, wanted = (open_checkpoint(ran[0] / where / name) for where in ("out", "one"))
    assert list(found) == list(wanted) and len(found) >= 5
    for leaf in wanted:
        assert found[leaf].tobytes() == wanted[leaf].tobytes(), leaf
    verify(ran[0] / "out" / name)
    for file in sorted((ran[0] / "one" / name).iterdir()):
        assert (ran[0] / "out" / name / file.name).read_bytes() == file.read_bytes()


def test_calibrated_gptq_equals_one_process(ran: tuple[Path, list[int]]) -> None:
    found, wanted, start = (open_checkpoint(ran[0] / where) for where in ("out/gptq", "one/gptq", "in/a"))
    for leaf in wanted:
        np.testing.assert_allclose(found[leaf], wanted[leaf], rtol=1e-5, atol=1e-6, err_msg=leaf)
    assert not np.allclose(wanted["up.kernel"], start["up.kernel"], atol=1e-3)


def test_each_process_reads_its_own_bytes(ran: tuple[Path, list[int]]) -> None:
    folder, _ = ran
    assert [s["devices"] for s in said(folder)] == [2 * PROCESSES] * PROCESSES
    for name in ("up.kernel", "layers.kernel", "down.kernel"):
        nbytes = open_checkpoint(folder / "in/base").specs[name].nbytes
        # once for the jobs; each device's part is a part of its own
        assert [s["read"][name] for s in said(folder)] == [nbytes // PROCESSES] * PROCESSES, name


def test_an_error_in_one_process_is_raised_in_all(ran: tuple[Path, list[int]]) -> None:
    assert [s["said"] for s in said(ran[0])] == ["process 1: disk full", "disk full"]
    assert not (ran[0] / "failed").exists()


def test_a_process_that_is_killed_leaves_nothing_that_looks_whole(ran: tuple[Path, list[int]]) -> None:
    folder, codes = ran
    assert codes[0] == -signal.SIGKILL and codes[1] != 0
    assert not (folder / "killed").exists()
    hidden = next(entry for entry in folder.iterdir() if "wspace-tmp" in entry.name)
    with pytest.raises(FormatError, match="not complete"):
        open_checkpoint(hidden)
    write_tree(folder / "killed", open_checkpoint(folder / "in/base"))
    verify(folder / "killed")
    assert not [entry.name for entry in folder.iterdir() if "wspace" in entry.name]
