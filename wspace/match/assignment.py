"""Linear assignment: which column each row gets, so that the sum of the gains is as large as can be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from wspace.core.errors import NonFinite, ShapeError, printable
from wspace.core.typing import Array


def solve(gain: Any, *, name: str = "gain") -> np.ndarray:
    """The assignment of largest gain, on the host by scipy.

        maximize  sum_i gain[i, columns[i]],   all columns different

    Ties: always the same answer for the same gains. More columns than rows: some columns are left out. More rows than
    columns: rows that get none have -1.

    Args:
      gain: float [..., rows, columns]; leading axes are separate problems. Cost: up to rows^3 each.
      name: what the gains are of, for the message.
    Returns:
      int32 [..., rows]; empty for no rows.
    Raises:
      NonFinite: NaN or infinity among the gains; names the group.
      ShapeError: fewer than two axes.
    Example:
      >>> solve(np.array([[1.0, 2.0], [1.0, 5.0]])).tolist()
      [0, 1]
    """
    gain = np.asarray(gain)
    if gain.ndim < 2:
        raise ShapeError(f"assignment of {printable(name)!r} needs a matrix [rows, columns], got shape {gain.shape}")
    if not np.isfinite(gain).all():
        bad = int((~np.isfinite(gain)).sum())
        raise NonFinite(
            f"assignment of {printable(name)!r}: {bad} of {gain.size} gains are NaN or infinite; look for such values "
            "in the two models' leaves of this group"
        )
    columns = np.full(gain.shape[:-1], -1, np.int32)
    for index in np.ndindex(gain.shape[:-2]):
        rows, chosen = linear_sum_assignment(gain[index], maximize=True)
        columns[(*index, rows)] = chosen
    return columns


@jax.jit
def solve_in_jit(gain: Array) -> tuple[Array, Array]:
    """`solve` for one square problem inside a compiled program, by optax's Hungarian algorithm.

    3 to 7 times slower than scipy on a CPU, a thousand times where many gains are equal (integers for instance).

    Args:
      gain: float [n, n].
    Returns:
      columns int32 [n], and bool [] that says whether the gains were finite; if not, columns are 0..n-1.
    Example:
      >>> columns, finite = solve_in_jit(jnp.array([[1.0, 2.0], [1.0, 5.0]]))
      >>> columns.tolist(), bool(finite)
      ([0, 1], True)
    """
    n = gain.shape[0]
    finite = jnp.isfinite(gain).all()
    still = jnp.arange(n, dtype=jnp.int32)
    if n < 2:
        return still, finite
    sound = jnp.where(finite, gain, jnp.eye(n, dtype=gain.dtype))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows, chosen = optax.assignment.hungarian_algorithm(-sound)
    columns = still.at[rows].set(chosen.astype(jnp.int32))
    return jnp.where(finite, columns, still), finite
