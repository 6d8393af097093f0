"""Deleted, a rotation could change the function, or not be undone; its row is here too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

import wspace as ws
from tests.quant.training_rows import rounded
from tests.rows import Row
from wspace.core.errors import SideTreeError
from wspace.quant.rotate import drawn, rotate_array, rotate_gram, split_size, token_importance


def orthogonal(n: int, key: Any) -> np.ndarray:
    """Q, entry by entry from its definition; what is drawn is jax's."""
    signs, mix = (np.asarray(x, np.float64) for x in drawn(key, n, jnp.float32))
    _, p = split_size(n)
    return signs[:, None] * np.kron(mix, hadamard(p) / np.sqrt(p))


def truth(leaves: list[np.ndarray], sides: Any, key: Any, bits: int) -> np.ndarray:
    (w,) = leaves
    q = orthogonal(w.shape[-2], key)
    made = [q @ rounded(q.T @ x, bits) for x in np.reshape(w, (-1, *w.shape[-2:]))]
    return np.reshape(np.stack(made), w.shape)


ROWS = [
    Row(
        "quant.rotated",
        lambda bits: ws.quant.rotated(ws.quant.rtn(bits)),
        truth,
        settings={"bits": 3},
        matrices=True,
        random=True,
        gathers=True,
        tolerance=1e-5,
    )
]


@pytest.mark.parametrize("n", [1, 7, 16, 24])
def test_rotations_are_orthogonal_and_turned_back(n: int) -> None:
    key = jax.random.key(n)
    q = orthogonal(n, key)
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-5)
    signs, mix = drawn(key, n, jnp.float32)
    x = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    np.testing.assert_allclose(rotate_array(jnp.asarray(x), signs, mix), q.T @ x, atol=1e-5)
    np.testing.assert_allclose(
        rotate_array(rotate_array(jnp.asarray(x), signs, mix), signs, mix, back=True), x, atol=1e-5
    )
    gram = x @ x.T
    np.testing.assert_allclose(rotate_gram(jnp.asarray(gram), signs, mix), q.T @ gram @ q, atol=1e-4)


def test_an_outlying_input_no_longer_spoils_the_others() -> None:
    """RSQ's measured case: one input 30 times larger, 4 bits: the error falls to well under a tenth of it."""
    w = np.random.default_rng(1).standard_normal((128, 64)).astype(np.float32)
    w[5] *= 30

    def error(t: ws.Transform, **given: Any) -> float:
        return float(np.mean((np.asarray(ws.materialize(t({"kernel": jnp.asarray(w)}, **given))["kernel"]) - w) ** 2))

    plain = error(ws.quant.rtn(4))
    assert error(ws.quant.rotated(ws.quant.rtn(4)), key=jax.random.key(0)) < 0.2 * plain


def test_gptq_in_the_rotated_basis_sees_the_rotated_gram() -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((24, 16)).astype(np.float32)
    w[3] *= 20
    x = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 24)) + 0.2 * rng.standard_normal((200, 24))
    gram, key = (x.T @ x / 200).astype(np.float32), jax.random.key(3)
    node = ws.quant.rotated(ws.quant.gptq(3))({"kernel": jnp.asarray(w)}, gram={"kernel": gram}, key=key)["kernel"]
    alone = ws.quant.gptq(3)(
        {"kernel": rotate_array(jnp.asarray(w), node.signs, node.mix)},
        gram={"kernel": rotate_gram(jnp.asarray(gram), node.signs, node.mix)},
    )["kernel"]
    np.testing.assert_array_equal(node.inner.codes, alone.codes)

    def error(made: Any) -> float:
        e = np.asarray(made.materialize()) - w
        return float(np.trace(e.T @ gram @ e))

    rtn = ws.quant.rotated(ws.quant.rtn(3))({"kernel": jnp.asarray(w)}, key=key)["kernel"]
    assert error(node) < error(rtn)
    with pytest.raises(SideTreeError, match="only gram can be rotated"):
        ws.quant.rotated(ws.merge.ties())


def test_important_tokens_weigh_at_most_three_times_the_others() -> None:
    rng = np.random.default_rng(4)
    attention = rng.dirichlet(np.ones(7), (2, 3, 5)).astype(np.float32)
    got = np.asarray(token_importance(jnp.asarray(attention)))
    for b in range(2):
        c = [sum(attention[b, h, q, t] for h in range(3) for q in range(5)) for t in range(7)]
        r = [1 + 2 * (x - min(c)) / (max(c) - min(c)) for x in c]
        np.testing.assert_allclose(got[b], np.array(r) / np.mean(r), rtol=1e-5)
    np.testing.assert_array_equal(token_importance(jnp.full((1, 2, 4), 0.25)), 1)
