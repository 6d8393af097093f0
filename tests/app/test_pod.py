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
from wspace.io import open_checkpoint, verify

ROOT = Path(__file__).parents[2]
JOBS: dict[str, Any] = runpy.run_path(str(ROOT / "configs/pod/jobs.py"))
PROCESSES = 2


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int], list[str]]:
    """Where one of the processes was killed while they saved: their exit codes, and what is left there."""
    folder = tmp_path_factory.mktemp("pod")
    JOBS["inputs"](folder / "in")
    codes = launched(folder, "--victim", "0")
    return folder, codes, sorted(entry.name for entry in (folder / "out").iterdir())


@pytest.fixture(scope="module")
def ran(killed: tuple[Path, list[int], list[str]]) -> Path:
    """The jobs by processes that are started anew at the same place, and by this one alone."""
    folder, *_ = killed
    with pytest.raises(FormatError, match="not complete"):
        open_checkpoint(next(entry for entry in (folder / "out").iterdir() if entry.is_dir()))
    assert launched(folder) == [0] * PROCESSES
    JOBS["run"](folder / "in", folder / "one", None, orbax=False)
    return folder


def launched(folder: Path, *words: str) -> list[int]:
    """Exit codes of the processes; they take XLA's flags from this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'kernels'}")
        return list(JOBS["loopback"]([str(ROOT / "tests/app/pod.py"), str(folder), *words], PROCESSES))


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"said-{k}.json").read_text()) for k in range(PROCESSES)]


@pytest.mark.parametrize("name", ["merged", "pruned"])
def test_merge_and_global_prune_equal_one_process_to_the_last_bit(ran: Path, name: str) -> None:
    found, wanted = (open_checkpoint(ran / where / name) for where in ("out", "one"))
    assert list(found) == list(wanted) and len(found) >= 5
    for leaf in wanted:
        assert found[leaf].tobytes() == wanted[leaf].tobytes(), leaf
    verify(ran / "out" / name)
    for file in sorted((ran / "one" / name).iterdir()):
        assert (ran / "out" / name / file.name).read_bytes() == file.read_bytes()


def test_calibrated_gptq_equals_one_process(ran: Path) -> None:
    found, wanted, start = (open_checkpoint(ran / where) for where in ("out/gptq", "one/gptq", "in/a"))
    for leaf in wanted:
        np.testing.assert_allclose(found[leaf], wanted[leaf], rtol=1e-5, atol=1e-6, err_msg=leaf)
    assert not np.allclose(wanted["up.kernel"], start["up.kernel"], atol=1e-3)


def test_each_process_reads_its_own_bytes(ran: Path) -> None:
    assert [s["devices"] for s in said(ran)] == [2 * PROCESSES] * PROCESSES
    for name in ("up.kernel", "layers.kernel", "down.kernel"):
        nbytes = open_checkpoint(ran / "in/base").specs[name].nbytes
        # once for the jobs; each device's part is a part of its own
        assert [s["read"][name] for s in said(ran)] == [nbytes // PROCESSES] * PROCESSES, name


def test_an_error_in_one_process_is_raised_in_all(ran: Path) -> None:
    assert [s["said"] for s in said(ran)] == ["process 1: disk full", "disk full"]
    assert not (ran / "failed").exists()


def test_a_process_that_is_killed_leaves_nothing_that_looks_whole_and_a_rerun_completes(
    killed: tuple[Path, list[int], list[str]], ran: Path
) -> None:
    folder, codes, left = killed
    assert codes[0] == -signal.SIGKILL and codes[1] != 0
    assert left and all(name.startswith(".merged.wspace-") for name in left)
    assert sorted(entry.name for entry in (ran / "out").iterdir()) == ["gptq", "merged", "pruned"]
    verify(folder / "out/merged")
