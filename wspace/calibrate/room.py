"""The room as a callable module: `ws.calibrate(...)` and `ws.calibrate.blockwise(...)`, whichever is imported first."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from wspace.calibrate.batches import calibrate
from wspace.calibrate.result import Calibration


class Room(ModuleType):
    """A module that can be called; see `calibrate` for arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Calibration:
        return calibrate(*args, **kwargs)


sys.modules["wspace.calibrate"].__class__ = Room
