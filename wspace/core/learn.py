"""Learning by gradient: the numeric parameters of a Transform, or any tree that a loss can be written in.

The loop is compiled once and runs on the device; between its chunks it tells how far it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wspace.core.axes import Axes
from wspace.core.containers import as_params, is_weight, show
from wspace.core.errors import ShapeError, WspaceError
from wspace.core.select import Spec, selected
from wspace.core.transform import Context, Transform, working_dtype
from wspace.core.typing import Array, Leaf, Progress, Tree, Where

Make = Callable[[Any], Any]  # values -> a Transform, or any `(*trees, **sides) -> params`
Loss = Callable[[Tree, Any], Array]  # (params, batch) -> scalar

PARTS = 20  # how often a run with a progress callback stops to call it


class Descent(NamedTuple):
    """values: what was learned. losses: f32 [steps], each before its step."""

    values: Tree
    losses: Array


def descend(
    objective: Callable[[Tree, Tree, Any, Array], Array],
    start: Tree,
    fixed: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int | None = None,
    key: Array | None = None,
    progress: Progress | None = None,
) -> Descent:
    """Minimize `objective(values, fixed, batch, key)` over values, by any optax optimizer.

    Step i takes batch i modulo n and the key `fold_in(key, i)`. What the objective needs of arrays goes in `fixed`, so
    that a second call with the same functions compiles nothing.

    Args:
      objective: traceable, scalar out; smaller is better. start: tree of numbers or floating arrays; learned in float32
        (float64 if they are). fixed: a tree of arrays, handed through.
      batches: a tree of arrays stacked on a first axis [n]; None if there are none.
      steps: how many; default n, one pass. Static. key: for an objective that draws; default `jax.random.key(0)`.
      progress: called as (steps done, steps, the latest loss in words).
    Returns:
      Descent. A loss that is no number stays in `losses`: nothing is raised.
    Raises:
      ShapeError: the objective is no scalar, batches differ in length, or neither batches nor steps say how many.
    Example:
      >>> found = descend(lambda x, a, b, key: (x - a) ** 2, 0.0, 3.0, None, optax.sgd(0.5), steps=2)
      >>> found.values, found.losses
      (Array(3., dtype=float32), Array([9., 0.], dtype=float32))
    """
    n = _length(batches)
    count = n if steps is None else steps
    if not count or count < 1:
        raise ShapeError(f"descend: steps is {steps} and there are {n} batches; give a number of steps, or batches")
    values = jax.tree.map(lambda x: jnp.asarray(x, working_dtype(jnp.result_type(x))), start)
    key = jax.random.key(0) if key is None else key
    shape = jax.eval_shape(objective, values, fixed, jax.tree.map(lambda x: x[0], batches), key)
    if getattr(shape, "shape", None) != ():
        raise ShapeError(f"descend: the objective gives {shape}, but a loss is one number; take its mean")
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        carry = (values, optimizer.init(values), jnp.zeros((count,), jnp.float32))
    stops = [count] if progress is None else sorted({-(-count * k // PARTS) for k in range(1, PARTS + 1)})
    for first, last in zip([0, *stops[:-1]], stops, strict=True):
        carry = _run(carry, first, last, fixed, batches, key, objective=objective, optimizer=optimizer, n=n)
        if progress is not None:
            progress(last, count, f"loss {float(carry[2][last - 1]):.4g}")
    return Descent(carry[0], carry[2])


def _length(batches: Tree) -> int:
    """Of the first axis of every leaf; 0 if there is none.

    Raises:
      ShapeError: they differ, or a leaf has no axis.
    """
    lengths = {jnp.shape(x)[:1] for x in jax.tree.leaves(batches)}
    if len(lengths) > 1 or lengths == {()}:
        raise ShapeError(f"batches have first axes {sorted(lengths)}; stack all on one first axis, [n, ...]")
    return int(lengths.pop()[0]) if lengths else 0


@partial(jax.jit, static_argnames=("objective", "optimizer", "n"))
def _run(
    carry: Any,
    first: Array,
    last: Array,
    fixed: Tree,
    batches: Tree,
    key: Array,
    *,
    objective: Callable[..., Array],
    optimizer: optax.GradientTransformation,
    n: int,
) -> Any:
    """Steps first .. last - 1; both are traced, so that every chunk is one program."""

    def step(i: Array, carry: Any) -> Any:
        values, state, losses = carry
        batch = jax.tree.map(lambda x: jnp.asarray(x)[i % n], batches)
        loss, slope = jax.value_and_grad(objective)(values, fixed, batch, jax.random.fold_in(key, i))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, values)
        return optax.apply_updates(values, updates), state, losses.at[i].set(loss.astype(losses.dtype))

    return jax.lax.fori_loop(first, last, step, carry)


class Learned(NamedTuple):
    """params: the result. values: the numeric parameters that made it. losses: f32 [steps], each before its step."""

    params: Tree
    values: Tree
    losses: Array


@dataclass(frozen=True)
class _OfResult:
    """The loss of what a transform makes, as an objective in the transform's values. Equal if its parts are."""

    make: Make
    loss: Loss

    def __call__(self, values: Tree, fixed: Any, batch: Any, key: Array) -> Array:
        trees, sides = fixed
        return self.loss(self.make(values)(*trees, **sides), batch)


