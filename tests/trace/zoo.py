"""Without these models nothing would show that symmetry groups are found in programs as people write them.

Each entry is a small model as a function of its parameters, with the shapes of its groups counted by hand. `(8,)` is a
group of 8 coordinates; `(4, 8)` has one permutation of 8 for each of 4 indices (layers, heads, experts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from tests.trace import transformers
from tests.trace.layers import dense, drawn, images, normal, tokens

Made = tuple[Callable[..., Any], Any, tuple[Any, ...]]


class Entry(NamedTuple):
    """make: -> (apply, params, inputs). groups: shape -> how many. fixed: leaves on which no group acts."""

    make: Callable[[], Made]
    groups: Mapping[tuple[int, ...], int]
    fixed: tuple[str, ...] = ()


def linen(module: nn.Module, *inputs: Any) -> Made:
    """A flax model with random values in every leaf; variances are positive."""
    return module.apply, normal(jax.eval_shape(module.init, jax.random.key(0), *inputs)), inputs


def mlp() -> Made:
    def apply(p: Any, x: Any) -> Any:
        for name in ("a", "b"):
            x = jnp.maximum(dense(p[name], x), 0)
        return jax.nn.log_softmax(dense(p["head"], x))

    sizes = {"a": (5, 8), "b": (8, 12), "head": (12, 3)}
    return apply, drawn({n: {"kernel": s, "bias": s[1:]} for n, s in sizes.items()}), (images(5),)


class LeNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for width in (4, 6):
            x = nn.max_pool(nn.tanh(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(10)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


class VGG(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for width in (4, 4, 0, 6, 6, 0):
            x = nn.relu(nn.Conv(width, (3, 3))(x)) if width else nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.Dropout(0.5, deterministic=True)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


class ResNet(nn.Module):
    """Three stages of three blocks, as ResNet-20; widths 4, 6, 8."""

    norm: Callable[..., Any]
    padded: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(self.norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        for width, stride in ((4, 1), (4, 1), (4, 1), (6, 2), (6, 1), (6, 1), (8, 2), (8, 1), (8, 1)):
            y = nn.relu(self.norm()(nn.Conv(width, (3, 3), stride, use_bias=False)(x)))
            y = self.norm()(nn.Conv(width, (3, 3), use_bias=False)(y))
            if width != x.shape[-1]:
                x = self.shortcut(x, width, stride)
            x = nn.relu(x + y)
        return nn.Dense(3)(x.mean((1, 2)))

    def shortcut(self, x: Any, width: int, stride: int) -> Any:
        if self.padded:
            grow = (width - x.shape[-1]) // 2
            return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (grow, grow)))
        return self.norm()(nn.Conv(width, (1, 1), stride, use_bias=False)(x))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(4, (3, 3))(x)
        for _ in range(3):
            y = nn.BatchNorm(use_running_average=True)(x)
            x = jnp.concatenate([x, nn.Conv(3, (3, 3))(nn.relu(y))], axis=-1)
        x = nn.Conv(5, (1, 1))(nn.relu(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        skips = []
        for width in (4, 6):
            x = nn.relu(nn.GroupNorm(2)(nn.Conv(width, (3, 3))(x)))
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        for width in (6, 4):
            x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
            x = nn.relu(nn.Conv(width, (3, 3))(jnp.concatenate([skips.pop(), x], -1)))
        return nn.Conv(2, (1, 1))(x)


class MobileNet(nn.Module):
    """Depthwise and grouped convolution, squeeze and excitation."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.relu6(nn.Conv(6, (3, 3), feature_group_count=6)(x))
        gate = nn.sigmoid(nn.Dense(6)(nn.relu(nn.Dense(3)(x.mean((1, 2), keepdims=True)))))
        x = nn.Conv(12, (3, 3), feature_group_count=2)(x * gate)
        return nn.Dense(3)(nn.silu(x).mean((1, 2)))


