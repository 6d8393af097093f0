"""Norm tweaking: train the gains and biases of normalization layers so that channels of a quantized block keep their
means and variances."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wspace.core.containers import as_params
from wspace.core.errors import SelectionError, ShapeError
from wspace.core.implicit import materialize
from wspace.core.learn import descend
from wspace.core.select import Spec, join, split
from wspace.core.transform import working
from wspace.core.typing import Array, Progress, Tree, Where

Apply = Callable[[Tree, Any], Any]
NORMS = re.compile(r"(?i)(^|/|\.|_)(\w*norm\w*|ln\d*|ln_\w+)(/|\.|$)")


def norms(path: str, spec: Spec) -> bool:
    """Selects the vectors of layers whose name says that they normalize: LayerNorm_0, norm1, input_layernorm, ln_1."""
    return len(spec.shape) <= 1 and NORMS.search(path) is not None


@jax.jit
def channel_distribution_loss(wanted: Array, got: Array) -> Array:
    """How far the means and variances of channels are apart.

        L = 1/C sum_c (|mu_c(f) - mu_c(q)| + |var_c(f) - var_c(q)|),   over all tokens

    Args:
      wanted, got: f and q, `[..., channels]`.
    Returns:
      scalar, at least float32; 0 if all means and variances are equal.
    Raises:
      ShapeError: other numbers of channels.
    Example:
      >>> x = jnp.array([[0.0, 1.0], [2.0, 3.0]])
      >>> channel_distribution_loss(x, x), channel_distribution_loss(x, x + 1)
      (Array(0., dtype=float32), Array(1., dtype=float32))
    """
    if wanted.shape[-1:] != got.shape[-1:]:
        raise ShapeError(f"channel_distribution_loss: {wanted.shape[-1:]} and {got.shape[-1:]} channels differ")
    f, q = (working(x).reshape(-1, x.shape[-1]) for x in (wanted, got))
    means = jnp.abs(jnp.mean(f, axis=0) - jnp.mean(q, axis=0))
    return jnp.mean(means + jnp.abs(jnp.var(f, axis=0) - jnp.var(q, axis=0)))


@dataclass(frozen=True)
class _Apart:
    """The loss of one block. Equal ones share what was compiled."""

    apply: Apply
    loss: Callable[[Any, Any], Array]

    def __call__(self, train: Tree, rest: Tree, batch: Any, key: Array) -> Array:
        x, wanted = batch
        return self.loss(wanted, self.apply(materialize(join(train, rest)), x))


@cache
def _adam(lr: float) -> optax.GradientTransformation:
    return optax.adam(lr)


def norm_tweak(
    applies: Sequence[Apply],
    params: Sequence[Tree],
    quantized: Sequence[Tree],
    batches: Iterable[Any],
    lr: float = 1e-5,
    slope: float = 1.0,
    steps: int | None = None,
    where: Where = norms,
    loss: Callable[[Any, Any], Array] = channel_distribution_loss,
    progress: Progress | None = None,
) -> list[Tree]:
    """Tweak the norms of quantized blocks, in order: each one's channels shall be distributed as the unquantized one's.

        min over gains and biases of L(f_i(x_i), q_i(x^_i)),   x_i+1 = f_i(x_i),   x^_i+1 = q_i(x^_i)
        Adam with the rate lr_i = lr (1 + slope i / blocks)

    Only leaves that `where` selects change; the codes stay.

    Args:
      applies: (params, x) -> the next block's x, of each block. params, quantized: of each block, before and after
        quantization (QTensors, or anything that stands for arrays).
      batches: inputs of the first block, all of one shape; the paper's are texts that the model wrote itself.
      lr, slope: as above; 1e-5 in the paper's runs on large models. Static.
      steps: of Adam for each block; default one pass over the batches. Static.
      where: the leaves to train; by default vectors of layers whose names contain norm or ln.
      loss: (wanted, got) -> scalar.
      progress: called as (blocks done, blocks, words).
    Returns:
      The new quantized blocks. A block is left as it was if tweaking did not lower its mean loss.
    Raises:
      SelectionError: no batches, other numbers of blocks, or no leaf is selected in any block.
    Example:
      >>> def apply(p, x): return x * p["norm"]["scale"][None]
      >>> f, q = {"norm": {"scale": jnp.ones(2)}}, {"norm": {"scale": jnp.array([1.1, 0.8])}}
      >>> x = jax.random.normal(jax.random.key(0), (64, 2))
      >>> new = norm_tweak([apply], [f], [q], [x], lr=0.01, steps=100)
      >>> [round(g, 1) for g in new[0]["norm"]["scale"].tolist()]
      [1.0, 1.0]

    Reference: Li, Li, Zhang, Chu, 2023, "Norm Tweaking: High-performance Low-bit Quantization of Large
      Language Models".
    Differs from the paper: calibration data is the caller's; blocks are quantized beforehand, all at once; a block that
      gets worse stays.
    """
    f_in, n = list(batches), len(applies)
    if not f_in or not n or not len(params) == len(quantized) == n:
        raise SelectionError(
            f"norm_tweak: {n} programs, {len(params)} and {len(quantized)} blocks, {len(f_in)} batches; "
            "wanted as many blocks as programs, and at least one batch"
        )
    q_in, made, tweaked = f_in, [], 0
    for i, (apply, before, now) in enumerate(zip(applies, params, quantized, strict=True)):
        run = jax.jit(apply)
        wanted = [run(materialize(before), x) for x in f_in]
        if _has(now, where):
            tweaked += 1
            now = _tweaked(_Apart(apply, loss), now, q_in, wanted, where, lr * (1 + slope * i / n), steps)
        made.append(now)
        f_in, q_in = wanted, [run(materialize(now), x) for x in q_in]
        if progress is not None:
            progress(i + 1, n, f"block {i}")
    if not tweaked:
        raise SelectionError("norm_tweak: no leaf of any block is a norm; name them with where=")
    return made


def _has(tree: Tree, where: Where) -> bool:
    try:
        split(_plain(tree), where)
    except SelectionError:
        return False
    return True


def _plain(tree: Tree) -> Tree:
    """The arrays of a tree; nodes are left out, for they do not train here."""
    flat = as_params(tree)
    return flat.rebuild({p: None if hasattr(x, "materialize") else x for p, x in flat.leaves.items()})


def _tweaked(
    apart: _Apart, now: Tree, inputs: list[Any], wanted: list[Any], where: Where, lr: float, steps: int | None
) -> Tree:
    train, _ = split(_plain(now), where)
    mine, every = as_params(train).leaves, as_params(now)
    rest = every.rebuild({p: None if mine.get(p) is not None else x for p, x in every.leaves.items()})
    start = every.rebuild({p: mine.get(p) for p in every.leaves})
    batches = tuple(jax.tree.map(lambda *xs: jnp.stack(xs), *trees) for trees in (inputs, wanted))
    found = descend(apart, start, rest, batches, _adam(lr), steps=steps)
    measure = jax.jit(apart)
    key = jax.random.key(0)
    losses = [
        sum(float(measure(v, rest, pair, key)) for pair in zip(inputs, wanted, strict=True))
        for v in (start, found.values)
    ]
    return join(found.values, rest) if losses[1] < losses[0] else now
