"""Without it a Gram matrix could be of the wrong activation, or in another order than the weights it is for."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wspace as ws
from tests.calibrate.truths import close, entries, filled, gram, normal, patches, softmax, tokens
from wspace.core.axes import Axes, matrix_view


def grams(apply: Any, params: Any, *batches: Any, **given: Any) -> Any:
    return ws.calibrate(apply, params, batches, "gram", **given)


def test_dense() -> None:
    model = nn.Sequential([nn.Dense(4), jnp.tanh, nn.LayerNorm(), nn.Dense(3)])
    x = normal(1, 9, 5)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    p = params["params"]
    h = np.tanh(x @ p["layers_0"]["kernel"] + p["layers_0"]["bias"][None])
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    h = h * p["layers_2"]["scale"][None] + p["layers_2"]["bias"][None]
    found = grams(model.apply, params, x)
    close(found["gram"], {"params/layers_0/kernel": gram(x), "params/layers_3/kernel": gram(h)})
    assert set(found.unmet) == {
        f"params/{n}" for n in ("layers_0/bias", "layers_2/bias", "layers_2/scale", "layers_3/bias")
    }
    assert found.unmet["params/layers_2/scale"] == "meets no contraction (last seen in mul)"
    assert found.apart == {}


def test_dense_general_over_two_axes() -> None:
    model = nn.DenseGeneral((2, 3), axis=(-2, -1))
    x = normal(1, 6, 4, 5)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    assert params["params"]["kernel"].shape == (4, 5, 2, 3)
    axes = Axes({"kernel": "in in out out"})
    close(grams(model.apply, params, x, axes=axes)["gram"], {"params/kernel": gram(x.reshape(6, 20))})
    found = grams(model.apply, params, x)  # by name it would be a convolution: the graph says otherwise
    close(found["gram"], {"params/kernel": gram(x.reshape(6, 20))})
    assert [a.role for a in found.axes.of(("params", "kernel"), (4, 5, 2, 3))] == ["in", "in", "out", "out"]


def test_attention_projections() -> None:
    model = nn.MultiHeadDotProductAttention(2)
    x = normal(1, 3, 5, 8)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    p = params["params"]
    q, k, v = (
        np.einsum("btd,dhe->bthe", x, p[n]["kernel"]) + p[n]["bias"][None, None] for n in ("query", "key", "value")
    )
    weights = softmax(np.einsum("bthe,bshe->bhts", q, k) / 2)
    y = np.einsum("bhts,bshe->bthe", weights, v).reshape(3, 5, 8)
    want = {f"params/{n}/kernel": gram(x) for n in ("query", "key", "value")} | {"params/out/kernel": gram(y)}
    close(grams(model.apply, params, x)["gram"], want)


def test_torch_layout() -> None:
    found = grams(lambda p, x: x @ p["weight"].T, {"weight": normal(2, 3, 5)}, x := normal(1, 7, 5))
    close(found["gram"], {"weight": gram(x)})


def test_nnx_linear() -> None:
    definition, state = nnx.split(nnx.Linear(5, 3, rngs=nnx.Rngs(0)))
    found = grams(lambda p, x: nnx.merge(definition, p)(x), state, x := normal(1, 7, 5))
    close(found["gram"], {"kernel": gram(x)})


def test_equinox_linear_under_vmap() -> None:
    model = eqx.nn.MLP(5, 3, 4, 1, key=jax.random.key(0))
    found = grams(lambda p, x: jax.vmap(p)(x), model, x := normal(1, 7, 5))
    first = jax.tree.map(np.asarray, model.layers[0])
    h = np.maximum(x @ first.weight.T + first.bias[None], 0)
    close(found["gram"], {"layers/0/weight": gram(x), "layers/1/weight": gram(h)})


def experts(p: Any, x: Any) -> Any:
    h = jax.nn.relu(jnp.einsum("ebd,edf->ebf", x, p["up"]))
    return jnp.einsum("ebf,efd->ebd", h, p["down"])


def test_experts_each_with_a_batch() -> None:
    p = filled({"up": (3, 4, 6), "down": (3, 6, 4)})
    x = normal(1, 3, 5, 4)
    h = np.maximum(np.einsum("ebd,edf->ebf", x, p["up"]), 0)
    want = {"up": np.stack([gram(xe) for xe in x]), "down": np.stack([gram(he) for he in h])}
    close(grams(experts, p, x)["gram"], want)


def test_experts_that_share_an_input_and_an_output() -> None:
    """Each sees all tokens on the way in; on the way out, its own part of what is summed over experts."""
    p = filled({"up": (3, 4, 6), "down": (3, 6, 4), "gate": (4, 3)})

    def apply(p: Any, x: Any) -> Any:
        h = jax.nn.relu(jnp.einsum("bd,edf->bef", x, p["up"]))
        return jnp.einsum("be,bef,efd->bd", jax.nn.softmax(x @ p["gate"]), h, p["down"])

    x = normal(1, 5, 4)
    gate = softmax(x @ p["gate"])
    h = gate[..., None] * np.maximum(np.einsum("bd,edf->bef", x, p["up"]), 0)
    want = {"up": np.stack([gram(x)] * 3), "down": np.stack([gram(h[:, e]) for e in range(3)]), "gate": gram(x)}
    close(grams(apply, p, x)["gram"], want)
    whole = grams(apply, p, x, axes=Axes({"down": "in in out", "up": "out in out"}))
    close(whole["gram"], {"up": gram(x), "down": gram(h.reshape(5, 18)), "gate": gram(x)})


def test_names_that_say_nothing_follow_the_program() -> None:
    p = {"wq": normal(2, 4, 2, 3), "wo": normal(3, 2, 3, 4)}
    x = normal(1, 5, 4)
    found = grams(lambda p, x: jnp.einsum("bhe,hed->bd", jnp.einsum("bd,dhe->bhe", x, p["wq"]), p["wo"]), p, x)
    q = np.einsum("bd,dhe->bhe", x, p["wq"])
    by_head = np.stack([gram(q[:, h]) for h in range(2)])  # by name wo is a stack of matrices: its diagonal blocks
    close(found["gram"], {"wq": gram(x), "wo": by_head})
    assert [a.role for a in found.axes.of(("wq",), (4, 2, 3))] == ["in", "out", "out"]


def test_embedding_is_a_diagonal_of_counts() -> None:
    model = nn.Embed(7, 4)
    ids = tokens(1, 7, 3, 5)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), ids))
    found = ws.calibrate(model.apply, params, [ids[:1], ids[1:]], ["gram", "mean", "abs_max", "variance"])
    count = np.bincount(np.asarray(ids).ravel(), minlength=7) / 15
    assert isinstance(found["gram"]["params"]["embedding"], ws.stats.Diagonal)
    close(found["gram"], {"params/embedding": np.diag(count)})
    close(found["mean"], {"params/embedding": count})
    close(found["abs_max"], {"params/embedding": (count > 0) * 1.0})
    close(found["variance"], {"params/embedding": count * (1 - count)})


def test_tied_table_is_a_head_if_asked() -> None:
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, ids: Any) -> Any:
            embed = nn.Embed(7, 4)
            return embed.attend(jnp.tanh(embed(ids)))

    model, ids = Tied(), tokens(1, 7, 3, 5)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), ids))
    h = np.tanh(params["params"]["Embed_0"]["embedding"])[ids]
    looked = grams(model.apply, params, ids)
    close(looked["gram"], {"params/Embed_0/embedding": np.diag(np.bincount(np.asarray(ids).ravel(), minlength=7) / 15)})
    assert looked.apart == {"params/Embed_0/embedding": "dot_general over axis 1"}
    head = grams(model.apply, params, ids, axes=Axes({"embedding": "out in"}))
    close(head["gram"], {"params/Embed_0/embedding": gram(h)})
    assert head.apart == {"params/Embed_0/embedding": "gather over axis 0"}


@pytest.mark.parametrize(("stride", "dilation", "pad"), [(1, 1, 1), (2, 1, 0), (1, 2, 1), (2, 2, 1)])
def test_conv(stride: int, dilation: int, pad: int) -> None:
    model = nn.Conv(4, (3, 2), stride, ((pad, pad), (pad, pad)), kernel_dilation=dilation)
    x = normal(1, 2, 7, 6, 3)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    rows = patches(x, (3, 2), stride, pad, dilation).reshape(-1, 18)
    found = grams(model.apply, params, x)
    close(found["gram"], {"params/kernel": gram(rows)})
    w = params["params"]["kernel"]
    matrix = matrix_view(Axes().of(("params", "kernel"), w.shape), w.shape).to_matrix(w)
    y = jax.jit(model.apply)(params, x) - params["params"]["bias"][None, None, None]
    np.testing.assert_allclose(rows @ np.asarray(matrix), np.asarray(y).reshape(-1, 4), atol=2e-5)


@pytest.mark.parametrize(("groups", "out"), [(2, 4), (6, 6), (6, 12), (3, 3)])
def test_grouped_conv_sees_every_group(groups: int, out: int) -> None:
    model = nn.Conv(out, (3, 3), feature_group_count=groups, padding="VALID")
    x = normal(1, 2, 6, 5, 6)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    rows = patches(x, (3, 3))  # [2, 4, 3, 3, 3, 6]
    each = rows.reshape(*rows.shape[:5], groups, 6 // groups)
    each = np.moveaxis(each, 5, 3).reshape(-1, 9 * 6 // groups)
    close(grams(model.apply, params, x)["gram"], {"params/kernel": gram(each)})


def test_conv_in_torch_layout_and_one_dimension() -> None:
    x = normal(1, 2, 3, 8)  # NCH
    w = {"weight": normal(2, 5, 3, 4)}
    found = grams(lambda p, x: jax.lax.conv(x, p["weight"], (2,), "VALID"), w, x)
    rows = np.stack([np.asarray(x)[:, :, i : i + 4] for i in range(0, 5, 2)], 1)  # [2, 3, channel, tap]
    close(found["gram"], {"weight": gram(rows.transpose(0, 1, 3, 2).reshape(-1, 12))})


def test_transposed_conv() -> None:
    model = nn.ConvTranspose(4, (3, 3), (2, 2), padding="VALID")
    x = normal(1, 2, 3, 3, 2)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    grown = np.zeros((2, 5, 5, 2))
    grown[:, ::2, ::2] = x
    rows = patches(grown, (3, 3), pad=2).reshape(-1, 18)
    close(grams(model.apply, params, x)["gram"], {"params/kernel": gram(rows)})


def test_conv_under_vmap_over_models() -> None:
    """Batching a convolution folds the models into groups of channels. The name says nothing of inputs."""
    p, x = {"b": normal(2, 3, 3, 3, 2, 4)}, normal(1, 3, 2, 5, 5, 2)

    def apply(p: Any, x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.vmap(lambda w, x: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=numbers))(
            p["b"], x
        )

    found = grams(apply, p, x)
    assert [a.role for a in found.axes.of(("b",), (3, 3, 3, 2, 4))] == ["stack", "space", "space", "in", "out"]
    close(found["gram"], {"b": np.stack([gram(patches(xi, (3, 3)).reshape(-1, 18)) for xi in x])})


def test_vmap_over_stacked_parameters_and_over_examples() -> None:
    p, x = {"kernel": normal(2, 3, 5, 4)}, normal(1, 3, 6, 5)
    each = jax.vmap(lambda w, x: jnp.tanh(x @ w))
    want = {"kernel": np.stack([gram(xi) for xi in x])}
    close(grams(lambda p, x: each(p["kernel"], x), p, x)["gram"], want)
    one = jax.vmap(lambda x: jax.vmap(lambda w, x: x @ w)(p["kernel"], x), in_axes=1)
    close(grams(lambda p, x: one(x) + 0 * each(p["kernel"], x).sum(), p, x)["gram"], want)


def test_followed_through_reshape_transpose_cast_and_slice() -> None:
    def apply(p: Any, x: Any) -> Any:
        w = p["w"].astype(jnp.bfloat16).reshape(2, 3, 8).transpose(2, 1, 0)  # [8, 3, 2]
        y = jnp.einsum("bij,oji->bo", x.reshape(-1, 2, 3), w[2:6].astype(jnp.float32))
        part = jax.lax.stop_gradient(p["v"])[:, 1:3]
        return y + jnp.pad(x[:, :5] @ part, ((0, 0), (0, 2)))

    p, x = filled({"w": (6, 8), "v": (5, 4)}), normal(1, 7, 6)
    close(grams(apply, p, x)["gram"], {"w": gram(x), "v": gram(x[:, :5])})


def test_masks_and_scales_of_the_weights_are_looked_through() -> None:
    def apply(p: Any, x: Any) -> Any:
        unit = p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True) * p["g"][None]
        return jnp.where(p["v"] > 0, unit + p["down"] @ p["up"], 0 * unit).T @ x.T

    p, x = filled({"v": (5, 4), "g": (4,), "down": (5, 2), "up": (2, 4)}), normal(1, 7, 5)
    found = grams(apply, p, x)
    close(found["gram"], {"v": gram(x)})
    assert found.unmet.keys() == {"g", "down", "up"}


def test_a_slice_of_the_inputs_fills_its_block() -> None:
    p, x, h = {"kernel": normal(2, 8, 4)}, normal(1, 7, 5), normal(3, 7, 3)
    found = grams(lambda p, xh: xh[0] @ p["kernel"][:5] + xh[1] @ p["kernel"][5:], p, (x, h))
    want = np.zeros((8, 8))
    want[:5, :5], want[5:, 5:] = gram(x), gram(h)
    close(found["gram"], {"kernel": want})


def test_slices_of_slices_that_overlap_and_see_different_numbers_of_tokens() -> None:
    """Entry (i, j) is the sum over tokens that have both inputs, over the geometric mean of the tokens of i and j."""
    p, x, h = {"kernel": normal(2, 8, 4)}, normal(1, 7, 5), normal(3, 2, 4)
    found = grams(lambda p, xh: (xh[0] @ p["kernel"][:5], xh[1] @ p["kernel"][1:][2:][:4]), p, (x, h))
    total, count = np.zeros((8, 8)), np.zeros(8)
    for rows, at in ((x, slice(0, 5)), (h, slice(3, 7))):
        total[at, at] += len(rows) * gram(rows)
        count[at] += len(rows)
    want = total / np.sqrt(np.maximum(1, np.outer(count, count)))
    close(found["gram"], {"kernel": want})


def test_weights_without_a_free_axis() -> None:
    """A product with both axes, and one vector a head."""
    p, x, h = filled({"kernel": (3, 4), "heads": (2, 4)}), normal(1, 5, 3, 4), normal(3, 5, 2, 4)
    found = grams(
        lambda p, xh: (jnp.einsum("bij,ij->b", xh[0], p["kernel"]), jnp.einsum("bhd,hd->bh", xh[1], p["heads"])),
        p,
        (x, h),
    )
    close(found["gram"], {"kernel": gram(x.reshape(5, 12)), "heads": gram(h)})
    assert [a.role for a in found.axes.of(("heads",), (2, 4))] == ["out", "in"]


def test_uses_add_up() -> None:
    p, x = {"kernel": normal(2, 5, 5)}, normal(1, 7, 5)
    found = grams(lambda p, x: jnp.tanh(x @ p["kernel"]) @ p["kernel"], p, x)
    close(found["gram"], {"kernel": gram(np.concatenate([x, np.tanh(x @ p["kernel"])]))})


def test_fused_projections_made_by_concatenation() -> None:
    p, x = filled({"q": (5, 4), "k": (5, 3)}), normal(1, 7, 5)
    found = grams(lambda p, x: x @ jnp.concatenate([p["q"], p["k"]], 1), p, x)
    close(found["gram"], {"q": gram(x), "k": gram(x)})


def test_one_input() -> None:
    found = grams(lambda p, x: x @ p["kernel"], {"kernel": normal(2, 1, 4)}, x := normal(1, 7, 1))
    close(found["gram"], {"kernel": gram(x)})


def test_half_precision_activations_are_accumulated_in_float32() -> None:
    x = normal(1, 4096, 5).astype(jnp.bfloat16)
    found = grams(lambda p, x: x @ p["kernel"], {"kernel": normal(2, 5, 4).astype(jnp.bfloat16)}, x)
    assert entries(found["gram"])["kernel"].dtype == np.float32
    close(found["gram"], {"kernel": gram(x.astype(jnp.float32))})


def test_what_meets_nothing_is_named() -> None:
    def apply(p: Any, ids: Any) -> Any:
        x = p["table"][ids] + p["positions"][None, : ids.shape[1]] + p["learned"][jnp.arange(ids.shape[1])][None]
        y = x @ jnp.concatenate([p["top"], p["bottom"]])
        return (p["first"] @ p["second"])[None] + y * p["scale"][None, None]

    shapes = {"table": (7, 4), "positions": (9, 4), "learned": (5, 4), "top": (1, 4), "bottom": (3, 4), "scale": (4,)}
    p = filled(shapes | {"first": (5, 3), "second": (3, 4), "unused": (2, 2)})
    found = grams(apply, p, tokens(1, 7, 3, 5))
    assert entries(found["gram"]).keys() == {"table"}
    assert found.unmet == {
        "positions": "meets no contraction (last seen in add)",
        "learned": "meets no contraction (last seen in gather)",
        "top": "meets a dot_general, but its inputs are joined with other values",
        "bottom": "meets a dot_general, but its inputs are joined with other values",
        "scale": "meets no contraction (last seen in mul)",
        "first": "meets no contraction (last seen in dot_general)",
        "second": "meets no contraction (last seen in dot_general)",
        "unused": "is not used",
    }
