"""Deleted, a container could come back as another type, in another order, or with leaves lost, renamed or untied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import equinox as eqx
import flax.struct
import haiku as hk
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given
from hypothesis import strategies as st

import wspace as ws
from tests.core.parts import add, times
from wspace.core.containers import as_params, is_weight, show

ONE = np.ones(2, np.float32)


class Pair(NamedTuple):
    x: Any
    y: Any


@flax.struct.dataclass
class Layer:
    kernel: Any
    size: int = flax.struct.field(pytree_node=False)


class Net(nnx.Module):
    """Every kind of variable: weights, running statistics, a random key with its counter."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)


def haiku_params() -> Any:
    net = hk.transform(lambda x: hk.nets.MLP([2, 1])(x))
    return net.init(jax.random.key(0), jnp.ones((1, 3)))


def equinox_mlp() -> Any:
    return eqx.nn.MLP(2, 1, 3, 1, use_final_bias=False, key=jax.random.key(0))


NET = "blocks/0/bias blocks/0/kernel blocks/1/bias blocks/1/kernel drop/rngs/count drop/rngs/key "
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "int and str keys": (lambda: {"b": ONE, 3: {"w": ONE}, 1: ONE}, "b 3/w 1"),
    "frozen dict": (lambda: FrozenDict({"b": {"w": ONE}, "a": ONE}), "a b/w"),
    "frozen dict in a dict": (lambda: {"z": FrozenDict({"w": ONE}), "a": ONE}, "z/w a"),
    "ordered dict": (lambda: OrderedDict(b=ONE, a=ONE), "b a"),
    "tuples, lists, named tuples": (lambda: (ONE, [ONE, Pair(ONE, None)]), "0 1/0 1/1/x 1/1/y"),
    "flax struct": (lambda: {"l": Layer(ONE, 2)}, "l/kernel"),
    "nnx state": (lambda: nnx.state(Net()), NET + "norm/bias norm/mean norm/scale norm/var"),
    "haiku": (haiku_params, "mlp/~/linear_0/w mlp/~/linear_0/b mlp/~/linear_1/w mlp/~/linear_1/b"),
    "equinox": (equinox_mlp, "layers/0/weight layers/0/bias layers/1/weight layers/1/bias activation final_activation"),
    "optax state": (lambda: optax.trace(0.9).init({"w": ONE, "n": None}), "trace/n trace/w"),
    "adam state": (lambda: optax.scale_by_adam().init({"w": ONE}), "count mu/w nu/w"),
    "flat names": (
        lambda: {"model.layers.0.q.weight": ONE, "lm_head.weight": ONE},
        "model.layers.0.q.weight lm_head.weight",
    ),
    "key with a slash beside a nest": (lambda: {"a/b": ONE, "a": {"b": ONE}}, "a/b a/b"),
    "one array": (lambda: ONE, ""),
    "nothing": (lambda: {}, ""),
    "empty nests": (lambda: {"a": {}, "b": {"c": None}, "d": [], "e": ((), optax.EmptyState())}, "b/c"),
}
each = pytest.mark.parametrize(("make", "paths"), CASES.values(), ids=CASES.keys())


