"""If this were deleted, acting on a sharded model could fail, move other entries, or leave it on one device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wspace as ws
from tests.trace.zoo import ZOO


def placed(x: Any, mesh: jax.sharding.Mesh) -> Any:
    """A leaf split over its last two axes, as far as they divide."""
    names = (*(None,) * x.ndim, "a", "b")[-x.ndim :]
    spec = P(*(name if n % 4 == 0 else None for name, n in zip(names, x.shape, strict=True)))
    return jax.device_put(jnp.asarray(x), NamedSharding(mesh, spec))


EXPLICIT = [(kind, AxisType.Explicit) for kind in ("permutation", "scale", "orthogonal")]


@pytest.mark.parametrize(("kind", "mesh_of"), [*EXPLICIT, ("orthogonal", AxisType.Auto)])
def test_sharding_is_kept(kind: str, mesh_of: AxisType) -> None:
    """Heads within layers of a stack: axes that are split into factors, and (rotary pairs) cut into blocks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, params, inputs = ZOO["llama-unrolled"].make()
        params = {
            **params,
            "layers": {**params["layers"], "norm1": np.ones((3, 8), "f"), "norm2": np.ones((3, 8), "f")},
        }
        params["norm"] = np.ones(8, "f")
        ones = "norm" if kind == "orthogonal" else None
        axes = ws.trace.axes(apply, params, *inputs, kind=kind, ones=ones)
    g = ws.match.random_element(axes, key=jax.random.key(0))
    whole = ws.match.act(params, axes, g)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(mesh_of,) * 2)
    with jax.set_mesh(mesh):
        given = jax.tree.map(lambda x: placed(x, mesh), params)
        moved = ws.match.act(given, axes, g)
    for x, y, want in zip(*map(jax.tree.leaves, (given, moved, whole)), strict=True):
        assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
        np.testing.assert_allclose(y, want, atol=1e-6)
