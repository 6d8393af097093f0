"""RegMean++: RegMean block by block, on what the merged blocks before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from wspace.calibrate.blockwise import blockwise
from wspace.calibrate.result import Calibration
from wspace.core.axes import Axes, Role
from wspace.core.compose import on
from wspace.core.containers import as_params, show
from wspace.core.errors import SelectionError
from wspace.core.transform import per_model
from wspace.core.typing import Array, Path, Tree
from wspace.merge.regmean import regmean
from wspace.merge.task_arithmetic import weighted_sum


@dataclass(frozen=True)
class _SideBySide:
    """One block of n models as one program: each model's on its own input. Equal ones share what is compiled."""

    apply: Callable[[Tree, Any], Any]

    def __call__(self, models: tuple[Tree, ...], inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.apply(params, x) for params, x in zip(models, inputs, strict=True))


def regmean_plusplus(
    blocks: Sequence[tuple[Callable[[Tree, Any], Any], Sequence[Tree]]],
    batches: Sequence[Iterable[Any]],
    alpha: Array | float = 0.95,
    weights: Sequence[float] | Array | None = None,
    damp: Array | float = 0.0,
    axes: Axes | None = None,
) -> list[Tree]:
    """Merge n models block by block with `regmean`, calibrating each block on the outputs of the merged ones before it.

        X_k^1 = data of model k;   G_k = Gram matrices of the linear layers of its block l on X_k^l
        block l = regmean of the blocks l, by G_k;   X_k^(l+1) = merged block l (X_k^l)

    The Gram matrices come from the program of `apply` (see `calibrate`), so any model will do. Leaves that meet no
    activation (biases, norms) are averaged by `weights`.

    Args:
      blocks: (apply, the params of each model) of each block, in order: `apply(params, x)` gives the x of the next.
      batches: of each model, inputs of the first block: as many for every model; their sizes may differ.
      alpha, weights, damp: as for `regmean`. axes: as for `calibrate`.
    Returns:
      The merged params of every block, in the container of the first model's.
    Raises:
      SelectionError: not as many models in a block as sets of batches, or not as many batches for each.
      Whatever `calibrate.blockwise` and `regmean` raise.
    Example:
      >>> def apply(w, x): return x @ w["kernel"]
      >>> a, b = ({"kernel": x * jnp.eye(2)} for x in (1.0, 3.0))
      >>> x, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> (merged,) = regmean_plusplus([(apply, (a, b))], ([x], [y]))
      >>> merged["kernel"]  # a is right on x, b on y
      Array([[1., 0.],
             [0., 3.]], dtype=float32)

    Reference: Nguyen, Dang, Suzuki, Nguyen, 2025, "RegMean++: Enhancing Effectiveness and Generalization of Regression
      Mean for Model Merging".
    Differs from the paper: tables that are looked up are merged by how often each model sees a row, where its code
      averages embeddings. What a block is, is up to the caller; the paper takes transformer layers.
    """
    streams = [list(b) for b in batches]
    n = len(streams)
    if any(len(models) != n for _, models in blocks) or len({len(s) for s in streams}) > 1:
        sizes = [len(models) for _, models in blocks]
        raise SelectionError(
            f"regmean_plusplus: blocks of {sizes} models and batches of {[len(s) for s in streams]}; "
            "wanted one list of batches for each model, all of one length"
        )
    shares = per_model(weights, n)
    mean = weighted_sum(shares / jnp.sum(shares))

    def merge(models: tuple[Tree, ...], found: Calibration) -> tuple[Tree, ...]:
        first = as_params(found["gram"][0]).leaves
        met = {show(path) for path, g in first.items() if g is not None}

        def layout(path: Path, shape: tuple[int, ...]) -> tuple[Role, ...]:
            return tuple(axis.role for axis in found.axes.of((0, *path), shape))

        step = on(lambda path, spec: path in met, regmean(alpha, weights, damp), otherwise=mean)
        return (step(*models, gram=found["gram"], axes=Axes(layout=layout)),) * n

    joint = [(_SideBySide(apply), tuple(models)) for apply, models in blocks]
    made = blockwise(joint, zip(*streams, strict=True), merge, axes=axes)
    return [models[0] for models in made]
