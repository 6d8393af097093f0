"""Run by test_crash.py as a process of its own: kills forked writers at every system call that changes the disk.

    python crash.py FOLDER new|overwrite|resume

Prints one JSON object: how many kill points there were, what was found after each. Imports no jax, so it may fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wspace.core.errors import FormatError
from wspace.io import open_checkpoint, verify, write_folder

CHANGES = ("open", "mkdir", "rename", "unlink", "rmdir", "pwrite", "pwritev", "fsync")
NAMES = ("a", "b")


def write(path: Path, value: int, resume: str | None = None) -> int:
    """How many leaves were there already."""
    specs = {name: ((3,), np.int64) for name in NAMES}
    with write_folder(path, specs, overwrite=True, shard_size=24, resume=resume) as sink:
        (sink.directory / "config.json").write_text(json.dumps({"value": value}))
        for name in NAMES:
            if name not in sink.done:
                sink[name] = np.full(3, value, np.int64)
        return len(sink.done)


def die_before(count: int) -> None:
    """From now on the process is killed before its call number `count` that changes the disk."""
    seen = 0

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen += original is not opens or bool(args[1] & os.O_CREAT)
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    opens = os.open
    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))


def whole(path: Path) -> int:
    """The one value of a checkpoint that is complete and verified."""
    verify(path)
    source = open_checkpoint(path)
    found = {int(v) for name in NAMES for v in source[name]} | {json.loads((path / "config.json").read_text())["value"]}
    if len(found) != 1:
        raise SystemExit(f"a mixture: {found}")
    return found.pop()


def main(root: Path, how: str) -> None:
    resume = "k" if how == "resume" else None
    found = {"taken_over": 0, "points": 0, "absent": 0, "old": 0, "new": 0, "put_back": 0}
    while True:
        folder = root / str(found["points"])
        folder.mkdir()
        path = folder / "out"
        if how == "overwrite":
            write(path, 1)
        child = os.fork()
        if child == 0:
            die_before(found["points"] + 1)
            write(path, 2, resume)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        found["points"] += 1
        away = not path.exists()
        try:
            value = whole(path)
        except FormatError:
            found["absent"] += 1
        else:
            found["old" if value == 1 else "new"] += 1
            found["put_back"] += away
        last = 3 if resume is None else 2
        found["taken_over"] += write(path, last, resume)
        if whole(path) != last or os.listdir(folder) != ["out"]:
            raise SystemExit(f"after kill {found['points']}: {os.listdir(folder)}")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
