"""Deleted, a full disk, a bad path or an interrupt could leave half an output, or an input could be written over."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wspace.core.errors import IntegrityError, TreeMismatch, WspaceError
from wspace.io import open_checkpoint, staged_folder, verify, write_folder, write_orbax, write_tree

OLD = {"w": np.arange(4.0)}
NEW = {"w": np.ones(300_000), "v": np.zeros(7, np.int8)}
Write = Callable[..., None]


@pytest.fixture(params=["new", "overwrite"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place to write to: empty, or with a checkpoint that must survive the fault."""
    path = tmp_path / "out"
    if request.param == "overwrite":
        write_tree(path, OLD)
    return path


def untouched(path: Path) -> bool:
    """Nothing but the old checkpoint, if there was one, is there: it is whole, and no hidden files are beside it."""
    names = os.listdir(path.parent)
    if path.exists():
        verify(path)
        return names == ["out"] and open_checkpoint(path).tree()["w"].tolist() == [0, 1, 2, 3]
    return names == []


@pytest.mark.parametrize("limit", [0, 100, 1_000_000, 2_400_000])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_full_at_any_byte(out: Path, monkeypatch: pytest.MonkeyPatch, limit: int, number: int) -> None:
    original, written = os.pwritev, 0

    def full(handle: int, data: list[memoryview], *where: int) -> int:
        nonlocal written
        done = original(handle, [data[0][: max(0, limit - written)]], *where)
        written += done
        if done == 0:
            raise OSError(number, os.strerror(number))
        return done

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(WspaceError) as caught:
        write_tree(out, NEW, overwrite=True)
    message = str(caught.value)
    assert str(out) in message and os.strerror(number) in message and "\n" not in message
    assert ("bytes are free" in message) == (number != errno.EIO)
    monkeypatch.undo()
    assert untouched(out)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda handle, data, *where: original(handle, [data[0][:4097]], *where))
    write_tree(tmp_path / "out", {"w": np.arange(10_000)})
    assert np.array_equal(open_checkpoint(tmp_path / "out")["w"], np.arange(10_000))


@pytest.mark.parametrize("error", [OSError(errno.EOPNOTSUPP, "no"), OSError(errno.EINVAL, "no"), NotImplementedError()])
def test_systems_that_can_t_write_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    refused = []

    def older(call: Callable[..., int]) -> Callable[..., int]:
        def moved(handle: int, data: list[memoryview], at: int, flags: int = 0) -> int:
            if flags:
                refused.append(call)
                raise error
            return call(handle, data, at)

        return moved

    monkeypatch.setattr(os, "pwritev", older(os.pwritev))
    monkeypatch.setattr(os, "preadv", older(os.preadv))
    w = np.arange(300_000)
    write_tree(tmp_path / "out", {"w": w})
    assert np.array_equal(open_checkpoint(tmp_path / "out")["w"], w) and len(set(refused)) == 2


