"""Relevance of layers: how much of an output flows through each, by layer-wise relevance propagation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.axes import Axes, matrix_view
from wspace.core.containers import as_params, is_weight, show
from wspace.core.select import Spec, matrices, selected
from wspace.core.typing import Array, Tree, Where


def relevance(
    apply: Callable[[Tree, Array], Array],
    params: Tree,
    x: Array,
    target: Array | None = None,
    where: Where = matrices,
    axes: Axes | None = None,
) -> dict[str, float]:
    """The share of each weight matrix in the relevance of a model's answers.

        R_j = sum_i w_ij d f_target / d w_ij,   score = mean over examples of sum_j |R_j|, scores summing to 1

    R_j is the product of the j-th output of the layer (without its bias) and the gradient there: in a network of linear
    maps and ReLUs without biases, what LRP-0 gives, and sum_j R_j is f_target at every layer.

    Args:
      apply: (params, one example) -> [classes]. x: [n, ...] examples. target: int [n]; default the model's own answer.
      where: the leaves; roles of their axes by `axes`, or by name.
    Returns:
      leaf -> score, above 0, summing to 1 (all 0, if nothing is relevant).
    Raises:
      SelectionError: `where` takes no leaf.
    Example:
      >>> one = lambda p, x: jnp.maximum(x @ p["u"], 0) @ p["v"]
      >>> p = {"u": jnp.array([[1.0, 0.0], [0.0, 1.0]]), "v": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> relevance(one, p, jnp.array([[1.0, 2.0]]))
      {'u': 0.5, 'v': 0.5}

    Reference: Ranjan, Savakis, 2024, "LRP-QViT: Mixed-Precision Vision Transformer Quantization via Layer-wise
      Relevance Propagation"; Montavon et al., 2019, "Layer-Wise Relevance Propagation: An Overview".
    Differs from the paper: the rule with epsilon = 0 for every operation, by automatic differentiation; the paper has
      rules of its own for attention and residual sums. Uses of one weight at several positions add up in R_j.
    """
    flat, roles = as_params(params), axes or Axes()
    specs = {
        p: Spec(show(p), tuple(w.shape), w.dtype, roles.of(p, tuple(w.shape)))
        for p, w in flat.leaves.items()
        if is_weight(w)
    }
    paths = selected(where, specs)
    views = {p: matrix_view(specs[p].axes, specs[p].shape, specs[p].path) for p in paths}

    @jax.jit
    def scores(weights: dict[Any, Array], x: Array, target: Array | None) -> dict[Any, Array]:
        def answer(weights: dict[Any, Array], example: Array, label: Array | None) -> Array:
            out = apply(flat.rebuild({**flat.leaves, **weights}), example)
            return jnp.max(out) if label is None else out[label]

        def one(example: Array, label: Array | None) -> dict[Any, Array]:
            slopes = jax.grad(answer)(weights, example, label)
            each = {p: views[p].to_matrix(weights[p] * slopes[p]) for p in paths}
            return {p: jnp.sum(jnp.abs(jnp.sum(r, axis=-2))) for p, r in each.items()}

        return jax.tree.map(jnp.mean, jax.vmap(one)(x, target))

    found = scores({p: flat.leaves[p] for p in paths}, x, target)
    total = float(sum(found.values()))
    return {show(p): float(r) / total if total > 0 else 0.0 for p, r in found.items()}


def by_rank(
    scores: Mapping[str, float], sizes: Mapping[str, int], choices: Sequence[float], mean: float
) -> dict[str, float]:
    """Choices that rise with the scores, with a mean over all parameters of at most `mean`.

    All leaves start at the first choice; then the leaf of the highest score is raised as far as the budget goes, then
    the next, as long as none is raised above one of a higher score.

    Args:
      scores: leaf -> sensitivity. sizes: leaf -> parameters. choices: rising numbers, such as bits. mean: the most.
    Returns:
      leaf -> choice. Where even the first choice is above `mean`, that one.
    Example:
      >>> by_rank({"a": 0.1, "b": 0.6, "c": 0.3}, {"a": 10, "b": 10, "c": 10}, (4, 6, 8), mean=6)
      {'a': 4, 'b': 8, 'c': 6}

    Reference: as `relevance`.
    Differs from the paper: how it maps scores to bits is not known to us; this is monotone and greedy.
    """
    ranked = sorted(scores, key=lambda leaf: (-scores[leaf], leaf))
    found = dict.fromkeys(scores, choices[0])
    room = (mean - choices[0]) * sum(sizes[leaf] for leaf in scores)
    top = choices[-1]
    for leaf in ranked:
        fitting = [c for c in choices if c <= top and (c - choices[0]) * sizes[leaf] <= room]
        if fitting:
            found[leaf] = top = fitting[-1]
            room -= (top - choices[0]) * sizes[leaf]
        else:
            top = choices[0]
    return found
