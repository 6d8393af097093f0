"""A folder that appears whole or not at all.

Everything is written into a hidden folder beside the target and becomes visible by one rename. While it lasts a lock
file beside the target is held (`flock`: the system lets go when the process dies, however it dies), so whatever hidden
folder is found by the next holder of the lock is left over from a killed process and is swept. On overwriting the old
folder is renamed away, the new one renamed in, the old one then removed: killed between the two renames, the next one
who opens or writes the target puts the old one back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wspace.core.errors import WspaceError, printable
from wspace.io.journal import journal_of, read_journal
from wspace.io.processes import Processes

MANIFEST = "wspace-manifest.json"
MARKS = (MANIFEST, "_METADATA", "_CHECKPOINT_METADATA")  # files by which a folder is known to be a checkpoint
WRITE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG,
    errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY,
)  # fmt: skip


@contextmanager
def staged_folder(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[Any] = (), needs: int = 0, resume: str | None = None
) -> Iterator[Path]:
    """Gives a hidden folder to fill; when the block ends well it becomes `path`, else it is removed.

    Args:
      path: the folder to be; its parents are made. A link is followed.
      overwrite: replace a checkpoint or run that is there. A folder that looks like neither is never replaced.
      inputs: paths or checkpoints that are read meanwhile: never overwritten, and (checkpoints) checked to be unchanged
        before anything becomes visible.
      needs: bytes that will be written, compared with the free space before work begins.
      resume: the key of this run; a hidden folder that a killed run with this key in its journal left is given again.
    """
    target = Path(path).resolve()
    sources = list(inputs)
    if not target.name:
        raise WspaceError(f"{target} is no folder that can be written; take another path")
    for source in sources:
        _refuse_input(target, Path(getattr(source, "path", source)).resolve())
    with _write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            _recover(target)
            left = _left(target, resume)
            _sweep(target, left)
            _refuse_occupied(target, overwrite)
            free = shutil.disk_usage(target.parent).free
            if needs > free + (0 if left is None else _taken(left)):
                raise WspaceError(f"{printable(target)}: {needs} bytes are needed, {free} are free; make room first")
            new = target.with_name(f"{_hidden(target, 'tmp')}-{os.getpid()}-{secrets.token_hex(4)}")
            folder = left or new
            try:
                if left is None:
                    folder.mkdir()
                yield folder
                _sync(folder)
                for source in sources:
                    getattr(source, "check_unchanged", bool)()
                _swap(folder, target)
            finally:
                _recover(target)
                _sweep(target)


@contextmanager
def staged(processes: Processes, path: str | Path, **options: Any) -> Iterator[Path]:
    """A hidden folder for several processes: the first one makes it, and makes it visible when all are done."""
    with ExitStack() as stack:
        made = processes.first(lambda: stack.enter_context(staged_folder(path, **options)))
        yield Path(processes.told(str(made))[0])
        processes.first(stack.close)


def recover(path: str | Path) -> None:
    """Puts back the old folder if a process was killed while it replaced it; does nothing otherwise."""
    target = Path(path).resolve()
    if not os.path.lexists(target) and _old(target).is_dir():
        with _write_errors(target), _locked(target):
            _recover(target)


def is_hidden(path: Path) -> bool:
    """Whether a folder is the unfinished or the put-away one of a write that did not end."""
    return path.name.startswith(".") and ".wspace-" in path.name


def is_unfinished(path: str | Path) -> bool:
    """Whether a write of this folder did not end, or goes on just now."""
    target = Path(path).resolve()
    there = target.parent.iterdir() if target.parent.is_dir() else ()
    return any(entry.name.startswith(_hidden(target, "tmp") + "-") for entry in there)


def _hidden(target: Path, kind: str) -> str:
    return f".{target.name}.wspace-{kind}"


def _old(target: Path) -> Path:
    return target.with_name(_hidden(target, "old"))


def _recover(target: Path) -> None:
    if not os.path.lexists(target) and _old(target).is_dir():
        _old(target).rename(target)


def _left(target: Path, key: str | None) -> Path | None:
    """The folder that a killed run with this key was filling; the one with the most in it."""
    start = _hidden(target, "tmp") + "-"
    found = [entry for entry in target.parent.iterdir() if entry.name.startswith(start) and entry.is_dir()]
    same = [entry for entry in found if key is not None and read_journal(entry)[0] == key]
    return max(same, key=lambda entry: len(read_journal(entry)[1]), default=None)


def _taken(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def _sweep(target: Path, but: Path | None = None) -> None:
    """Removes what killed processes left; called with the lock held, so that nothing here is in use."""
    for entry in target.parent.iterdir():
        if but is not None and entry in (but, journal_of(but)):
            continue
        if entry.name.startswith(_hidden(target, "tmp") + "-") or (entry == _old(target) and target.exists()):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _swap(folder: Path, target: Path) -> None:
    old = _old(target)
    if target.exists() and any(target.iterdir()):
        target.rename(old)
    folder.rename(target)
    sync(target.parent)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = target.with_name(_hidden(target, "lock"))
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            who = f"process {printable(holder)}" if holder else "another process"
            raise WspaceError(
                f"{printable(target)} is being written by {who}; wait for it or take another path"
            ) from None
        with suppress(FileNotFoundError):  # else the last holder removed the file between our two calls: try again
            if os.fstat(handle).st_ino == lock.stat().st_ino:
                break
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


@contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    """Disk full, read-only, no permission: one line instead of a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        where = error.filename if error.filename is not None else target.parent
        free = ""
        with suppress(OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = f" ({shutil.disk_usage(target.parent).free} bytes are free)"
        reason = f"{error.strerror or error}: {printable(where)}{free}"
        raise WspaceError(f"{printable(target)} cannot be written: {reason}; nothing was left behind") from error


def _refuse_input(target: Path, source: Path) -> None:
    holder = source if source.is_dir() else source.parent
    if target in (holder, source, *holder.parents):
        raise WspaceError(
            f"the output {printable(target)} would replace the input {printable(source)}; take another path"
        )
    if source.is_dir() and source in target.parents:
        raise WspaceError(
            f"the output {printable(target)} lies inside the input {printable(source)}; take another path"
        )


def _refuse_occupied(target: Path, overwrite: bool) -> None:
    shown = printable(target)
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise WspaceError(f"{shown} is a file; a folder is written there: take another path")
    entries = list(target.iterdir())
    if entries and not overwrite:
        raise WspaceError(
            f"{shown} exists and is not empty ({len(entries)} entries); take another path or overwrite it"
        )
    if entries and not any(
        _known(entry) for folder in [target, *entries] if folder.is_dir() for entry in folder.iterdir()
    ):
        raise WspaceError(f"{shown} holds no checkpoint, so it is not overwritten; remove it by hand if it may go")


def _known(entry: Path) -> bool:
    return entry.name in MARKS or entry.name.endswith((".safetensors", ".safetensors.index.json"))


def _sync(folder: Path) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))


def sync(path: Path) -> None:
    """What was written to a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
