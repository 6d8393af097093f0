"""PV-Tuning: train codebooks by gradient and codes by small moves, with no copy of the weights in full precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.containers import as_params
from wspace.core.errors import SelectionError
from wspace.core.implicit import materialize
from wspace.core.select import join, split
from wspace.core.transform import over_stack
from wspace.core.typing import Array, Path, Progress, Tree
from wspace.quant.additive import VectorCodes, encode_vectors, runs_of
from wspace.stats.quantile import largest_mask, settled

PARTS = 20  # how often progress is told


class Tuned(NamedTuple):
    """params: the tree with new codes and codebooks. losses: float32 [steps], each before its step."""

    params: Tree
    losses: Array


def pv_tuning(
    loss: Callable[[Tree, Any], Array],
    params: Tree,
    batches: Tree,
    *,
    steps: int,
    codes: optax.GradientTransformation,
    books: optax.GradientTransformation,
    share: Array | float = 0.01,
    beam: int = 4,
    accept: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Alternate a step on the codebooks, with codes fixed, and a step on a small share of the codes.

        V: books, scales <- a step of `books` on their gradients
        P: W' = W + u, u the update that `codes` gives for the gradient of W;
           the vectors that W' changes most, a `share` of all, are encoded anew as the nearest to W'

    W' is thrown away: nothing is left in full precision.

    Args:
      loss: (params, batch) -> scalar, of materialized params; traceable. params: a tree with VectorCodes leaves.
      batches: a tree of arrays stacked on a first axis [n]; step i takes batch i modulo n.
      codes, books: optax optimizers; that of codes moves the weights, so its rate says how far codes may go, the other
        one moves codebooks and scales.
      share: of the vectors of each leaf, 0..1. Traced. beam: of `encode_vectors`. Static.
      accept: keep either step only if the loss of its batch does not rise: then on one batch it never rises. Static.
      progress: called as (steps done, steps, the latest loss in words).
    Returns:
      Tuned.
    Raises:
      SelectionError: no leaf is VectorCodes.
    Example:
      >>> import wspace as ws
      >>> w = {"kernel": jax.random.normal(jax.random.key(0), (8, 4))}
      >>> q = ws.quant.additive(dim=2, size=4)(w, key=jax.random.key(1))
      >>> far = lambda p, batch: jnp.mean((p["kernel"] - w["kernel"]) ** 2)
      >>> how = {"codes": optax.sgd(1.0), "books": optax.sgd(0.1)}
      >>> found = pv_tuning(far, q, None, steps=5, accept=True, **how)
      >>> bool((jnp.diff(found.losses) <= 0).all())
      True

    Reference: Malinovskii, Mazur, Ilin, Kuznedelev, Burlachenko, Yi, Alistarh, Richtarik, 2024, "PV-Tuning: Beyond
      Straight-Through Estimation for Extreme LLM Compression".
    Differs from the paper: the test of `accept` is on the loss; their code has one on the size of the change.
    """
    nodes = {p for p, x in as_params(params).leaves.items() if isinstance(x, VectorCodes)}
    if not nodes:
        raise SelectionError("pv_tuning: no leaf is VectorCodes; make them with ws.quant.additive(...)")
    train, rest = split(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        dense = {p: x.materialize() for p, x in as_params(params).leaves.items() if p in nodes}
        carry = (train, rest, books.init(train), codes.init(dense), jnp.zeros((steps,), jnp.float32))
    stops = [steps] if progress is None else sorted({-(-steps * k // PARTS) for k in range(1, PARTS + 1)})
    run = partial(_run, loss=loss, codes=codes, books=books, beam=beam, accept=accept)
    for first, last in zip([0, *stops[:-1]], stops, strict=True):
        carry = run(carry, first, last, batches, jnp.asarray(share, jnp.float32))
        if progress is not None:
            progress(last, steps, f"loss {float(carry[4][last - 1]):.4g}")
    return Tuned(join(carry[0], carry[1]), carry[4])


@partial(jax.jit, static_argnames=("loss", "codes", "books", "beam", "accept"))
def _run(carry: Any, first: Array, last: Array, batches: Tree, share: Array, **how: Any) -> Any:
    loss, codes, books = how["loss"], how["codes"], how["books"]
    n = max([len(x) for x in jax.tree.leaves(batches)], default=1)

    def step(i: Array, carry: Any) -> Any:
        train, rest, books_state, codes_state, losses = carry
        batch = jax.tree.map(lambda x: x[i % n], batches)

        def of(params: Tree) -> Array:
            return loss(materialize(params), batch)

        before, slope = jax.value_and_grad(lambda train: of(join(train, rest)))(train)
        with jax.numpy_dtype_promotion("standard"):
            updates, books_state = books.update(slope, books_state, train)
        train = _better(of, rest, optax.apply_updates(train, updates), train, before, how["accept"])
        params = join(train, rest)
        moved, codes_state = _moved(of, params, codes, codes_state, share, how["beam"])
        if how["accept"]:
            good = of(moved) <= of(params)
            moved = jax.tree.map(lambda a, b: jnp.where(good, a, b), moved, params)
        return train, split(moved)[1], books_state, codes_state, losses.at[i].set(before.astype(jnp.float32))

    return jax.lax.fori_loop(first, last, step, carry)


def _better(of: Callable[[Tree], Array], rest: Tree, new: Tree, old: Tree, before: Array, accept: bool) -> Tree:
    if not accept:
        return new
    good = of(join(new, rest)) <= before
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def _moved(
    of: Callable[[Tree], Array],
    params: Tree,
    optimizer: optax.GradientTransformation,
    state: Any,
    share: Array,
    beam: int,
) -> tuple[Tree, Any]:
    """The params with a share of the codes of each leaf encoded anew, after a step on the weights."""
    flat = as_params(params)
    nodes: dict[Path, VectorCodes] = {p: x for p, x in flat.leaves.items() if isinstance(x, VectorCodes)}
    dense = {p: x.materialize() for p, x in nodes.items()}
    slope = jax.grad(lambda dense: of(flat.rebuild({**flat.leaves, **dense})))(dense)
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(slope, state, dense)
    wanted = optax.apply_updates(dense, updates)
    made = {p: _encoded_anew(x, dense[p], wanted[p], share, beam) for p, x in nodes.items()}
    return flat.rebuild({**flat.leaves, **made}), state


def _encoded_anew(node: VectorCodes, w: Array, wanted: Array, share: Array, beam: int) -> VectorCodes:
    dim = node.books.shape[-1]

    def one(codes: Array, books: Array, scale: Array, w: Array, wanted: Array) -> Array:
        change = settled(jnp.sum(runs_of(wanted - w, dim) ** 2, axis=-1))
        count = jnp.ceil(share * change.size).astype(jnp.uint32)
        chosen = largest_mask(change, count) & (change > 0)
        even = runs_of(wanted / jnp.where(scale == 0, 1, scale)[None], dim)
        new = encode_vectors(even.reshape(-1, dim), books, beam).reshape(codes.shape)
        return jnp.where(chosen[..., None], new, codes)

    view = node.view
    args = (node.codes, node.books, node.scale, view.to_matrix(w), view.to_matrix(wanted))
    wide = tuple(x if x.dtype == jnp.uint8 else x.astype(node.books.dtype) for x in args)
    return replace(node, codes=over_stack(one, view.stacks)(*wide))
