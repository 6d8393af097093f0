"""Run by test_pod.py as one of many processes: a save in which one is killed, or the jobs of configs/pod/jobs.py.

python tests/app/pod.py FOLDER --coordinator ADDRESS --process K/N
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np

import wspace as ws
from wspace.core.errors import WspaceError
from wspace.io import FolderSink, SafetensorsFolder, Together, write_folder

JOBS = Path(__file__).parents[2] / "configs/pod/jobs.py"


def counted() -> dict[str, int]:
    """Bytes that this process reads from now on of leaves of two or more axes, by name."""
    read: dict[str, int] = {}
    original = SafetensorsFolder.part

    def part(self: Any, name: str, index: Any) -> Any:
        found = original(self, name, index)
        if found.ndim > 1 and self.path.name == "base":
            read[name] = read.get(name, 0) + found.nbytes
        return found

    SafetensorsFolder.part = part  # type: ignore[method-assign]
    return read


def fails(out: Path) -> str:
    """What this process is told when process 1 can't write its part."""
    try:
        with write_folder(out, {"w": ((4,), "float32")}, processes=Together()) as sink:
            sink["w"] = np.zeros(4, np.float32)
            if jax.process_index() == 1:
                raise OSError("disk full")
    except (WspaceError, OSError) as error:
        return str(error)
    return "nothing"


def dies(out: Path, tree: Any, victim: int) -> None:
    """One process is killed between two of its shards."""
    original = FolderSink.part

    def part(self: FolderSink, *given: Any) -> None:
        original(self, *given)
        if jax.process_index() == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    FolderSink.part = part  # type: ignore[method-assign]
    ws.io.save(out, tree)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--process")
    parser.add_argument("--victim", type=int, help="which of them is killed while they save what is to be `merged`")
    given = parser.parse_args()
    jobs = runpy.run_path(str(JOBS))
    jobs["join"](given.coordinator, given.process)
    folder, me = given.folder, jax.process_index()
    if given.victim is not None:
        mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
        dies(folder / "out/merged", ws.io.load(folder / "in/base", sharding=ws.placement(mesh)), given.victim)
    read = counted()
    jobs["work"](folder / "in", folder / "out", 2, orbax=False)
    said = fails(folder / "failed")
    (folder / f"said-{me}.json").write_text(json.dumps({"read": read, "said": said, "devices": jax.device_count()}))


if __name__ == "__main__":
    main()
