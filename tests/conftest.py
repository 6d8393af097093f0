"""Without this file the tests would see one device and lenient dtypes, and hide a missing cast or a wrong sharding.

It is loaded before anything imports jax, also for the doctests in `wspace` and `kernels` (run by plain `pytest`).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Our programs are small: compiled in one piece each, not split for parallel work, they take an eighth less time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xdg")  # where the digits are built

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    "wspace",
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("wspace")

compiled: list[float] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(autouse=True, scope="module")
def a_process_holds_so_many_programs() -> Iterator[None]:
    """Linux lets a process map 65 530 pieces of memory; a program takes 6, and all of ours would be too many."""
    yield
    if len(compiled) > 4000:
        compiled.clear()
        jax.clear_caches()
        gc.collect()
