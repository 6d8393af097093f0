"""Deleted, a method could gather a sharded model onto one device, or change its sharding.

`make test` has every method on a mesh whose inputs' axis is Auto and whose outputs' axis is Explicit, each the harder
one for its kind: a reduction over a split axis must not be gathered by the compiler, a result over a split axis must be
told where it lies. `make meshes` has every method on meshes of one, two and three axes, all Auto and all Explicit.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.rows import ROWS, Row, close, weights


class Case(NamedTuple):
    """A mesh: how many devices an axis, by name, and the axes' kinds."""

    sizes: dict[str, int]
    kinds: tuple[AxisType, ...]

    def __str__(self) -> str:
        axes = zip(self.sizes.items(), self.kinds, strict=True)
        return "-".join(f"{name}{size}{kind.name.lower()}" for (name, size), kind in axes)

    def mesh(self) -> jax.sharding.Mesh:
        return jax.make_mesh(tuple(self.sizes.values()), tuple(self.sizes), axis_types=self.kinds)


MIXED = Case({"in": 4, "out": 2}, (AxisType.Auto, AxisType.Explicit))
SIZES = ({"in": 8}, {"out": 8}, {"in": 4, "out": 2}, {"stack": 2, "in": 2, "out": 2})
EVERY = [Case(sizes, (kind,) * len(sizes)) for sizes in SIZES for kind in (AxisType.Auto, AxisType.Explicit)]


def placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Every array split along the mesh's axes of its own: stacks, inputs, outputs (vectors too); scalars replicated."""

    def one(x: Any) -> Any:
        if not hasattr(x, "ndim") or x.ndim == 0 or jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        names = (*("stack",) * (x.ndim - 2), "in", "out")[-x.ndim :]
        spec = tuple(name if name in mesh.shape else None for name in names)
        if any(name and size % mesh.shape[name] for size, name in zip(x.shape, spec, strict=True)):
            spec = ()  # one number for each input of stacked layers
        return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    return jax.tree.map(one, tree)


@pytest.mark.parametrize("case", EVERY if os.environ.get("EVERY_MESH") else [MIXED], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_output_sharding_is_input_sharding(row: Row, case: Case) -> None:
    mesh = case.mesh()
    trees, given = row.example()
    trees, given = placed(trees, mesh), placed(given, mesh)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda trees, given: row.transform()(*trees, **given)).lower(trees, given).compile()
        out = compiled(trees, given)
    close(out, weights(row.result), row.tolerance)
    for name in ("dense", "layers"):
        for a, b in zip(jax.tree.leaves(trees[0][name]), jax.tree.leaves(out[name]), strict=False):
            if a.shape == b.shape:
                assert b.sharding.is_equivalent_to(a.sharding, a.ndim), f"{name}: {a.sharding} became {b.sharding}"
    if row.transform().scope == "leaf" and not row.gathers:
        assert "all-gather" not in compiled.as_text()
