"""Deleted, a layout could be misread: a torch weight transposed, heads taken for taps, layers mixed with inputs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wspace as ws
from tests.core.parts import add
from wspace.core.axes import ROLES, Axis, matrix_view
from wspace.core.errors import ShapeError

NAMES = [
    ("dense/kernel", (8, 4), "in out"),
    ("dense/bias", (4,), "out"),
    ("norm/scale", (4,), "out"),
    ("temperature", (), ""),
    ("layers/kernel", (3, 8, 4), "stack in out"),
    ("layers/bias", (3, 4), "stack out"),
    ("Conv_0/kernel", (3, 8, 4), "space in out"),
    ("stem/kernel", (3, 3, 8, 4), "space space in out"),
    ("mlp/~/linear_0/w", (8, 4), "in out"),
    ("conv2_d/w", (3, 3, 8, 4), "space space in out"),
    ("model.layers.0.mlp.up_proj.weight", (4, 8), "out in"),
    ("stem.weight", (4, 8, 3, 3), "out in space space"),
    ("model.embed_tokens.weight", (9, 4), "in out"),
    ("wte/embedding", (9, 4), "in out"),
    ("bert.embeddings.word_embeddings.weight", (9, 4), "in out"),
    ("bert.embeddings.LayerNorm.weight", (4,), "out"),
    ("attention/query/kernel", (8, 2, 4), "in out out"),
    ("layers/attention/query/kernel", (5, 8, 2, 4), "stack in out out"),
    ("attention/out/kernel", (2, 4, 8), "in in out"),
    ("attention/query/bias", (2, 4), "stack out"),
]


@pytest.mark.parametrize(("name", "shape", "roles"), NAMES, ids=[f"{n}{s}" for n, s, _ in NAMES])
def test_conventions_by_name(name: str, shape: tuple[int, ...], roles: str) -> None:
    for path in ((name,), tuple(name.split("/"))):
        assert " ".join(a.role for a in ws.Axes().of(path, shape)) == roles


def test_rules_come_first_and_name_groups() -> None:
    axes = ws.Axes({"kernel": "out:width in", "bias": "out:width"})
    assert axes.of(("kernel",), (2, 3)) == (Axis("out", "width"), Axis("in"))
    assert axes.of(("scale",), (3,)) == (Axis("out"),)


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"w": "in out"}, r"axes rule 'w' names 2 axes, but enc/w has shape \(3,\)"),
        ({"w": "inn"}, "axes rule 'w': 'inn' is no role; use one of in, out, stack, space"),
    ],
)
def test_rules_that_do_not_fit(rules: dict[str, str], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        add(1.0)({"enc": {"w": jnp.ones(3)}}, axes=ws.Axes(rules))


def test_a_layer_solver_sees_one_matrix_in_every_layout() -> None:
    """The same linear map as flax kernel, torch weight, attention kernel and convolution of one tap."""
    m = np.arange(48.0, dtype=np.float32).reshape(8, 6)
    leaves: dict[str, Any] = {
        "kernel": m,
        "weight": m.T,
        "query/kernel": m.reshape(8, 2, 3),
        "out/kernel": m.reshape(2, 4, 6),
        "conv/kernel": m.reshape(1, 1, 8, 6),
        "conv/weight": m.T.reshape(6, 8, 1, 1),
        "layers/kernel": np.stack([m, m]),
    }
    seen: list[np.ndarray] = []
    spy = ws.matrixwise("spy", lambda w: 2 * w)
    out = spy(leaves)
    for path, w in leaves.items():
        np.testing.assert_array_equal(out[path], 2 * w, err_msg=path)
        view = matrix_view(ws.Axes().of((path,), w.shape), w.shape)
        seen.append(np.asarray(view.to_matrix(jnp.asarray(w))).reshape(-1, 8, 6)[-1])
    for matrix in seen:
        np.testing.assert_array_equal(matrix, m)


def test_taps_of_a_convolution_count_as_inputs() -> None:
    w = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    view = matrix_view(ws.Axes().of(("conv", "kernel"), w.shape), w.shape)
    assert view.matrix_shape == (24, 5)
    np.testing.assert_array_equal(view.to_matrix(jnp.asarray(w)), w.reshape(24, 5))


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.integers(1, 3)), min_size=2, max_size=5))
def test_the_view_of_any_leaf_can_be_undone(axes: list[tuple[Any, int]]) -> None:
    roles, shape = [role for role, _ in axes], tuple(n for _, n in axes)
    if not {"in", "out"} <= set(roles):
        with pytest.raises(ShapeError, match=f"^leaf with shape .* is no matrix \\(axes: {' '.join(roles)}\\)"):
            matrix_view(tuple(map(Axis, roles)), shape)
        return
    view = matrix_view(tuple(map(Axis, roles)), shape)
    w = jnp.arange(int(np.prod(shape))).reshape(shape)
    matrix = view.to_matrix(w)
    sizes = {r: int(np.prod([n for role, n in axes if role == r])) for r in ROLES}
    stacks = tuple(n for role, n in axes if role == "stack")
    assert matrix.shape == view.matrix_shape == (*stacks, sizes["space"] * sizes["in"], sizes["out"])
    np.testing.assert_array_equal(view.from_matrix(matrix), w)
