"""Without it parameters inside scan, remat, loops and branches could lose their statistics, or get another layer's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import wspace as ws
from tests.calibrate.truths import close, filled, gram, normal, tokens
from wspace.core.axes import Axes


def layers(w: Any, x: Any) -> list[np.ndarray]:
    """The input of every layer of tanh(x @ w), and the last output."""
    seen = [np.asarray(x, np.float64)]
    for wi in np.asarray(w, np.float64):
        seen.append(np.tanh(seen[-1] @ wi))
    return seen


def stack(rows: Any) -> np.ndarray:
    return np.stack([gram(x) for x in rows])


W, X = normal(2, 3, 4, 4), normal(1, 6, 4)


def scanned(w: Any, x: Any, **how: Any) -> Any:
    return jax.lax.scan(lambda x, wi: (jnp.tanh(x @ wi), None), x, w, **how)[0]


def test_scan_over_layers_stacks_the_summaries() -> None:
    found = ws.calibrate(
        lambda p, x: scanned(p["kernel"], x), {"kernel": W}, [X[:2], X[2:]], ["gram", "mean", "abs_max"]
    )
    seen = layers(W, X)[:-1]
    close(found["gram"], {"kernel": stack(seen)})
    close(found["mean"], {"kernel": np.stack([x.mean(0) for x in seen])})
    close(found["abs_max"], {"kernel": np.stack([np.abs(x).max(0) for x in seen])})


def test_reversed_scan_over_a_part_of_the_layers() -> None:
    found = ws.calibrate(lambda p, x: scanned(p["kernel"][1:], x, reverse=True), {"kernel": W}, [X], "gram")
    last, first = layers(W[::-1], X)[:2], np.zeros((4, 4))
    close(found["gram"], {"kernel": np.stack([first, gram(last[1]), gram(last[0])])})


def test_layers_by_index() -> None:
    def apply(p: Any, x: Any) -> Any:
        for k in range(3):
            x = jnp.tanh(x @ p["kernel"][k])
        return x

    close(ws.calibrate(apply, {"kernel": W}, [X], "gram")["gram"], {"kernel": stack(layers(W, X)[:-1])})


def test_flax_scan_and_remat() -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: Any) -> Any:
            return x + nn.Dense(4, name="down")(nn.relu(nn.Dense(6, name="up")(x))), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            many = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return many(name="blocks")(x, None)[0]

    params = filled(jax.eval_shape(Model().init, jax.random.key(0), X))
    x, ups, downs = np.asarray(X, np.float64), [], []
    for k in range(3):
        up, down = (
            {n: np.asarray(w[k], np.float64) for n, w in params["params"]["blocks"][part].items()}
            for part in ("up", "down")
        )
        h = np.maximum(x @ up["kernel"] + up["bias"], 0)
        ups, downs = [*ups, x], [*downs, h]
        x = x + h @ down["kernel"] + down["bias"]
    want = {"params/blocks/down/kernel": stack(downs), "params/blocks/up/kernel": stack(ups)}
    close(ws.calibrate(Model().apply, params, [X], "gram")["gram"], want)


def test_scan_in_scan() -> None:
    """Two layers of three turns each; the inner loop's constant is stacked by the outer one."""
    p = {"kernel": normal(2, 2, 3, 4, 4), "shared": normal(3, 2, 4, 4)}

    def apply(p: Any, x: Any) -> Any:
        def outer(x: Any, part: Any) -> Any:
            kernels, shared = part
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w) @ shared / 4, None), x, kernels)[0], None

        return jax.lax.scan(outer, x, (p["kernel"], p["shared"]))[0]

    x, ins, middles = np.asarray(X, np.float64), [], []
    for i in range(2):
        for j in range(3):
            h = np.tanh(x @ np.asarray(p["kernel"][i, j], np.float64))
            ins, middles = [*ins, x], [*middles, h]
            x = h @ np.asarray(p["shared"][i], np.float64) / 4
    want = {"kernel": stack(ins).reshape(2, 3, 4, 4), "shared": stack(np.reshape(middles, (2, 18, 4)))}
    close(ws.calibrate(apply, p, [X], "gram", axes=Axes({"kernel": "stack stack in out"}))["gram"], want)


