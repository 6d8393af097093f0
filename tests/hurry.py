"""Without it each small program of the tests would be optimized for longer than it runs, again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

HURRY = {"xla_backend_optimization_level": 0}  # LLVM's; shardings and collectives are settled before it


def hurried(fn: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """A function compiled for arguments like these, without LLVM's optimizations: half the time, the same results but
    for rounding. For where neither the last bit nor the speed is what is tried."""
    return jax.jit(fn).lower(*args).compile(HURRY)
