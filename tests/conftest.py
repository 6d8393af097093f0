"""Without this file the tests would see one device and lenient dtypes, and hide a missing cast or a wrong sharding.

It is loaded before anything imports jax, also for the doctests in `wspace` and `kernels` (run by plain `pytest`).
"""

from __future__ import annotations

import gc
import os
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

# Rooms whose tests compare no bits with what is compiled otherwise do without LLVM's optimizer: it takes longer than
# their programs run.
HURRIED = (
    "app/test_learned app/test_pod average calibrate init interpolate match measure optim quant reparam stats trace"
).split()
hurries: list[bool] = [False]  # of the modules so far
compiled: list[float] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(autouse=True, scope="module")
def programs(request: pytest.FixtureRequest) -> None:
    """Lets programs go that were compiled the other way, and when they are many.

    Linux lets a process map 65 530 pieces of memory, and a program takes 6.
    """
    path = request.path.relative_to(Path(__file__).parent)
    hurries.append(not {path.parts[0], str(path.with_suffix(""))}.isdisjoint(HURRIED))
    jax.config.update("jax_disable_most_optimizations", hurries[-1])
    if len(compiled) > 4000 or hurries[-1] != hurries[-2]:
        compiled.clear()
        jax.clear_caches()
        gc.collect()