def test_a_write_that_reads_back_otherwise_is_not_committed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.pwritev

    def flips(handle: int, data: list[memoryview], *where: int) -> int:
        whole = bytes(data[0])
        return original(handle, [whole[:-1] + bytes([whole[-1] ^ 1])] if len(whole) == 7 else data, *where)

    monkeypatch.setattr(os, "pwritev", flips)
    with pytest.raises(IntegrityError, match="leaf 'v' reads back other than it was written"):
        write_tree(out, NEW, overwrite=True)
    monkeypatch.undo()
    assert untouched(out)


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_call_that_is_refused(out: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def refuse(*args: Any, **_: Any) -> None:
        raise OSError(number, os.strerror(number), *args[:1])

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(WspaceError, match=f"out cannot be written: {os.strerror(number)}"):
        write_tree(out, NEW, overwrite=True)
    monkeypatch.undo()
    assert untouched(out)


def test_the_second_rename_refused_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, original = tmp_path / "out", os.rename
    write_tree(out, OLD)

    def refuse(source: Any, target: Any) -> None:
        if "wspace-tmp" in str(source):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        original(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(WspaceError, match="cannot be written"):
        write_tree(out, NEW, overwrite=True)
    assert untouched(out)


def test_a_torn_swap_is_mended_before_the_next_write(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_tree(out, OLD)
    out.rename(tmp_path / ".out.wspace-old")
    (tmp_path / ".out.wspace-tmp-1-abcd").mkdir()
    with pytest.raises(WspaceError, match="out exists and is not empty"):
        write_tree(out, NEW)
    assert untouched(out)


def test_a_lock_file_that_its_last_holder_removes_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, rivals = fcntl.flock, []

    def removed_meanwhile(handle: int, how: int) -> None:
        """Between our opening of the lock and our locking of it another process lets it go and a third one takes it."""
        if not rivals:
            (tmp_path / ".out.wspace-lock").unlink()
            rivals.append((tmp_path / ".out.wspace-lock").open("w"))
            original(rivals[0], how)
        original(handle, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with pytest.raises(WspaceError, match="out is being written by another process"):
        write_tree(tmp_path / "out", OLD)
    rivals[0].close()
    write_tree(tmp_path / "out", OLD)
    assert untouched(tmp_path / "out")


def test_a_real_limit_of_the_system(out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(WspaceError, match="out cannot be written: File too large"):
            write_tree(out, NEW, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert untouched(out)


@pytest.mark.parametrize("write", [write_tree, write_orbax])
def test_free_space_is_checked_before_work(out: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WspaceError, match=r"out: 2400\d\d\d bytes are needed, 1000 are free"):
        write(out, NEW, overwrite=True)
    monkeypatch.undo()
    assert untouched(out)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupt_leaves_nothing(out: Path, interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt), write_folder(out, NEW, overwrite=True) as sink:
        sink["w"] = NEW["w"]
        raise interrupt
    assert untouched(out)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_during_the_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    out, original, calls = tmp_path / "out", os.rename, 0
    write_tree(out, OLD)

    def interrupted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tree(out, NEW, overwrite=True)
    assert untouched(out)


@pytest.mark.parametrize("write", [write_tree, write_orbax])
def test_an_output_that_is_there_is_refused(tmp_path: Path, write: Write) -> None:
    out = tmp_path / "out"
    write(out, OLD)
    with pytest.raises(WspaceError, match="out exists and is not empty"):
        write(out, NEW)
    assert open_checkpoint(out)["w"].tolist() == [0, 1, 2, 3]
    write(out, {"n": np.ones(1)}, overwrite=True)
    assert list(open_checkpoint(out)) == ["n"] and os.listdir(tmp_path) == ["out"]


def test_a_folder_that_holds_no_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(WspaceError, match="home holds no checkpoint, so it is not overwritten"):
        write_tree(tmp_path / "home", OLD, overwrite=True)
    with pytest.raises(WspaceError, match=r"letters\.txt is a file"):
        write_tree(tmp_path / "home" / "letters.txt", OLD, overwrite=True)
    with pytest.raises(WspaceError, match="take another path"):
        write_tree("/", OLD, overwrite=True)
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"
    with pytest.raises(WspaceError, match=r"cannot be written: (Not a directory|File exists)"):
        write_tree(tmp_path / "home" / "letters.txt" / "out", OLD)


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    write_tree(tmp_path / "out", OLD)
    monkeypatch.chdir(tmp_path)
    write_tree("a/b/out", OLD)
    assert list(open_checkpoint("a/b/out")) == ["w"] and sorted(os.listdir()) == ["a", "out"]


@pytest.mark.parametrize("place", ["models/base", "models", "models/base/merged", ".", "models/link"])
@pytest.mark.parametrize("write", [write_tree, write_orbax])
def test_an_input_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, write: Write
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree("models/base", OLD)
    (tmp_path / "models" / "link").symlink_to("base")
    source = open_checkpoint("models/base")
    for given in ("models/base", source, "models/base/model.safetensors"):
        if (place, given) == ("models/base/merged", "models/base/model.safetensors"):
            continue  # beside a single file that is an input there is room
        with pytest.raises(WspaceError, match=r"would replace the input|lies inside the input"):
            write(place, NEW, overwrite=True, inputs=[given])
    verify("models/base")


def test_beside_an_input_file_there_is_room(tmp_path: Path) -> None:
    write_tree(tmp_path / "base", OLD)
    file = tmp_path / "base" / "model.safetensors"
    file.rename(tmp_path / "base.safetensors")
    write_tree(tmp_path / "out", open_checkpoint(tmp_path / "base.safetensors"))
    assert open_checkpoint(tmp_path / "out")["w"].tolist() == [0, 1, 2, 3]


def test_an_input_that_changed_meanwhile_stops_the_commit(tmp_path: Path) -> None:
    write_tree(tmp_path / "base", OLD)
    source = open_checkpoint(tmp_path / "base")
    stopped = pytest.raises(IntegrityError, match=r"base/model\.safetensors changed since it was opened")
    with stopped, write_folder(tmp_path / "out", source.specs, inputs=[source]) as sink:
        sink["w"] = source["w"]
        os.utime(tmp_path / "base" / "model.safetensors", ns=(1, 1))
    assert os.listdir(tmp_path) == ["base"]


def test_all_is_on_the_disk_before_it_becomes_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[int | str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(os.fstat(handle).st_ino), fsync(handle))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    write_tree(tmp_path / "out", {"a": np.ones(2), "b": np.ones(2)}, shard_size=16)
    before, after = events[: events.index("rename")], events[events.index("rename") :]
    inodes = {path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    assert len(inodes) == 4 and inodes | {(tmp_path / "out").stat().st_ino} <= set(before)
    assert tmp_path.stat().st_ino in after


@pytest.mark.parametrize("shard_size", ["5GB", 16])
def test_what_was_written_can_be_read_before_it_is_visible(tmp_path: Path, shard_size: int | str) -> None:
    specs = {"a": OLD["w"], "b": OLD["w"]}
    with write_folder(tmp_path / "out", specs, shard_size=shard_size, metadata={"note": "kept"}) as sink:
        sink["a"] = OLD["w"]
        with pytest.raises(TreeMismatch, match="1 of 2 leaves were not written: b"):
            sink.checkpoint()
        sink["b"] = OLD["w"]
        source = sink.checkpoint()
        write_orbax(sink.directory / "orbax", source.tree(), metadata=source.metadata)
    verify(tmp_path / "out")
    again = open_checkpoint(tmp_path / "out" / "orbax")
    assert again["b"].tolist() == [0, 1, 2, 3] and again.metadata == {"format": "pt", "note": "kept"}


def test_a_whole_run_is_staged_with_checkpoints_inside(tmp_path: Path) -> None:
    for value in (1, 2):
        with staged_folder(tmp_path / "run", overwrite=True) as folder:
            write_tree(folder / "model", {"w": np.full(2, value)})
            (folder / "report.html").write_text(str(value))
    assert sorted(os.listdir(tmp_path / "run")) == ["model", "report.html"] and os.listdir(tmp_path) == ["run"]
    assert open_checkpoint(tmp_path / "run" / "model")["w"].tolist() == [2, 2]
