"""Which implementation of an operation runs: what was named, or what the platform is best at.

An operation is a folder: `ref.py` in plain jnp, `tpu.py` and `gpu.py` in Pallas, each with the same functions; `api.py`
with the public ones, which check their arguments, choose here and run; `cases.py`, one list for tests, benchmarks and
lowering; `bench.py`. A kernel's module has `refuses(*args, **static) -> str`: why it can't take them, "" if it can.

The kernels for GPUs are written for Pallas' Triton backend, which compiles without a GPU at hand. The newest jax calls
it deprecated; nothing outside the `gpu.py` files would change with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

from wspace.core.errors import ShapeError, WspaceError

Implementation: TypeAlias = Literal["ref", "tpu", "gpu"] | None
DEVICES = {"tpu": "a TPU", "gpu": "a GPU"}


class Choice(NamedTuple):
    """One implementation of one operation: static, so that a change of it compiles anew."""

    op: str
    name: str
    interpret: bool = False

    def function(self, name: str, **static: Any) -> Callable[..., Any]:
        """A function of that implementation; only now is it imported."""
        module = import_module(f"wspace_kernels.{self.op}.{self.name}")
        if self.name == "ref":
            return partial(getattr(module, name), **static)
        return partial(getattr(module, name), interpret=self.interpret, **static)


class Target(NamedTuple):
    """platform: "cpu", "tpu" or "gpu". interpret: its kernels run step by step, on any machine."""

    platform: str
    interpret: bool = False


_target: ContextVar[Target | None] = ContextVar("wspace_kernels_target", default=None)


@contextmanager
def target(platform: str, interpret: bool = False) -> Iterator[None]:
    """Choose as if jax ran on this platform: to compile for it ahead of time or, with `interpret`, to try its kernels.

    The choice is made when a function is traced; one that was traced outside keeps what it chose there.

    Raises:
      WspaceError: another word than "cpu", "tpu" or "gpu".
    """
    if platform not in ("cpu", *DEVICES):
        raise WspaceError(f"there is no target {platform!r}; use 'cpu', 'tpu' or 'gpu'")
    token = _target.set(Target(platform, interpret))
    try:
        yield
    finally:
        _target.reset(token)


def choose(op: str, implementation: Implementation, *args: Any, **static: Any) -> Choice:
    """The implementation to run. None: the platform's kernel if it takes these arguments and one device has all of
    them, else the reference; it never fails. Arrays of many devices go to the reference, which XLA can partition; in a
    `shard_map(..., check_vma=False)` each device has its own part, and the kernel runs on that.

    Raises:
      WspaceError: an unknown name, or a kernel of another platform than jax runs on.
      ShapeError: a named kernel can't take these arguments.
    """
    here = _target.get() or Target(jax.default_backend())
    name = implementation or here.platform
    if implementation not in (None, "ref", *DEVICES):
        raise WspaceError(f"{op}: there is no implementation {implementation!r}; use None, 'ref', 'tpu' or 'gpu'")
    if name not in DEVICES or (implementation is None and _target.get() is None and _spread(args)):
        return Choice(op, "ref")
    if name != here.platform:
        raise WspaceError(
            f"{op}: implementation={name!r} needs {DEVICES[name]}, but jax runs on {here.platform}; "
            f"leave it out, or use 'ref'"
        )
    reason = import_module(f"wspace_kernels.{op}.{name}").refuses(*args, **static)
    if reason and implementation is not None:
        raise ShapeError(f"{op}: implementation={name!r} {reason}; leave it out, or use 'ref'")
    return Choice(op, "ref") if reason else Choice(op, name, here.interpret)


def _spread(args: Any) -> bool:
    """Whether arrays may lie on several devices. Under a trace without a mesh that is unknown, and then assumed."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names:
        return mesh.size > 1 and not mesh.are_all_axes_manual
    arrays = [x for x in jax.tree.leaves(args) if isinstance(x, jax.Array)]
    if any(isinstance(x, jax.core.Tracer) for x in arrays):
        return jax.device_count() > 1
    return any(len(x.sharding.device_set) > 1 for x in arrays)


def out(shape: tuple[int, ...], dtype: Any, like: Any) -> jax.ShapeDtypeStruct:
    """The type of a kernel's result; `like` is one of its arguments: both vary over the same axes of a `shard_map`."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(like).manual_axis_type)


def with_gradient_of(reference: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, with the gradient that automatic differentiation gives the reference of the same arguments."""
    run = jax.custom_vjp(kernel)
    run.defvjp(
        lambda *args: (kernel(*args), args),
        lambda args, slope: jax.vjp(reference, *args)[1](slope),
    )
    return run
