"""Deleted, a recipe could differ from its steps done one by one: another order, another fold, another random stream."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wspace as ws
from tests.core.parts import KEY, add, mean, minus, noise, times, unit, unit_by_group, weigh
from wspace.core.errors import SelectionError, ShapeError, SideTreeError

A = {"x": {"kernel": jnp.array([1.0, -4.0]), "bias": jnp.array([8.0])}, "y": {"kernel": jnp.array([2.0, 5.0])}}
B = {"x": {"kernel": jnp.array([3.0, 6.0]), "bias": jnp.array([-2.0])}, "y": {"kernel": jnp.array([0.0, 1.0])}}
BASE = {"x": {"kernel": jnp.array([1.0, 1.0]), "bias": jnp.array([2.0])}, "y": {"kernel": jnp.array([1.0, 0.0])}}


def by_hand(f: Any, *trees: Any) -> Any:
    """A function of numpy leaves on whole trees."""
    return jax.tree.map(lambda *x: f(*(np.asarray(a, np.float64) for a in x)), *trees)


def check(got: Any, want: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def top(tree: Any) -> float:
    return max(float(np.max(np.abs(x))) for x in jax.tree.leaves(tree))


PARTS = [lambda: add(1.0), lambda: times(-2.0), unit, unit_by_group, lambda: ws.on("kernel", times(3.0))]


@pytest.mark.parametrize("three", list(itertools.permutations(range(5), 3)))
def test_chain_is_associative_and_equals_one_after_the_other(three: tuple[int, ...]) -> None:
    a, b, c = (PARTS[i]() for i in three)
    want = c(b(a(A)))
    flat, left, right = ws.chain(a, b, c), ws.chain(ws.chain(a, b), c), ws.chain(a, ws.chain(b, c))
    for t in (flat, left, right):
        check(t(A), want)
        assert t.passes == a.passes + b.passes + c.passes - 2
        assert (t.name, t.needs, t.arity, t.scope) == (flat.name, flat.needs, flat.arity, flat.scope)


def test_parts_before_a_merge_run_on_every_tree_with_their_own_folds() -> None:
    got = ws.chain(unit(), mean(), times(10.0))(A, B)
    check(got, by_hand(lambda a, b: 10 * (a / 8 + b / 6) / 2, A, B))


def test_a_fold_after_a_merge_sees_the_merged_tree() -> None:
    check(ws.chain(mean(), unit())(A, B), by_hand(lambda a, b: (a + b) / 2 / 3, A, B))


def test_keep_takes_the_first_tree() -> None:
    check(ws.keep()(A, B), A)
    check(ws.on("kernel", mean())(A, B)["x"]["bias"], A["x"]["bias"])


def test_on_leaves_the_others_or_does_otherwise() -> None:
    got = ws.on("kernel$", times(2.0))(A)
    check(got, {"x": {"kernel": 2 * A["x"]["kernel"], "bias": A["x"]["bias"]}, "y": {"kernel": 2 * A["y"]["kernel"]}})
    got = ws.on("kernel$", times(2.0), otherwise=add(1.0))(A)
    check(got["x"], {"kernel": 2 * A["x"]["kernel"], "bias": A["x"]["bias"] + 1})


def test_a_selector_is_a_regex_or_a_predicate() -> None:
    first = ws.on(lambda path, spec: spec.shape == (1,), times(0.0))(A)
    assert first["x"]["bias"] == 0 and first["x"]["kernel"][0] == 1
    assert ws.on("^y/", times(0.0))(A)["y"]["kernel"].tolist() == [0, 0]


def test_the_first_rule_that_takes_a_leaf_wins() -> None:
    rules = [("x/kernel", "zero"), ("kernel", "double")]
    got = ws.route(rules, {"zero": times(0.0), "double": times(2.0)}, otherwise=ws.keep())(A)
    check(got, {"x": {"kernel": np.zeros(2), "bias": A["x"]["bias"]}, "y": {"kernel": 2 * A["y"]["kernel"]}})


def test_labels_may_come_from_a_function_of_the_path() -> None:
    got = ws.route(lambda path: path[0], {"x": times(0.0), "y": times(2.0)})(A)
    assert top(got["x"]) == 0 and got["y"]["kernel"].tolist() == [4, 10]


def test_a_global_fold_under_on_sees_the_selected_leaves_only() -> None:
    got = ws.on("kernel$", unit())(A)
    check(got["x"]["kernel"], np.array([0.2, -0.8]))  # 5 is the largest of the kernels, 8 that of the tree
    assert got["x"]["bias"] == 8


def test_global_folds_of_several_labels_stay_apart() -> None:
    got = ws.route([("^x", "a"), ("^y", "b")], {"a": unit(), "b": ws.chain(times(2.0), unit(), unit())})(A)
    check(got, {"x": by_hand(lambda w: w / 8, A["x"]), "y": by_hand(lambda w: w / 5, A["y"])})


def test_a_fold_by_group_sees_its_group() -> None:
    check(unit_by_group()(A), {"x": by_hand(lambda w: w / 8, A["x"]), "y": by_hand(lambda w: w / 5, A["y"])})
    got = ws.on("kernel$", unit_by_group())(A)
    check(got["x"]["kernel"], np.array([0.25, -1.0]))


def test_a_fold_around_base_sees_the_task_vectors() -> None:
    """A - base has its largest entry at the bias, 6; B - base at x/kernel, 5."""
    check(ws.around_base(unit())(A, base=BASE), by_hand(lambda a, b: b + (a - b) / 6, A, BASE))
    got = ws.around_base(ws.chain(unit(), mean()))(A, B, base=BASE)
    check(got, by_hand(lambda a, b, base: base + ((a - base) / 6 + (b - base) / 5) / 2, A, B, BASE))


def test_a_fold_under_on_in_a_chain_around_base() -> None:
    t = ws.chain(ws.around_base(ws.chain(ws.on("kernel$", unit()), mean())), ws.on("^y", unit()))
    half = by_hand(lambda a, b, base: base + ((a - base) / 5 + (b - base) / 5) / 2, A, B, BASE)
    got = t(A, B, base=BASE)
    check(got["x"]["kernel"], half["x"]["kernel"])
    check(got["x"]["bias"], 2 + (6 - 4) / 2)
    check(got["y"]["kernel"], half["y"]["kernel"] / top(half["y"]))
    assert (t.passes, t.needs, t.arity, t.scope) == (3, {"base"}, None, "global")


def test_what_combinators_say_of_themselves() -> None:
    assert ws.chain(add(1), unit(), unit_by_group()).passes == 3
    assert ws.route([("a", "x")], {"x": ws.chain(unit(), unit()), "y": unit()}, ws.keep()).passes == 3
    assert (unit().scope, unit_by_group().scope, add(1).scope) == ("global", "group", "leaf")
    assert ws.chain(unit_by_group(), add(1)).scope == ws.on("x", unit_by_group()).scope == "group"
    assert ws.chain(weigh(), noise(), ws.around_base(mean())).needs == {"gram", "key", "base"}
    assert ws.on("x", weigh()).needs == {"gram"}
    assert [t.arity for t in (add(1), mean(), minus(), ws.keep())] == [1, None, 2, None]
    assert [t.arity for t in (ws.chain(add(1), minus()), ws.chain(add(1), mean()), ws.on("x", add(1)))] == [2, None, 1]
    assert ws.around_base(minus()).arity == 2 and ws.on("x", mean()).arity is None
    assert ws.chain(add(1), times(2)).name == "add 1 > times 2"
    assert ws.on("k$", add(1)).name == "on('k$', add 1)" and ws.on(ws.matrices, add(1)).name == "on(matrices, add 1)"
    assert ws.around_base(add(1)).name == "around_base(add 1)"


def test_around_base_of_nothing_is_base_exactly() -> None:
    """Zero task vectors change nothing, in any dtype; equal trees merge to themselves."""
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        w = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32).astype(dtype)}
        for t in (times(3.0), ws.chain(times(0.5), mean())):
            np.testing.assert_array_equal(ws.around_base(t)(w, base=w)["w"], w["w"])


def test_side_trees_pass_through_combinators() -> None:
    t = ws.chain(times(2.0), ws.on("kernel$", weigh()))
    check(t({"kernel": jnp.ones(2), "bias": jnp.ones(1)}, gram={"kernel": 3.0})["kernel"], np.array([6.0, 6.0]))


def test_one_side_tree_a_model() -> None:
    """Given as a tuple, a part before the merge gets its own model's entry."""
    t = ws.chain(weigh(), mean())
    w = {"w": jnp.ones(1)}
    assert t(w, w, gram=({"w": 1.0}, {"w": 5.0}))["w"] == 3
    assert t(w, w, gram={"w": 4.0})["w"] == 4


