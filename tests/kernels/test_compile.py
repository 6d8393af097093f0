"""Deleted, a kernel that lowers could still be one that no TPU or GPU has the memory for.

Compiled for a real TPU and a real GPU, with none at hand. The compilers come in wheels of more than a GB: `make aot`
puts them in a folder of their own and runs this file; without them it skips.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import requires
from importlib.util import find_spec
from typing import Any

import jax
import pytest
from jax.experimental import topologies

from tests.kernels.operations import case_of, compiling_for, names, with_slopes

H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: 141000000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 1 }
device_description_str: "NVIDIA H200"
"""
MEMORY = {"tpu": 16e9, "gpu": 141e9}


def wheels() -> list[str]:
    """What to install, without its dependencies, to compile for both: the versions that this jax goes with."""
    tpu = next(r.split(";")[0] for r in requires("jax") or () if r.startswith("libtpu"))
    cuda = [f"{name}=={jax.__version__}" for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt")]
    return [tpu, *cuda, "nvidia-cuda-nvcc-cu12"]


@cache
def device(name: str) -> Any:
    """One device of a machine that is not there."""
    if name == "tpu":
        local = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
        for variable, value in {"TPU_SKIP_MDS_QUERY": "1", **local}.items():
            os.environ.setdefault(variable, value)  # else it looks for the machine it is on
        return topologies.get_topology_desc("v5e:2x2", "tpu").devices[0]
    return topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1").devices[0]


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    """What is compiled for a machine that is not there can't be read back from jax's cache."""
    used = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", used)


@pytest.mark.parametrize("name", ["tpu", "gpu"])
@pytest.mark.parametrize(("op", "case"), names(lambda case: case.large))
def test_it_compiles_with_no_accelerator_at_hand(op: str, case: str, name: str) -> None:
    package = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin"}[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; make aot")
    c, here = case_of(op, case), jax.sharding.SingleDeviceSharding(device(name))
    given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), c.shapes())
    with compiling_for(name):
        compiled = jax.jit(with_slopes(c, name)).lower(given).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes < MEMORY[name]
    assert {"tpu": "tpu_custom_call", "gpu": "triton"}[name] in compiled.as_text()


if __name__ == "__main__":
    print(*wheels())
