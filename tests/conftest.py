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

gc.set_threshold(100_000)  # compiled programs stay, a million objects of them: look for garbage less often
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