def test_trees_and_parts_draw_apart() -> None:
    zero = {"w": jnp.zeros(4)}
    both = ws.chain(noise(), ws.leafwise("keep both", lambda x, ctx: jnp.concatenate([x[0], x[1]]), arity=2))
    first, second = jnp.split(both(zero, zero, key=KEY)["w"], 2)
    alone = noise()(zero, key=KEY)["w"]
    np.testing.assert_array_equal(first, alone)
    assert not np.any(np.isclose(first, second))
    two = ws.chain(noise(), noise())(zero, key=KEY)["w"] - alone
    assert not np.any(np.isclose(two, alone)) and not np.any(np.isclose(two, second))


def test_parts_of_nested_chains_draw_apart() -> None:
    """Noise added by any two parts of any nesting is never the same noise: nothing adds up to twice one draw."""
    zero, n = {"w": jnp.zeros(4)}, noise()
    nests = [
        lambda a, b, c: ws.chain(ws.chain(a, b), c),
        lambda a, b, c: ws.chain(a, ws.chain(b, c)),
        lambda a, b, c: ws.chain(ws.on("w", ws.chain(a, b)), c),
        lambda a, b, c: ws.chain(ws.around_base(ws.chain(a, b)), c),
        lambda a, b, c: ws.chain(ws.chain(ws.chain(a, b), c), ws.keep()),
    ]
    for nest in nests:
        base = {"base": zero} if "base" in nest(n, n, n).needs else {}
        keep = ws.leafwise("same", lambda x, ctx: x[0])
        draws = [nest(*(n if i == j else keep for j in range(3)))(zero, key=KEY, **base)["w"] for i in range(3)]
        for one, two in itertools.combinations(draws, 2):
            assert not np.any(np.isclose(one, two)), nest(n, n, n).name


