"""Block by block: a model that is too deep to hold all of its statistics at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from wspace.calibrate.batches import Folds, calibrate
from wspace.calibrate.result import Calibration
from wspace.core.axes import Axes
from wspace.core.errors import SelectionError
from wspace.core.implicit import materialize
from wspace.core.typing import Array, Tree

Block = tuple[Callable[[Tree, Any], Any], Tree]  # (apply, params); what one gives, the next takes


def blockwise(
    blocks: Sequence[Block],
    batches: Iterable[Any],
    transform: Callable[[Tree, Calibration], Tree],
    folds: Folds = "gram",
    *,
    weights: Callable[[Any], Array] | None = None,
    axes: Axes | None = None,
    beside: bool = False,
) -> list[Tree]:
    """Transform the blocks of a model in order; each is calibrated on what the transformed ones before it give.

    The statistics of one block are held at a time, and the inputs of one block for all batches. Blocks with the same
    `apply` and shapes share one compiled program.

    Args:
      blocks: (apply, params) of each, in order: `apply(params, x)` gives the x of the next.
      batches: inputs of the first block.
      transform: (params of a block, its Calibration) -> new params, of arrays or Implicit nodes. The Calibration also
        has the block's `apply` and `inputs`, so `quant.reconstruct(found.apply, nodes, found.inputs, ...)` can learn.
      folds, axes: as for calibrate. weights: (input of the first block) -> [batch] or [batch, position].
      beside: run the untransformed model too, for folds of pairs: x is what a block sees after transformed ones, y what
        it sees in the untransformed model.
    Returns:
      The new params of every block.
    Raises:
      SelectionError: no blocks or no batches. Whatever calibrate and transform raise.
    Example:
      >>> import jax.numpy as jnp
      >>> def apply(w, x): return x @ w
      >>> seen = []
      >>> def halve(w, found):
      ...     seen.append(found["gram"][0, 0].item())
      ...     return w / 2
      >>> new = blockwise([(apply, 2 * jnp.eye(2)), (apply, jnp.eye(2))], [jnp.ones((3, 2))], halve)
      >>> seen
      [1.0, 1.0]
    """
    inputs = list(batches)
    if not blocks or not inputs:
        raise SelectionError(f"blockwise: {len(blocks)} blocks and {len(inputs)} batches; wanted at least one of each")
    shares = None if weights is None else [weights(x) for x in inputs]
    first = inputs if beside else None  # what the untransformed model gives each block
    made = []
    for apply, params in blocks:
        given = None if shares is None else iter(shares).__next__
        found = calibrate(
            apply, params, inputs, folds,
            weights=given and (lambda _, given=given: given()), axes=axes, beside=first,
        )  # fmt: skip
        found.apply, found.inputs = apply, inputs
        new = transform(params, found)
        del found
        made.append(new)
        run = jax.jit(apply)
        inputs = [run(materialize(new), x) for x in inputs]
        first = first and [run(params, x) for x in first]
    return made