def test_recurrent_weights_add_up_over_time() -> None:
    p, x = filled({"x": {"kernel": (3, 4)}, "h": {"kernel": (4, 4)}}), normal(1, 2, 5, 3)

    def apply(p: Any, x: Any) -> Any:
        def turn(h: Any, xt: Any) -> Any:
            h = jnp.tanh(xt @ p["x"]["kernel"] + h @ p["h"]["kernel"])
            return h, h

        return jax.lax.scan(turn, jnp.zeros((2, 4)), x.swapaxes(0, 1))

    h, states = np.zeros((2, 4)), []
    for t in range(5):
        states.append(h)
        h = np.tanh(np.asarray(x[:, t], np.float64) @ p["x"]["kernel"] + h @ p["h"]["kernel"])
    close(ws.calibrate(apply, p, [x], "gram")["gram"], {"x/kernel": gram(x), "h/kernel": gram(states)})


def test_while_loop_counts_the_turns_that_were_made() -> None:
    def apply(p: Any, batch: Any) -> Any:
        x, turns = batch
        return jax.lax.while_loop(lambda s: s[0] < turns, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["kernel"])), (0, x))

    for turns in (1, 3):
        found = ws.calibrate(apply, {"kernel": W[0]}, [(X, jnp.int32(turns))], ["gram", "variance"])
        rows = np.concatenate(layers([W[0]] * turns, X)[:-1])
        close(found["gram"], {"kernel": gram(rows)})
        close(found["variance"], {"kernel": rows.var(0)})


def test_the_branch_that_is_taken() -> None:
    def apply(p: Any, batch: Any) -> Any:
        x, which = batch
        return jax.lax.cond(which, lambda: jnp.tanh(x) @ p["a"], lambda: x @ p["b"])

    p = filled({"a": (4, 3), "b": (4, 3)})
    found = ws.calibrate(apply, p, [(X, jnp.bool_(k > 0)) for k in range(3)], "gram")
    close(found["gram"], {"a": gram(np.tanh(X)), "b": gram(X)})
    never = ws.calibrate(apply, p, [(X, jnp.bool_(False))], "gram")
    np.testing.assert_array_equal(never["gram"]["a"], np.zeros((4, 4)))


def test_through_jit_and_custom_derivatives() -> None:
    @jax.custom_vjp
    def product(x: Any, w: Any) -> Any:
        return x @ w

    product.defvjp(lambda x, w: (product(x, w), None), lambda _, g: (g, g))

    @jax.custom_jvp
    def other(x: Any, w: Any) -> Any:
        return x @ w

    other.defjvp(lambda primals, tangents: (other(*primals), other(*primals)))
    p = {"a": {"kernel": W[0]}, "b": {"kernel": W[1]}}
    found = ws.calibrate(
        lambda p, x: jax.jit(other)(jnp.tanh(jax.jit(product)(x, p["a"]["kernel"])), p["b"]["kernel"]), p, [X], "gram"
    )
    close(found["gram"], {"a/kernel": gram(X), "b/kernel": gram(np.tanh(X @ W[0]))})


def test_weights_are_followed_into_scanned_layers() -> None:
    """A transformer with padding: the same statistics as without the padding."""
    model = nn.MultiHeadDotProductAttention(2)
    ids, mask = tokens(1, 7, 3, 5), jnp.arange(5)[None] < jnp.array([5, 2, 2])[:, None]
    one = jax.eval_shape(model.init, jax.random.key(0), normal(0, 1, 5, 4))
    p = {"embed": normal(5, 7, 4), "layers": filled(jax.tree.map(lambda s: (2, *s.shape), one))}

    def apply(p: Any, batch: Any) -> Any:
        ids, mask = batch

        def layer(x: Any, w: Any) -> Any:
            return x + model.apply(w, x, mask=mask[:, None, None]), None

        return jax.lax.scan(layer, p["embed"][ids], p["layers"])[0]

    found = ws.calibrate(apply, p, [(ids, mask)], ["gram", "abs_max"], weights=lambda batch: batch[1])
    apart = [(ids[:1], mask[:1]), (ids[1:, :2], mask[1:, :2])]
    want = ws.calibrate(apply, p, apart, ["gram", "abs_max"])
    for name in ("gram", "abs_max"):
        for a, b in zip(jax.tree.leaves(found[name]), jax.tree.leaves(want[name]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
