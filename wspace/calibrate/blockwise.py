"""Block by block: a model that is too deep to hold all of its statistics at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import jax

from wspace.calibrate.batches import Folds, calibrate
from wspace.calibrate.result import Calibration
from wspace.core.axes import Axes
from wspace.core.containers import as_params, show
from wspace.core.errors import SelectionError, TreeMismatch, listed
from wspace.core.implicit import materialize
from wspace.core.typing import Array, Leaf, Progress, Tree

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
    inputs = _checked(blocks, batches)
    return list(_walk(blocks, inputs, transform, folds, weights=weights, axes=axes, beside=beside))


def stream(
    parts: Sequence[tuple[Callable[[Tree, Any], Any], Tree]],
    source: Mapping[str, Leaf],
    sink: MutableMapping[str, Leaf],
    batches: Iterable[Any],
    transform: Callable[[Tree, Calibration], Tree],
    folds: Folds = "gram",
    *,
    weights: Callable[[Any], Array] | None = None,
    axes: Axes | None = None,
    beside: bool = False,
    progress: Progress | None = None,
) -> None:
    """`blockwise` from a checkpoint to a sink: of the model one block is in memory at a time, with its statistics.

    A block's leaves are read when its turn comes, and written before the next one's are read; each leaf is read once.
    Leaves that are in no block go through as they are. The result is that of `blockwise` to the last bit.

    Args:
      parts: the blocks, with names of leaves of the source in the place of arrays. `data.minilm.blocks(names)` gives
        them for a mapping of names to themselves.
      source: names to arrays, such as an open checkpoint. sink: takes each leaf by its name, such as `write_folder`'s.
      batches, transform, folds, weights, axes, beside: as for `blockwise`. The transform gives a block's tree back.
      progress: told (done, of how many, name) for each leaf that was written.
    Raises:
      SelectionError: a name that the source has not, a leaf in two blocks, or whatever `blockwise` raises.
      TreeMismatch: the transform gave back other leaves than the block has.
    Example:
      >>> import jax.numpy as jnp
      >>> def apply(w, x): return x @ w["kernel"]
      >>> source = {"a": 2 * jnp.eye(2), "b": jnp.eye(2), "step": jnp.zeros(())}
      >>> out = {}
      >>> def halve(w, found): return {"kernel": w["kernel"] / found["gram"]["kernel"][0, 0]}
      >>> stream([(apply, {"kernel": "a"}), (apply, {"kernel": "b"})], source, out, [jnp.ones((3, 2))], halve)
      >>> [float(out[name][0, 0]) for name in "ab"], sorted(out)
      ([2.0, 0.25], ['a', 'b', 'step'])
    """
    inputs = _checked(parts, batches)
    named = [as_params(tree).leaves for _, tree in parts]
    every = Counter(name for block in named for name in block.values())
    if absent := sorted(every.keys() - set(source)):  # a mapping may read a leaf to say whether it has it
        raise SelectionError(f"stream: the source has no leaf {listed(absent)}; blocks name leaves of the source")
    if twice := sorted(name for name, count in every.items() if count > 1):
        raise SelectionError(f"stream: leaves in two blocks: {listed(twice)}; a leaf is transformed once")
    blocks = ((apply, jax.tree.map(source.__getitem__, tree)) for apply, tree in parts)
    done = 0

    def put(name: str, leaf: Leaf) -> None:
        nonlocal done
        sink[name], done = leaf, done + 1
        if progress is not None:
            progress(done, len(source), name)

    def whole(params: Tree, found: Calibration) -> Tree:
        new = transform(params, found)
        if other := as_params(new).leaves.keys() ^ as_params(params).leaves.keys():
            names = listed(sorted(map(show, other)))
            raise TreeMismatch(f"stream: the transform and the block differ in {names}; give back the block's leaves")
        return new

    made = _walk(blocks, inputs, whole, folds, weights=weights, axes=axes, beside=beside)
    for block in named:
        leaves = as_params(next(made)).leaves
        for path, name in block.items():
            put(name, leaves[path])
        del leaves
    made.close()
    for name in source:
        if name not in every:
            put(name, source[name])


def _checked(blocks: Sequence[Any], batches: Iterable[Any]) -> list[Any]:
    inputs = list(batches)
    if not blocks or not inputs:
        raise SelectionError(f"blockwise: {len(blocks)} blocks and {len(inputs)} batches; wanted at least one of each")
    return inputs


def _walk(
    blocks: Iterable[Block],
    inputs: list[Any],
    transform: Callable[[Tree, Calibration], Tree],
    folds: Folds,
    *,
    weights: Callable[[Any], Array] | None,
    axes: Axes | None,
    beside: bool,
) -> Generator[Tree]:
    """The new params of one block after the other; a block is asked for when its turn comes."""
    shares = None if weights is None else [weights(x) for x in inputs]
    first = inputs if beside else None  # what the untransformed model gives each block
    for apply, params in blocks:
        given = None if shares is None else iter(shares).__next__
        found = calibrate(
            apply, params, inputs, folds,
            weights=given and (lambda _, given=given: given()), axes=axes, beside=first,
        )  # fmt: skip
        found.apply, found.inputs = apply, inputs
        new = transform(params, found)
        del found
        run = jax.jit(apply)
        inputs = [run(materialize(new), x) for x in inputs]
        first = first and [run(params, x) for x in first]
        del params
        yield new
        del new