def parts(tree: Any) -> list[Any]:
    """The leaves in order, typed keys as numbers; what is no array stays itself."""
    leaves = as_params(tree).leaves.values()
    keys = [x for x in leaves if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return [jax.random.key_data(x) if any(x is k for k in keys) else x for x in leaves]


@each
def test_leaves_have_the_paths_people_know(make: Callable[[], Any], paths: str) -> None:
    found = [show(p) for p in as_params(make()).leaves]
    assert found == (paths.split(" ") if paths or found == [""] else [])


@each
def test_what_went_in_comes_out_with_weights_changed(make: Callable[[], Any], paths: str) -> None:
    tree = make()
    out = ws.chain(times(2.0), add(1.0))(tree)
    assert type(out) is type(tree) or isinstance(tree, np.ndarray)
    assert list(as_params(out).leaves) == list(as_params(tree).leaves)
    if not any(isinstance(k, int) for k in (tree if isinstance(tree, dict) else ())):  # jax can't sort such a dict
        assert jax.tree.structure(out) == jax.tree.structure(tree)
    for a, b in zip(parts(tree), parts(out), strict=True):
        if is_weight(a):
            assert isinstance(b, jax.Array) and b.dtype == a.dtype
            np.testing.assert_array_equal(b, 2 * np.asarray(a) + 1)
        elif hasattr(a, "dtype"):
            assert b.dtype == a.dtype
            np.testing.assert_array_equal(b, a)
        else:
            assert b is a or b == a


def test_a_mapping_that_is_no_pytree_comes_back_as_a_dict() -> None:
    out = times(2.0)({"a": MappingProxyType({"w": ONE})})
    assert out["a"] == {"w": out["a"]["w"]} and out["a"]["w"].tolist() == [2, 2]


def test_nnx_model_runs_with_the_state_that_comes_back() -> None:
    net = Net()
    nnx.update(net, times(2.0)(nnx.state(net)))
    assert net.norm.scale[...].tolist() == [2, 2, 2] and int(net.drop.rngs.count[...]) == 0


def test_equinox_module_runs() -> None:
    model, x = equinox_mlp(), jnp.ones(2)
    first, last = (np.asarray(layer.weight) for layer in model.layers)
    hidden = np.maximum(2 * first @ np.ones(2) + 2 * np.asarray(model.layers[0].bias), 0)
    np.testing.assert_allclose(times(2.0)(model)(x), 2 * last @ hidden, rtol=1e-5)


def test_two_leaves_may_share_a_shown_path_but_not_a_key() -> None:
    out = times(2.0)({"a/b": ONE, "a": {"b": 3 * ONE}})
    assert out["a/b"].tolist() == [2, 2] and out["a"]["b"].tolist() == [6, 6]


def test_tied_leaves_stay_tied() -> None:
    w = jnp.ones(2)
    out = times(2.0)({"embed": w, "head": w, "other": jnp.ones(2)})
    assert out["embed"] is out["head"] and out["other"] is not out["embed"]


def test_tied_leaves_that_take_different_steps_part() -> None:
    w = jnp.ones(2)
    out = ws.on("embed", times(2.0))({"embed": w, "head": w})
    assert out["embed"].tolist() == [2, 2] and out["head"].tolist() == [1, 1]


def test_tied_leaves_with_different_entries_of_a_side_tree_part() -> None:
    w = jnp.ones(2)
    base = {"embed": jnp.zeros(2), "head": jnp.full(2, 5.0)}
    out = ws.around_base(times(2.0))({"embed": w, "head": w}, base=base)
    assert out["embed"].tolist() == [2, 2] and out["head"].tolist() == [-3, -3]
    tied = ws.around_base(times(2.0))({"embed": w, "head": w}, base=dict.fromkeys(base, base["embed"]))
    assert tied["embed"] is tied["head"]


def test_leaves_tied_in_one_tree_only_part() -> None:
    w = jnp.ones(2)
    mean = ws.leafwise("mean", lambda leaves, ctx: (leaves[0] + leaves[1]) / 2, arity=2)
    out = mean({"a": w, "b": w}, {"a": 3 * w, "b": 5 * w})
    assert out["a"].tolist() == [2, 2] and out["b"].tolist() == [3, 3]


DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int8, np.int64, np.bool_, np.uint8]
leaf = st.one_of(
    st.none(),
    st.builds(
        lambda shape, dtype: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from(DTYPES),
    ),
)
names = st.one_of(st.integers(-2, 9), st.text(max_size=3), st.sampled_from(["a.b", "a/b", "", "kernel", "value"]))
trees = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=3),
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in types, keys, order and bits."""
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if a is None:
        return b is None
    return (a.shape, a.dtype) == (b.shape, b.dtype) and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@given(trees)
def test_any_tree_makes_the_round_trip_bit_by_bit(tree: Any) -> None:
    params = as_params(tree)
    assert same(params.rebuild(params.leaves), tree)
    assert same(ws.keep()(tree), tree)
    assert same(times(1.0)(tree), tree)
