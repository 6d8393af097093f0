"""Deleted, a damaged or hostile safetensors file could load as garbage, or fail without naming file and leaf."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize

from tests.io.corpus import BAD, GOOD, PICKLE, Bad, file_bytes, leaf
from wspace.core.errors import FormatError, IntegrityError
from wspace.io import SafetensorsFile, open_checkpoint
from wspace.io.dtypes import DTYPES


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_refused_by_name(tmp_path: Path, bad: Bad) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(bad.data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and message.isprintable()
    for fragment in bad.says:
        assert fragment in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"model{suffix}").write_bytes(PICKLE)
    for path in (tmp_path / f"model{suffix}", tmp_path):
        with pytest.raises(FormatError, match=r"safetensors\.torch\.save_file"):
            open_checkpoint(path)
    assert not (tmp_path / "wspace-was-here").exists()


def test_missing_and_unknown_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere: no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match=r"not recognised.*notes\.txt"):
        open_checkpoint(tmp_path)


def test_header_mutations_never_load_what_safetensors_refuses(tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "m.safetensors"
    header_end = len(GOOD) - 24
    loaded = 0
    for _ in range(3000):
        data = bytearray(GOOD)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(header_end)
            data[at] = draw.choice((draw.randrange(256), draw.choice(b'0123456789{}[]",:-eIFBU'), data[at] ^ 1))
        path.write_bytes(data)
        try:
            truth = {name: (tuple(v["shape"]), v["dtype"], bytes(v["data"])) for name, v in deserialize(bytes(data))}
        except SafetensorError:
            truth = None
        try:
            source = SafetensorsFile(path)
        except FormatError as error:
            assert str(path) in str(error)
            continue
        assert truth is not None and set(source) == set(truth)
        for name, (shape, word, raw) in truth.items():
            assert source.specs[name] == (shape, DTYPES[word])
            if word != "BOOL":
                assert source[name].tobytes() == raw
        loaded += 1
    assert 0 < loaded < 300


@pytest.mark.parametrize("name", ["", "a\0b", "a\n\x1b[31mred", "../../etc/passwd", "/etc/passwd", "наме", "a b"])
def test_odd_names_are_data(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_bytes({name: leaf()}, np.array([1, 2], "<f4").tobytes()))
    source = open_checkpoint(path)
    assert list(source) == [name] and source[name].tolist() == [1, 2]
    assert name in source and "other" not in source and source.get("other") is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_one_leaf_reads_only_its_own_bytes(tmp_path: Path) -> None:
    size = 1 << 28
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_bytes({"big": leaf("U8", (size,), (0, size)), "small": leaf("F32", (2,), (size, size + 8))}))
    start = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(start + size)  # a sparse file: no disk is taken
        file.seek(start + size)
        file.write(np.array([3, 4], "<f4").tobytes())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    source = open_checkpoint(path)
    assert source["small"].tolist() == [3, 4]
    assert source.specs["big"].nbytes == size
    assert resident() - before < 1 << 24


def test_leaves_are_read_only_and_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(GOOD)
    source = open_checkpoint(path)
    with pytest.raises(ValueError, match="read-only"):
        source["a"][0] = 1
    path.write_bytes(GOOD + b"more")
    with pytest.raises(IntegrityError, match=f"{path} changed since it was opened"):
        source["a"]
    with pytest.raises(IntegrityError):
        source.check_unchanged()
    path.unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        source.check_unchanged()


def test_a_boolean_byte_that_is_neither_is_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_bytes({"mask": leaf("BOOL", (3,), (0, 3))}, b"\0\1\2"))
    with pytest.raises(FormatError, match="'mask' BOOL has a byte that is not 0 or 1"):
        open_checkpoint(path)["mask"]