def lstm() -> Made:
    def apply(p: Any, x: Any) -> Any:
        def turn(carry: Any, xt: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(dense(p["x"], xt) + h @ p["h"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = (jnp.zeros((x.shape[0], 6)), jnp.zeros((x.shape[0], 6)))
        (_, c), hs = jax.lax.scan(turn, start, x.swapaxes(0, 1))
        return dense(p["head"], hs[-1] + hs.mean(0)) + c @ p["cell"]

    shapes = {
        "x": dict(kernel=(5, 24), bias=(24,)),
        "head": dict(kernel=(6, 2), bias=(2,)),
        "h": (6, 24),
        "cell": (6, 2),
    }
    params = drawn(shapes)
    return apply, params, (images(7, 5),)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.RNN(nn.OptimizedLSTMCell(6))(x)
        return nn.Dense(2)(nn.RNN(nn.GRUCell(4))(x)[:, -1])


def experts(most: int | None) -> Made:
    """A mixture of 4 experts; only the `most` likely ones count, or all."""

    def apply(p: Any, x: Any) -> Any:
        x = dense(p["in"], x)
        gate = jax.nn.softmax(x @ p["router"])
        if most:
            best, which = jax.lax.top_k(gate, most)
            gate = (best[..., None] * jax.nn.one_hot(which, 4)).sum(-2)
        h = jax.nn.gelu(jnp.einsum("bd,edh->beh", x, p["up"]) + p["bias"][None])
        return dense(p["out"], x + jnp.einsum("be,beh,ehd->bd", gate, h, p["down"]))

    shapes = {"up": (4, 6, 8), "bias": (4, 8), "down": (4, 8, 6), "router": (6, 4)}
    shapes |= {"in": dict(kernel=(5, 6), bias=(6,)), "out": dict(kernel=(6, 2), bias=(2,))}
    return apply, drawn(shapes), (images(5),)


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(4 * 36, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(x.reshape(x.shape[0], -1))


class NnxAttention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.RMSNorm(8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.embed(x)
        return self.embed.attend(self.norm(x + self.attention(x)))


def nnx_model(cls: type[nnx.Module], *inputs: Any) -> Made:
    definition, state = nnx.split(nnx.eval_shape(lambda: cls(nnx.Rngs(0))))
    return lambda p, *x: nnx.merge(definition, p)(*x), normal(state), inputs


def eqx_mlp() -> Made:
    model = eqx.nn.MLP(5, 3, 8, 2, key=jax.random.key(0))
    return lambda p, x: jax.vmap(p)(x), normal(model), (images(5),)


class EqxConv(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Linear

    def __call__(self, x: Any) -> Any:
        return self.head(jax.nn.relu(self.norm(self.conv(x))).reshape(-1))


def eqx_conv() -> Made:
    key = jax.random.key(0)
    model = EqxConv(eqx.nn.Conv2d(2, 6, 3, key=key), eqx.nn.GroupNorm(3, 6), eqx.nn.Linear(96, 3, key=key))
    return lambda p, x: jax.vmap(p)(jnp.moveaxis(x, -1, 1)), normal(model), (images(6, 6, 2),)


def haiku_model(net: Callable[[Any], Any], *inputs: Any) -> Made:
    """A function of haiku modules, without its random key."""
    model = hk.without_apply_rng(hk.transform(net))
    return model.apply, normal(jax.eval_shape(model.init, jax.random.key(0), *inputs)), inputs


def haiku_conv(x: Any) -> Any:
    x = jax.nn.relu(hk.GroupNorm(2)(hk.Conv2D(4, 3)(x)))
    x = hk.Conv2D(6, 3, stride=2)(x)
    return hk.Linear(3)(hk.Flatten()(jax.nn.gelu(x)))


def haiku_transformer(x: Any) -> Any:
    """One block on embedded tokens."""
    x = hk.Embed(11, 8)(x)
    y = hk.LayerNorm(-1, True, True)(x)
    x = x + hk.MultiHeadAttention(2, 4, model_size=8, w_init=hk.initializers.VarianceScaling(1.0))(y, y, y)
    x = x + hk.nets.MLP([10, 8], activation=jax.nn.gelu)(hk.LayerNorm(-1, True, True)(x))
    return hk.Linear(3)(x.mean(1))


def _batch_norm() -> nn.Module:
    return nn.BatchNorm(use_running_average=True)


IMAGE = images(8, 8, 2)
RESNET = {(4,): 4, (6,): 4, (8,): 4}  # each stage: its stream, and the inside of 3 blocks

ZOO: dict[str, Entry] = {
    "mlp": Entry(mlp, {(8,): 1, (12,): 1}, ("head/bias",)),
    "lenet": Entry(lambda: linen(LeNet(), IMAGE), {(4,): 1, (6,): 1, (10,): 1}, ("params/Dense_1/bias",)),
    "vgg": Entry(lambda: linen(VGG(), IMAGE), {(4,): 2, (6,): 2, (8,): 1}, ("params/Dense_0/bias",)),
    "resnet20-batch": Entry(lambda: linen(ResNet(_batch_norm), IMAGE), RESNET, ("params/Dense_0/bias",)),
    "resnet20-layer": Entry(lambda: linen(ResNet(nn.LayerNorm), IMAGE), RESNET, ("params/Dense_0/bias",)),
    # stream: 4 channels go through; 1 + 1 are added twice, trivial groups; inside: as above
    "resnet20-padded": Entry(
        lambda: linen(ResNet(_batch_norm, padded=True), IMAGE), {(4,): 4, (6,): 3, (8,): 3}, ("params/Dense_0/bias",)
    ),
    # the first 4 channels, what each of 3 layers adds, the transition
    "densenet": Entry(lambda: linen(DenseNet(), IMAGE), {(4,): 1, (3,): 3, (5,): 1}, ("params/Dense_0/bias",)),
    # skips: 2 groups of channels of 2 and of 3; middle 8; up: transposed 6 and 4, after concatenation 6 and 4
    "unet": Entry(
        lambda: linen(UNet(), IMAGE),
        {(2,): 2, (2, 2): 1, (2, 3): 1, (8,): 1, (6,): 2, (4,): 2},
        ("params/Conv_5/bias",),
    ),
    # 2 groups of 3 channels each, of which the second layer makes 2 groups of 6; squeeze 3
    "mobilenet": Entry(
        lambda: linen(MobileNet(), IMAGE), {(2,): 1, (2, 3): 1, (2, 6): 1, (3,): 1}, ("params/Dense_2/bias",)
    ),
    "lstm": Entry(lstm, {(6,): 1}, ("head/bias",)),
    "recurrent": Entry(lambda: linen(Recurrent(), images(7, 5)), {(6,): 1, (4,): 1}, ("params/Dense_0/bias",)),
    # stream, experts, hidden units of each expert
    "experts": Entry(lambda: experts(None), {(6,): 1, (4,): 1, (4, 8): 1}, ("out/bias",)),
    "experts-top2": Entry(lambda: experts(2), {(6,): 1, (4,): 1, (4, 8): 1}, ("out/bias",)),
    "nnx-conv": Entry(lambda: nnx_model(NnxNet, images(6, 6, 2)), {(4,): 1}, ("head/bias",)),
    # stream, heads, head_dim of query and key, head_dim of value
    "nnx-attention": Entry(lambda: nnx_model(NnxAttention, tokens(5)), {(8,): 1, (2,): 1, (2, 4): 2}),
    "eqx-mlp": Entry(eqx_mlp, {(8,): 2}, ("layers/2/bias",)),
    "eqx-conv": Entry(eqx_conv, {(3,): 1, (3, 2): 1}, ("head/bias",)),
    # 2 halves of the first layer, as its norm has them; the second
    "haiku-conv": Entry(lambda: haiku_model(haiku_conv, IMAGE), {(2,): 1, (2, 2): 1, (6,): 1}, ("linear/b",)),
    # stream, heads, head_dim of query and key, of value, hidden
    "haiku-transformer": Entry(
        lambda: haiku_model(haiku_transformer, tokens(5)), {(8,): 1, (2,): 1, (2, 4): 2, (10,): 1}, ("linear/b",)
    ),
    # stream; in each of 2 blocks: heads, head_dim of query and key, head_dim of value, hidden
    "vit": Entry(transformers.vit, {(8,): 1, (2,): 2, (2, 4): 4, (10,): 2}, ("params/Dense_0/bias",)),
    "gpt": Entry(transformers.gpt, {(8,): 1, (2,): 2, (2, 4): 4, (10,): 2}),
    # stream; in each of 2 blocks: key-value heads, query heads of each, head_dim of value (rotary fixes the other); ffn
    "llama": Entry(transformers.llama, {(8,): 1, (2,): 2, (2, 2): 2, (2, 4): 2, (10,): 2}),
    # as above, but one element for each of 3 layers
    "llama-scanned": Entry(transformers.llama_scanned, {(8,): 1, (3, 2): 1, (3, 2, 2): 1, (3, 2, 4): 1, (3, 10): 1}),
    "llama-unrolled": Entry(transformers.llama_unrolled, {(8,): 1, (3, 2): 1, (3, 2, 2): 1, (3, 2, 4): 1, (3, 10): 1}),
    "flax-scanned": Entry(
        transformers.scanned, {(8,): 1, (3, 2): 1, (3, 2, 4): 2, (3, 10): 1}, ("params/Dense_1/bias",)
    ),
}
