"""Real data without a download: scikit-learn's digits, kept as a tensorflow-datasets array_record (TensorFlow unused).

    images, labels = load("train")      # f32 [1437, 64] in [0, 1], int32 [1437]
    images, labels = load("test")       # f32 [360, 64],            int32 [360]

The first call writes about 0.5 MB into the cache; later calls read it. The split is fixed: see `digits_builder`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wspace.core.errors import IntegrityError, MissingExtra, WspaceError, listed

if TYPE_CHECKING:
    from wspace.data.digits_builder import WspaceDigits

SHA256 = {  # of the f32 images followed by the int32 labels: what every number measured on the digits rests on
    "train": "e6a88007e102d6743d443b59f64c309e3a9a6b8b7aaac80f42023bd43fed3617",
    "test": "42eccecc648cedfb23794499ab78873c3f804413e9d3f257c55b62d944094b46",
}


def cache_dir() -> Path:
    """Where the digits are kept unless told otherwise: `$XDG_CACHE_HOME/wspace`, else `~/.cache/wspace`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "wspace"


def load(split: str, cache: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One split of the digits, in memory.

    Args:
      split: "train" or "test".
      cache: folder that holds (or gets) the array_record files; `cache_dir()` by default. Two processes may build at
        once: each writes beside, the first to finish is kept.
    Returns:
      images f32 [n, 64] in [0, 1] (pixel / 16, rows first) and labels int32 [n] in 0..9; n = 1437 or 360.
    Raises:
      MissingExtra: tensorflow-datasets or scikit-learn is not installed.
      IntegrityError: the cached files do not hold the digits they were written with.
      WspaceError: no such split, or the cache can't be written.
    Example:
      >>> images, labels = load("test")
      >>> images.shape, str(images.dtype), labels[:5].tolist()
      ((360, 64), 'float32', [0, 2, 4, 7, 1])
    """
    if split not in SHA256:
        raise WspaceError(f"digits: no split {split!r}; the splits are {listed(SHA256)}.")
    root = Path(cache).expanduser() if cache is not None else cache_dir()
    try:
        return _load(split, root)
    except ImportError as error:
        raise MissingExtra(f"digits: {error}; run: pip install 'wspace[data]'") from error


def _load(split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    from wspace.data.digits_builder import WspaceDigits

    folder = root / WspaceDigits.name / str(WspaceDigits.VERSION)
    if not folder.exists():
        _build(WspaceDigits(data_dir=root, file_format="array_record"), folder)
    damaged = IntegrityError(f"digits: the {split} split in {folder} is damaged; remove that folder and run again.")
    try:
        rows = list(WspaceDigits(data_dir=root, file_format="array_record").as_data_source(split))
        images = np.stack([row["image"] for row in rows]).reshape(-1, 64).astype(np.float32) / np.float32(16)
        labels = np.array([row["label"] for row in rows], np.int32)
    except ImportError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as its readers have layers
        raise damaged from error
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != SHA256[split]:
        raise damaged
    return images, labels


def _build(builder: WspaceDigits, folder: Path) -> None:
    """Write the array_record files. tfds writes beside and renames, which fails where another process was first."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()
    try:  # tfds has no switch for the two lines it prints
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        if not folder.exists():
            reason = f"can't write the cache {folder.parent.parent} ({error.strerror})"
            raise WspaceError(f"digits: {reason}; set XDG_CACHE_HOME or pass cache=.") from error
    finally:
        tfds.enable_progress_bar()
