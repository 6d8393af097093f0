"""Statistics of a merged model reset from data: REPAIR for its layers, running statistics for its BatchNorms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from wspace.core.containers import as_params, show
from wspace.core.errors import SelectionError, listed
from wspace.core.typing import Array, Path, Tree
from wspace.match.repair import Moments, batch_norm, fold, goal, pooled, repair
from wspace.trace.vectors import Seen, biases, meetings, normalizations

Apply = Callable[[Tree, Any], Any]


def repair_model(
    apply: Apply,
    merged: Tree,
    a: Tree,
    b: Tree,
    batches: Iterable[Any],
    *,
    t: Array | float = 0.5,
    where: str = "",
    epsilon: float = 1e-5,
) -> Tree:
    """Give every unit of a merged model the mean and spread that lie between those of its parents, layer by layer.

    Layers are products with a bias, found in the program. Each is measured with those before it repaired already, and
    the change goes into its matrix and bias (`repair`, `fold`).

    Args:
      apply: (params, batch) -> anything; is run once a batch for each parent and each layer.
      merged: `(1 - t) a + t b`, for instance. a, b: its parents, b matched to a.
      t: where between them merged lies. where: regex on the biases' paths; all if not given. epsilon: as in `repair`.
    Returns:
      merged, with other matrices and biases in these layers.
    Raises:
      SelectionError: no such layer, one within a loop, or no batch.
    Example:
      >>> import jax
      >>> def apply(p, x): return jnp.maximum(x @ p["kernel"] + p["bias"][None], 0)
      >>> a = {"kernel": jnp.array([[2.0]]), "bias": jnp.zeros(1)}
      >>> b = {"kernel": jnp.array([[-2.0]]), "bias": jnp.zeros(1)}
      >>> half = {"kernel": jnp.array([[0.5]]), "bias": jnp.ones(1)}
      >>> new = repair_model(apply, half, a, b, [jnp.array([[1.0], [-1.0]])], epsilon=0.0)
      >>> new["kernel"], new["bias"]
      (Array([[2.]], dtype=float32), Array([0.], dtype=float32))

    Reference: Jordan, Sedghi, Saukh, Entezari, Neyshabur, 2023, "REPAIR: REnormalizing Permuted Activations for
    Interpolation Repair". Differs from the paper: no normalization layers are added and folded; layers without a bias
    stay as they are.
    """
    data = _held(batches)
    layers = {path: layer for path, layer in biases(apply, merged, data[0]).items() if re.search(where, show(path))}
    met = _measured(meetings(apply, merged, data[0], layers), data, layers, "repair_model")
    first, second = met(a), met(b)
    ours, theirs = as_params(a).leaves, as_params(b).leaves
    taken = as_params(merged)
    values = dict(taken.leaves)
    for path, layer in layers.items():
        now = _with(met(taken.rebuild(values))[path], values[path])
        wanted = goal(_with(first[path], ours[path]), _with(second[path], theirs[path]), t)
        kernel = jnp.moveaxis(jnp.asarray(values[layer.kernel]), layer.axis, -1)
        new, values[path] = fold(kernel, jnp.asarray(values[path]), repair(now, wanted, epsilon))
        values[layer.kernel] = jnp.moveaxis(new, -1, layer.axis)
    return taken.rebuild(values)


def recalibrate(apply: Apply, params: Tree, batches: Iterable[Any]) -> Tree:
    """Put what BatchNorms meet on these data in place of their running means and variances, from the first to the last.

    Running statistics are found in the program: what is subtracted, and what is then divided by.

    Args:
      apply: (params, batch) -> anything, as it is used after training; is run once a batch for each BatchNorm.
      params: with all collections.
    Returns:
      params, with other running statistics.
    Raises:
      SelectionError: no BatchNorm, one within a loop, or no batch.
    Reference: Jordan et al., 2023, section 4. Differs from the paper: over all batches alike, each BatchNorm with those
    before it recalibrated; no moving average.
    """
    data = _held(batches)
    spreads = normalizations(apply, params, data[0])
    met = _measured(meetings(apply, params, data[0], spreads), data, spreads, "recalibrate")
    taken = as_params(params)
    values = dict(taken.leaves)
    for mean, spread in spreads.items():
        stats = {"mean": jnp.asarray(values[mean]), "var": jnp.asarray(values[spread])}
        new = batch_norm(stats, met(taken.rebuild(values))[mean])
        values[mean], values[spread] = new["mean"], new["var"]
    return taken.rebuild(values)


def _held(batches: Iterable[Any]) -> list[Any]:
    data = list(batches)
    if not data:
        raise SelectionError("there was no batch; pass at least one")
    return data


def _measured(
    met: Callable[[Tree, Any], dict[Path, Seen]], data: list[Any], wanted: Mapping[Path, Any], who: str
) -> Callable[[Tree], dict[Path, Moments]]:
    """Statistics over all batches."""
    if not wanted:
        raise SelectionError(f"{who}: the program has no such layer; see where=")

    def measure(params: Tree) -> dict[Path, Moments]:
        found = [met(params, batch) for batch in data]
        if missing := [show(path) for path in wanted if path not in found[0]]:
            raise SelectionError(f"{who}: {listed(missing)} can't be measured in a loop; unroll it, or leave it out")
        parts = {path: [one[path] for one in found] for path in wanted}
        return {path: _pooled(seen) for path, seen in parts.items()}

    return measure


def _pooled(seen: list[Seen]) -> Moments:
    stacked = Moments(jnp.stack([s.mean for s in seen]), jnp.stack([s.variance for s in seen]))
    return pooled(stacked, jnp.stack([s.rows for s in seen]))


def _with(seen: Moments, bias: Any) -> Moments:
    return seen._replace(mean=seen.mean + jnp.asarray(bias).astype(seen.mean.dtype))
