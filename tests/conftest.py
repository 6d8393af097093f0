"""Without this file the tests would see one device and lenient dtypes, and hide a missing cast or a wrong sharding.

It is loaded before anything imports jax, also for the doctests in `wspace` and `kernels` (run by plain `pytest`).
"""

from __future__ import annotations

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Our programs are small: compiled in one piece each, not split for parallel work, they take an eighth less time. In a
# hurry (below) LLVM doesn't optimize them, which takes longer than they run, and XLA's older emitter of loops, where it
# is still there, writes them: half the time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8 --xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_optimization_level=0" * (os.environ.get("HURRY") == "1"),
        "--xla_cpu_use_fusion_emitters=false" * (os.environ.get("HURRY") == "1" and version("jaxlib")[:5] == "0.10."),
    ]
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

# `make test` has two parts. HURRY=1: the tests that compare no bits, in a hurry. HURRY=0: all others, compiled as for
# users. Without HURRY every test is collected, and compiled as for users.
HURRY = os.environ.get("HURRY")
HURRIED = (
    "app/test_learned app/test_pod average calibrate init interpolate kernels laws match measure merge optim prune "
    "quant reparam stats trace"
).split()
# Though their rooms hurry:
EXACT = "kernels/test_merge_many laws/test_folds laws/test_stream merge/test_mergekit_numbers".split()

gc.set_threshold(20_000, 20, 20)  # hardly one of the many objects that jax makes is garbage
compiled: list[float] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether a file belongs to the other part of `make test`."""
    if HURRY is None or not collection_path.is_file():
        return None
    top, *within = collection_path.relative_to(Path(__file__).parents[1]).with_suffix("").parts
    module = "/".join(within[:2])
    hurries = top == "tests" and module not in EXACT and not {*within[:1], module}.isdisjoint(HURRIED)
    return True if hurries != (HURRY == "1") else None


@pytest.fixture(autouse=True, scope="module")
def programs() -> None:
    """Lets programs go when they are many: Linux lets a process map 65 530 pieces of memory, and a program takes 6."""
    if len(compiled) > 4000:
        compiled.clear()
        jax.clear_caches()
        gc.collect()
