"""Deleted, the dry run of a pod could miss a collective, or count the bytes of a device wrongly."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws

DRY: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "configs/pod/dry_run.py"))


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def test_collectives_are_found_with_their_bytes(mesh: jax.sharding.Mesh) -> None:
    def split(*spec: Any) -> Any:
        return jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    def found(f: Any, *given: Any, out: P | None = None) -> Any:
        to = None if out is None else NamedSharding(mesh, out)
        return DRY["collectives"](jax.jit(f, out_shardings=to).lower(*given).compile().as_text())

    assert found(lambda x: 2 * x, split("data", "model")) == {}
    assert found(jnp.sum, split(("data", "model"))) == {"all-reduce": (1, 4)}
    assert found(lambda x: x.sum(0), split("data"), out=P()) == {"all-reduce": (1, 32 * 4)}
    assert found(lambda x: 2 * x, split("data"), out=P()) == {"all-gather": (1, 64 * 32 * 4)}


def test_the_shapes_are_llamas() -> None:
    for name, parameters in (("70B", 70.55e9), ("405B", 405.85e9)):  # as the model cards of Llama 3 count them
        total = sum(math.prod(s) for s in DRY["MODELS"][name].shapes().values())
        assert abs(total - parameters) < 0.01e9
    assert len(DRY["MODELS"]["70B"].shapes()) == 80 * 9 + 3


def test_a_small_llama(mesh: jax.sharding.Mesh) -> None:
    llama = type(DRY["MODELS"]["70B"])(1, 128, 256, 2, 1, 512, head=64)
    tree = DRY["abstract"](llama.layer(0), ws.placement(mesh))
    assert DRY["share"](tree) == sum(math.prod(s) for s in llama.layer(0).values()) * 2 // 8
    merge = DRY["compiled"](DRY["MERGES"]["task_arithmetic"](), tree, 2, True)
    assert DRY["collectives"](merge.as_text()) == {}
    assert 0 <= merge.memory_analysis().argument_size_in_bytes - 3 * DRY["share"](tree) <= 8
    prune = DRY["compiled"](DRY["OTHERS"]["magnitude, global"](), tree, 1, False)
    ((kind, (count, most)),) = DRY["collectives"](prune.as_text()).items()
    assert kind == "all-reduce" and count and most <= 2**21  # histograms of 16 bits, whatever the size of the model
