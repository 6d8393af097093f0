"""A quantized leaf whose groups are not consecutive inputs: GPTQ's act-order without static groups."""

from __future__ import annotations

import jax.numpy as jnp

from wspace.core.implicit import Implicit, dense, implicit, static
from wspace.core.typing import Array, Leaf


@implicit
class Reordered(Implicit):
    """A leaf whose inputs lie in another order inside.

    inner: the leaf in that order. order: int32 `[in]`: row k of inner is input order[k]. axis: of the inputs. Static.
    """

    inner: Leaf
    order: Array
    axis: int = static()

    def materialize(self) -> Array:
        return jnp.take(dense(self.inner), jnp.argsort(self.order), axis=self.axis)
