"""Hypothesis strategies for leaves: every dtype that can be stored, awkward shapes, memory layouts and names."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from wspace.io.dtypes import AS_BYTES, DTYPES

STORED = [*DTYPES.values(), *(dtype for dtype, _ in AS_BYTES.values())]
SHAPES = [(), (1,), (0,), (3,), (2, 3), (0, 4), (5, 1, 7), (2, 0, 3), (17,), (4, 4, 3)]
NAMES = [
    "",
    "a",
    "a.b",
    "a/b",
    "../../up",
    "\0",
    "nl\n",
    "\x1b[31m",
    "наме",
    "😀",
    '"quoted"',
    "\\",
    " ",
    "0",
    "x" * 300,
]


def values(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Any bit pattern the dtype has, NaNs and subnormals included."""
    bits = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    if dtype == np.bool_:
        bits &= 1
    if dtype.name in AS_BYTES and AS_BYTES[dtype.name][1] < 8:
        bits &= 2 ** AS_BYTES[dtype.name][1] - 1
    if "float6" in dtype.name:
        bits &= 63
    return bits.view(dtype)[..., 0]


def _layouts(array: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The same values, lying otherwise in memory."""
    doubled = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
    return {
        "plain": array,
        "fortran": np.asfortranarray(array) if array.ndim else array,
        "transposed": array.T,
        "strided": doubled,
        "reversed": array[::-1] if array.ndim else array,
        "broadcast": np.broadcast_to(array, (2, *array.shape)),
    }


@st.composite
def leaves(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """One array, in one of the layouts; big-endian now and then where NumPy has it."""
    dtype = draw(st.sampled_from(STORED))
    array = values(dtype, draw(st.sampled_from(SHAPES)), draw(st.integers(0, 99)))
    if dtype.kind in "iufc" and dtype.itemsize > 1 and draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    layouts = _layouts(array)
    return layouts[draw(st.sampled_from(sorted(layouts)))]


def flat_trees() -> st.SearchStrategy[dict[str, np.ndarray[Any, Any]]]:
    return st.dictionaries(st.sampled_from(NAMES), leaves(), max_size=5)


def nested_trees() -> st.SearchStrategy[Any]:
    """Dicts with text and integer keys, lists, tuples and None around leaves; the root is a dict."""
    keys = st.sampled_from(["a", "b", "c.d", "", 3, 10])
    parts = st.recursive(
        st.one_of(leaves(), st.none()),
        lambda node: st.one_of(
            st.dictionaries(keys, node, max_size=3), st.lists(node, max_size=2), st.tuples(node, node)
        ),
        max_leaves=6,
    )
    return st.dictionaries(keys, parts, max_size=3)


def same_bits(got: Any, wanted: Any) -> bool:
    """Equal shape, dtype and bits, compared as NumPy lays them out in C order; containers of the same type."""
    if isinstance(wanted, dict):
        return type(got) is dict and list(got) == list(wanted) and all(same_bits(got[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list | tuple):
        return type(got) is type(wanted) and len(got) == len(wanted) and all(map(same_bits, got, wanted))
    if wanted is None:
        return got is None
    native = wanted.astype(wanted.dtype.newbyteorder("="))
    return got.shape == native.shape and got.dtype == native.dtype and got.tobytes() == native.tobytes()