@given(st.lists(st.sampled_from(range(4)), min_size=1, max_size=5), st.integers(0, 4))
def test_any_chain_can_be_cut_anywhere(picks: list[int], cut: int) -> None:
    parts = [PARTS[i]() for i in picks]
    whole = ws.chain(*parts)(A)
    halves = [ws.chain(*half) for half in (parts[:cut], parts[cut:]) if half]
    after = A
    for half in halves:
        after = half(after)
    check(whole, after)
    check(ws.chain(*halves)(A), whole)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ws.chain(), r"chain\(\) needs at least one transform; keep\(\) is the one that changes nothing"),
        (lambda: ws.on("kernal", add(1))(A), r"selector 'kernal' matches none of 3 leaves: x/kernel, x/bias, y/kernel"),
        (lambda: ws.on(ws.matrices, add(1))({"b": jnp.ones(1)}), "selector matrices matches none of 1 leaves: b"),
        (lambda: ws.chain(add(1), ws.on("zz", add(1)))(A), "selector 'zz' matches none"),
        (lambda: ws.around_base(ws.on("zz", add(1)))(A, base=A), "selector 'zz' matches none"),
        (lambda: ws.route([("x", "a"), ("zz", "a")], {"a": add(1)}, ws.keep())(A), "selector 'zz' matches none"),
        (
            lambda: ws.route([("x", "dubble")], {"double": add(1)}, ws.keep())(A),
            r"'dubble' \(x/kernel, x/bias\). Did you mean",
        ),
        (
            lambda: ws.route([("x", "a")], {"a": add(1)})(A),
            r"route has no rule for y/kernel; add one, or give otherwise=keep",
        ),
        (lambda: ws.route(lambda p: "b", {"a": add(1)})(A), "no transform for label 'b'"),
    ],
)
def test_selectors_and_labels_that_miss(make: Any, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        make()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ws.chain(add(1), mean(), minus()), "minus takes 2 trees, but in the chain mean before it leaves one"),
        (lambda: ws.on("x", minus(), otherwise=add(1)), "must take the same number of trees.*on 2, otherwise 1"),
    ],
)
def test_numbers_of_trees_that_do_not_fit(make: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        make()


def test_an_error_inside_a_transform_says_at_which_leaf() -> None:
    broken = ws.leafwise("broken", lambda x, ctx: x[0].reshape(7))
    with pytest.raises(TypeError, match="cannot reshape") as caught:
        ws.chain(add(1), broken)(A)
    assert caught.value.__notes__[0] == "add 1 > broken was at x/kernel (2,) float32"


def test_a_side_tree_without_this_leaf_names_it() -> None:
    with pytest.raises(SideTreeError, match=r"'gram' has nothing for y/kernel \(2,\); give it an entry, or leave this"):
        weigh()(A, gram={"x": {"kernel": 1.0, "bias": 1.0}})
