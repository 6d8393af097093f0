"""Deleted, the price shown before a run could be wrong, or asking for it could read the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import wspace as ws
from tests.core.parts import add, mean, noise, unit, weigh
from wspace.core.errors import SelectionError, ShapeError, TreeMismatch
from wspace.core.sizes import size


def spec(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


SHAPES = {"kernel": spec(64, 32), "bias": spec(32, dtype="bfloat16"), "step": spec(dtype="int32"), "none": None}


class Unread(Mapping[str, Any]):
    """A checkpoint that knows its shapes and fails when it is read."""

    specs = {"kernel": ((64, 32), "float32"), "bias": ((32,), "bfloat16")}

    def __getitem__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def test_counts_bytes_passes_and_peak() -> None:
    plan = ws.plan(ws.chain(mean(), ws.on("kernel", unit())), SHAPES, SHAPES)
    kernel, bias = 64 * 32 * 4, 32 * 2
    assert (plan.passes, plan.scope) == (2, "global")
    assert {r.path: (r.steps, r.bytes_in, r.bytes_out) for r in plan.rows} == {
        "kernel": (("mean", "unit"), 2 * kernel, kernel),
        "bias": (("mean", "keep"), 2 * bias, bias),
        "step": ((), 8, 4),
        "none": ((), 0, 0),
    }
    assert plan.bytes_read == 2 * 2 * kernel + 2 * 2 * bias + 8
    assert (
        plan.bytes_written == kernel + bias + 4 and plan.peak == 4 * kernel
    )  # two trees as jax arrays, their mean, that scaled


def test_side_trees_count_and_need_no_values() -> None:
    plan = ws.plan(weigh(), {"w": spec(8, 8)}, gram={"w": spec(8, 8)})
    assert plan.rows[0].bytes_in == 2 * 256
    assert ws.plan(ws.around_base(noise()), {"w": spec(8, 8)}, base={"w": spec(8, 8)}).passes == 1  # without a key


def test_a_node_is_named_and_counted_by_its_fields() -> None:
    plan = ws.plan(ws.on(ws.matrices, ws.reparam.lora(rank=2)), SHAPES)
    row = plan.rows[0]
    assert row.made == "LoRA" and row.bytes_out == 4 * (64 * 32 + 2 * (64 + 32) + 1)
    assert plan.rows[1].steps == ("keep",) and plan.rows[1].made == "bfloat16"


def test_a_lazy_checkpoint_is_not_read() -> None:
    plan = ws.plan(ws.around_base(mean()), Unread(), Unread(), base=Unread())
    assert plan.rows[0].bytes_in == 3 * 64 * 32 * 4


def test_the_table_shows_every_leaf() -> None:
    plan = ws.plan(add(1.0), {"<b>": spec(2), "n": spec(2, dtype="int8")})
    lines = str(plan).splitlines()
    assert lines[0] == "add 1: 2 leaves, scope leaf, 1 pass, reads 10 B, writes 10 B, holds 16 B at once"
    assert lines[2].split() == ["<b>", "add", "1", "(2,)", "float32", "->", "float32", "8", "B", "8", "B"]
    assert lines[3].split()[:2] == ["n", "pass"]
    assert "&lt;b&gt;" in plan._repr_html_() and "<b>" not in plan._repr_html_()


def test_an_empty_tree_and_large_sizes() -> None:
    assert ws.plan(add(1.0), {}).peak == 0
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**30, 3 * 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]


def test_misuse_raises_as_the_run_would() -> None:
    with pytest.raises(SelectionError):
        ws.plan(ws.on("zz", add(1.0)), SHAPES)
    with pytest.raises(TreeMismatch):
        ws.plan(mean(), SHAPES, {**SHAPES, "kernel": spec(64, 33)})
    with pytest.raises(ShapeError, match="bias"):
        ws.plan(ws.reparam.weight_norm(), SHAPES)
    shapes = ws.leafwise("stack", lambda x, ctx: x[0].reshape(7, -1))
    with pytest.raises(TypeError, match="cannot reshape"):
        ws.plan(shapes, {"w": spec(3)})


def test_arrays_do_as_well() -> None:
    assert ws.plan(add(1.0), {"w": jnp.ones(3)}) == ws.plan(add(1.0), {"w": spec(3)})
