"""Bytes to and from an open file past the page cache, where the system can do that: large results, written once.

They do not push the inputs out of it, and to find fresh pages for them costs more than to move them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import numpy as np

DONTCACHE = 0x80  # RWF_DONTCACHE, Linux 6.14: pages are let go as soon as they are on the disk
SMALLEST = 2**20  # bytes below which the cache is used: neighbours on one page would be fetched for each other


def write_at(handle: int, data: np.ndarray[Any, Any], at: int) -> None:
    """All bytes to their place in the file."""
    view = data.data
    while view:
        done = _moved(os.pwritev, handle, view, at)
        view, at = view[done:], at + done


def read_at(handle: int, into: np.ndarray[Any, Any], at: int) -> bool:
    """Bytes from their place in the file; whether there are as many."""
    return _moved(os.preadv, handle, into.data, at) == into.size


def _moved(call: Callable[..., int], handle: int, view: memoryview, at: int) -> int:
    if len(view) >= SMALLEST:
        try:
            return call(handle, [view], at, DONTCACHE)
        except NotImplementedError:
            pass  # another system
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise  # else an older one, or a file system that can't
    return call(handle, [view], at)