def learn(
    make: Make,
    start: Tree,
    loss: Loss,
    trees: Sequence[Tree],
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int | None = None,
    progress: Progress | None = None,
    **sides: Any,
) -> Learned:
    """Learn the numeric parameters of a Transform by the gradient of a loss of its result.

        values <- values - optimizer(d loss(make(values)(*trees, **sides), batch) / d values)

    Args:
      make: values -> Transform, such as `lambda w: task_arithmetic(w)`. Only values that the result depends on smoothly
        learn: the catalog names them for each method. start: values to begin with, any tree of numbers.
      loss: (params, batch) -> scalar, traceable; arrays that it closes over are constants of the compiled program, so
        give it what changes as a batch. trees, sides: what the Transform is called with; a `key` among the
        sides is the same at every step. All stay in memory, as the loss needs them.
      batches, steps, progress: as in `descend`.
    Returns:
      Learned. A second call with the same functions and optimizer compiles nothing.
    Raises:
      ShapeError: the loss is no scalar, or as the Transform raises.
    Example:
      >>> import wspace as ws
      >>> a, b = {"w": jnp.array([0.0, 2.0])}, {"w": jnp.array([4.0, 0.0])}
      >>> near = lambda p, wanted: jnp.sum((p["w"] - wanted) ** 2)
      >>> found = learn(ws.interpolate.lerp, 0.5, near, [a, b], jnp.array([[1.0, 1.5]]), optax.sgd(0.025), steps=20)
      >>> f"{found.values:.4f}"
      '0.2500'
    """
    objective, fixed = _OfResult(make, loss), (tuple(trees), sides)
    found = descend(objective, start, fixed, batches, optimizer, steps=steps, progress=progress)
    return Learned(make(found.values)(*trees, **sides), found.values, found.losses)


def by_leaf(make: Callable[[Any], Transform], like: Any, name: str | None = None) -> Transform:
    """A Transform whose numeric parameters every leaf has its own of, from the side tree `values`.

    Learned layer by layer in memory, the same values then run on a checkpoint of any size, through `stream`.

    Args:
      make: values of one leaf -> Transform of leaf scope. like: such values; what they are changes nothing.
      name: for tables and messages.
    Returns:
      Transform that needs also `values`: a tree like the parameters (`spread` makes one), with an entry a leaf.
    Raises:
      WspaceError: the Transform has folds, which would need the values of all leaves at once.
    Example:
      >>> import wspace as ws
      >>> a, b = {"u": jnp.zeros(1), "v": jnp.zeros(1)}, {"u": jnp.ones(1), "v": jnp.ones(1)}
      >>> by_leaf(ws.interpolate.lerp, 0.5)(a, b, values={"u": jnp.array(0.25), "v": jnp.array(0.75)})
      {'u': Array([0.25], dtype=float32), 'v': Array([0.75], dtype=float32)}
    """
    t = make(like)
    if t.folds:
        raise WspaceError(f"by_leaf: {t.name} has {t.scope} scope, so its leaves can't have values of their own")

    def apply(leaves: tuple[Leaf, ...], ctx: Context) -> Leaf:
        rest = {side: x for side, x in ctx.sides.items() if side != "values"}
        return make(ctx.side("values")).apply(leaves, ctx._replace(sides=rest))

    return t._replace(apply=apply, name=name or f"by_leaf({t.name})", needs=t.needs | {"values"})


def spread(values: Any, params: Tree, where: Where | None = None) -> Tree:
    """The same values for every weight of a tree, or for those that `where` selects: what `by_leaf` needs.

    Raises:
      SelectionError: where selects nothing.
    Example:
      >>> spread(jnp.array([0.3, 0.3]), {"w": jnp.ones(3), "step": 7})
      {'w': Array([0.3, 0.3], dtype=float32), 'step': None}
    """
    flat = as_params(params)
    shapes = {path: tuple(x.shape) for path, x in flat.leaves.items() if is_weight(x)}
    specs = {p: Spec(show(p), shape, flat.leaves[p].dtype, Axes().of(p, shape)) for p, shape in shapes.items()}
    chosen = set(specs if where is None else selected(where, specs))
    return flat.rebuild({path: values if path in chosen else None for path in flat.leaves})
