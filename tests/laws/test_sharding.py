"""Deleted, a method could gather a sharded model onto one device, or change its sharding."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.rows import ROWS, Row, close, weights


def placed(tree: Any, mesh: jax.sharding.Mesh, last: tuple[str | None, ...]) -> Any:
    """Every array with its trailing axes sharded by `last`; vectors by their only axis, scalars replicated."""

    def one(x: Any) -> Any:
        if not hasattr(x, "ndim") or x.ndim == 0 or jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        spec = P("model") if x.ndim == 1 else P(*(None,) * (x.ndim - 2), *last)
        if any(name and size % 8 for size, name in zip(x.shape, spec, strict=True)):
            spec = P()  # one number for each input of stacked layers
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(one, tree)


# Each kind of mesh with the axis that is harder for it: a reduction over a split axis must not be gathered by the
# compiler (Auto), a result over a split axis must be told where it lies (Explicit).
FAST = {"xla_backend_optimization_level": 0}  # shardings are settled before LLVM; without its optimizer a third faster
MESHES = [(AxisType.Auto, ("model", None)), (AxisType.Explicit, (None, "model"))]


@pytest.mark.parametrize(("kind", "last"), MESHES, ids=["auto-in", "explicit-out"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_output_sharding_is_input_sharding(row: Row, kind: AxisType, last: tuple[str | None, ...]) -> None:
    mesh = jax.make_mesh((8,), ("model",), axis_types=(kind,))
    trees, given = row.example()
    trees, given = placed(trees, mesh, last), placed(given, mesh, last)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda trees, given: row.transform()(*trees, **given)).lower(trees, given).compile(FAST)
        out = compiled(trees, given)
    close(out, weights(row.result), row.tolerance)
    for name in ("dense", "layers"):
        for a, b in zip(jax.tree.leaves(trees[0][name]), jax.tree.leaves(out[name]), strict=False):
            if a.shape == b.shape:
                assert b.sharding.is_equivalent_to(a.sharding, a.ndim), f"{name}: {a.sharding} became {b.sharding}"
    if row.transform().scope == "leaf" and not row.gathers:
        assert "all-gather" not in compiled.as_text()
