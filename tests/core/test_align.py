"""Deleted, trees that do not belong together could be merged: broadcast, cut, cast, or with a leaf silently dropped."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.core.parts import KEY, add, mean, noise, weigh
from wspace.core.errors import ShapeError, SideTreeError, TreeMismatch, WspaceError

W = jnp.ones((2, 3))


def deleted() -> Any:
    x = jnp.ones(3) + 1
    x.delete()
    return x


def many(size: int) -> Any:
    return {f"l{i:02}": jnp.ones(size) for i in range(25)}


# The number is the row of the table of faults.
MISMATCHES = [
    (
        "1 keys",
        {"a": W, "b": W},
        {"a": W, "c": W, "d": W},
        "tree 2 does not match tree 1: it lacks b; it has also c, d",
    ),
    (
        "2 transposed",
        {"m": {"w": W}},
        {"m": {"w": W.T}},
        r"m/w is \(2, 3\) in tree 1 and \(3, 2\) in tree 2 .*transposed",
    ),
    ("2 vocabulary", {"w": W}, {"w": jnp.ones((5, 3))}, r"w is \(2, 3\) in tree 1 and \(5, 3\).*another vocabulary\?"),
    ("2 other", {"w": W}, {"w": jnp.ones((5, 4))}, r"w is \(2, 3\) in tree 1 and \(5, 4\) in tree 2$"),
    ("3 broadcastable", {"w": W}, {"w": jnp.ones(3)}, r"w is \(2, 3\) in tree 1 and \(3,\) in tree 2"),
    ("3 scalar", {"w": W}, {"w": jnp.float32(1)}, r"w is \(2, 3\) in tree 1 and \(\) in tree 2"),
    ("20 and more", many(2), many(3), r"l00 is .*; l19 is \(2,\) in tree 1 and \(3,\) in tree 2 and 5 more$"),
    ("5 float and int", {"w": W}, {"w": W.astype(int)}, "w is float32 in tree 1 and int32 in tree 2"),
    ("5 None", {"w": W, "n": None}, {"w": W, "n": W}, r"n is None in tree 1 and \(2, 3\) in tree 2"),
    (
        "5 integers",
        {"w": W, "n": np.int64(1)},
        {"w": W, "n": np.int64(2)},
        "n is no floating array.*tree 1 and tree 2 disag",
    ),
    ("5 widths", {"w": W, "n": np.int64(1)}, {"w": W, "n": np.int32(1)}, "n is no floating array"),
    ("5 bools", {"w": W, "n": np.array([True])}, {"w": W, "n": np.array([False])}, "n is no floating array"),
    ("5 keys", {"w": W, "n": jax.random.key(0)}, {"w": W, "n": jax.random.key(1)}, "n is no floating array"),
    ("5 static", {"w": W, "n": "relu"}, {"w": W, "n": "gelu"}, "n is no floating array"),
    ("10 int and str keys", {1: W}, {"1": W}, "tree 2 does not match tree 1: it lacks 1; it has also 1"),
    (
        "36 deleted",
        {"a": {"w": jnp.ones(3)}},
        {"a": {"w": deleted()}},
        r"a/w of tree 2 was deleted \(donated to a jit\?\)",
    ),
]


@pytest.mark.parametrize(("one", "two", "says"), [m[1:] for m in MISMATCHES], ids=[m[0] for m in MISMATCHES])
def test_trees_that_do_not_match(one: Any, two: Any, says: str) -> None:
    with pytest.raises(TreeMismatch, match=says) as caught:
        mean()(one, two)
    assert "\n" not in str(caught.value) and isinstance(caught.value, WspaceError)


def test_every_pair_is_compared() -> None:
    with pytest.raises(TreeMismatch, match="tree 3 does not match tree 1: it lacks b"):
        mean()({"a": W, "b": W}, {"a": W, "b": W}, {"a": W})
    with pytest.raises(TreeMismatch, match=r"n is no floating array.*tree 1 and tree 3 disagree"):
        mean()(*({"w": W, "n": jnp.int32(n)} for n in (1, 1, 2)))


def test_names_are_printed_escaped() -> None:
    with pytest.raises(TreeMismatch) as caught:
        mean()({"a\x1b[31m\0\n": W, "ü": W}, {"ü": W})
    assert str(caught.value).endswith(r"it lacks a\x1b[31m\x00\n")


def test_leaves_that_agree_pass_untouched() -> None:
    """Row 5, and values that jax would narrow: 2^40 + 1 in int64."""
    given = {"w": W, "n": np.int64(2**40 + 1), "key": KEY, "f": jnp.tanh, "b": np.array([True]), "none": None, "s": "x"}
    out = mean()(given, dict(given))
    assert out["n"] == 2**40 + 1 and out["n"].dtype == np.int64
    assert all(out[k] is given[k] for k in ("f", "b", "none", "s", "key", "n"))


def test_dtypes_may_differ_and_the_first_one_stays() -> None:
    """Row 4: 1.01 in bfloat16 plus 2^-9 in float32, halved in float32 before it is rounded."""
    a, b = {"w": jnp.full(4, 1.0, jnp.bfloat16)}, {"w": jnp.full(4, 3.02, jnp.float32)}
    got = mean()(a, b)["w"]
    assert got.dtype == jnp.bfloat16 and mean()(b, a)["w"].dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(got), np.asarray(jnp.full(4, 2.01, jnp.float32).astype(jnp.bfloat16)))


def test_all_zero_leaves_and_task_vectors() -> None:
    """Row 7."""
    zero = {"w": jnp.zeros(3)}
    assert ws.around_base(mean())(zero, zero, base=zero)["w"].tolist() == [0, 0, 0]


def test_empty_scalar_and_no_leaves() -> None:
    """Row 8."""
    out = mean()({"e": jnp.ones((0, 3)), "s": jnp.float32(2)}, {"e": jnp.ones((0, 3)), "s": jnp.float32(4)})
    assert out["e"].shape == (0, 3) and out["s"] == 3 and out["s"].shape == ()
    assert mean()({}, {}) == {} and mean()({"n": 3}, {"n": 3}) == {"n": 3}


def test_one_device_needs_nothing_and_a_mesh_of_one_is_kept() -> None:
    """Row 44."""
    sharding = jax.sharding.NamedSharding(jax.make_mesh((1,), ("d",)), jax.sharding.PartitionSpec("d"))
    assert add(1.0)({"w": jax.device_put(jnp.ones(3), sharding)})["w"].sharding == sharding


SIDES = [
    (
        lambda: ws.around_base(mean())({"w": W}),
        r"around_base\(mean\) needs the side tree\(s\) base; call it as t\(params, base=",
    ),
    (lambda: mean()({"w": W}, base={"w": W}), "mean does not use side tree.* base"),
    (
        lambda: weigh()({"w": W}, gram={"w": W, "v": W}),
        "side tree 'gram' has entries that are no leaf of the parameters: v",
    ),
    (lambda: weigh()({"w": W}, gram={"v": W}), "side tree 'gram' has no leaf of the parameters: it has v, they have w"),
    (lambda: weigh()({"w": W}, gram=({"w": W}, {"w": W})), "side tree 'gram' is 2 trees for 1 models"),
    (lambda: noise()({"w": W}), r"noise is random: pass a key, as in t\(params, key=jax.random.key\(0\)\)"),
    (lambda: noise()({"w": W}, key=jax.random.PRNGKey(0)), "key is a raw uint32 array; make it with jax.random.key"),
]


@pytest.mark.parametrize(("make", "says"), SIDES)
def test_side_trees_and_keys(make: Any, says: str) -> None:
    with pytest.raises(SideTreeError, match=says):
        make()


def test_a_deleted_side_tree_is_named() -> None:
    with pytest.raises(TreeMismatch, match="w of side tree 'base' was deleted"):
        ws.around_base(add(1.0))({"w": jnp.ones(3)}, base={"w": deleted()})


def test_base_has_to_match_like_a_tree() -> None:
    with pytest.raises(TreeMismatch, match=r"w is \(2, 3\) in tree 1 and \(3, 2\) in base .*transposed"):
        ws.around_base(mean())({"w": W}, base={"w": W.T})
    with pytest.raises(TreeMismatch, match="n is no floating array"):
        ws.around_base(mean())({"w": W, "n": 1}, base={"w": W, "n": 2})


def test_the_number_of_trees() -> None:
    with pytest.raises(
        ShapeError, match=r"add 1 takes 1 tree, but got 2; see its docstring, or put a merge in a chain"
    ):
        add(1.0)({"w": W}, {"w": W})
    with pytest.raises(ShapeError, match="mean takes at least one tree, but got 0"):
        mean()()


def test_nothing_is_read_or_done_before_all_is_checked() -> None:
    """A sink and a counting source stay untouched when the second of two selectors is wrong."""
    done: list[str] = []
    t = ws.chain(ws.leafwise("tell", lambda x, ctx: done.append(ctx.spec.path) or x[0]), ws.on("zz", add(1.0)))
    sink: dict[Any, Any] = {}
    with pytest.raises(WspaceError):
        ws.stream(t, [{"a": W, "b": W}], sink)
    assert not done and not sink
