"""Sizes as people read and write them. Imports no array library."""

from __future__ import annotations

import re

from wspace.core.errors import WspaceError

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def size(n: float) -> str:
    """Bytes as people read them.

    >>> size(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def bytes_in(text: str | int) -> int:
    """Bytes from a size as people write it: KB, MB, GB, TB in thousands, KiB, MiB, GiB, TiB in 1024.

    >>> bytes_in("5GB"), bytes_in("1.5 MiB"), bytes_in(4096)
    (5000000000, 1572864, 4096)

    Raises:
      WspaceError: it is none.
    """
    found = _SIZE.fullmatch(str(text))
    number = 0.0
    if found is not None:
        number = float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    if number < 1:
        raise WspaceError(f"{text!r} is not a size: write bytes or, say, 500MB or 5GB")
    return int(number)
