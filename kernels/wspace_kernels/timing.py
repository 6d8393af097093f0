"""How long the cases of an operation take, as a share of what the machine can do at all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wspace.core.errors import WspaceError
from wspace_kernels.case import Case


def seconds(run: Callable[..., Any], *args: Any, times: int = 10, **named: Any) -> float:
    """The median of some calls, after one that compiles."""
    jax.block_until_ready(run(*args, **named))
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run(*args, **named))
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def copy_bandwidth(size: int = 2**27) -> float:
    """Bytes a second, read and written, of a donated in-place pass over `size` bytes."""
    passing = jax.jit(lambda x: x + 1, donate_argnums=0)
    held = [jnp.zeros(size // 4, jnp.float32)]

    def run() -> jax.Array:
        held[0] = passing(held[0])
        return held[0]

    return 2 * size / seconds(run)


def matmul_rate(size: int = 2048) -> float:
    """Floating-point operations a second of a square product: bfloat16, or float32 on a CPU."""
    x = jnp.ones((size, size), jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return 2 * size**3 / seconds(jax.jit(jnp.matmul), x, x)


def report(cases: Iterable[Case]) -> Iterator[str]:
    """A line for each large case and each implementation that runs here."""
    bandwidth, rate = copy_bandwidth(), matmul_rate()
    device = jax.devices()[0].device_kind
    yield f"{device}: copy {bandwidth / 1e9:.1f} GB/s, matmul {rate / 1e12:.3f} TFLOP/s"
    for case in cases:
        if not case.large:
            continue
        given = jax.jit(case.make)(jax.random.key(0))
        plain = None
        for name in ("ref", "tpu", "gpu"):
            try:
                spent = seconds(jax.jit(partial(case.call, **case.static, implementation=name)), **given)
            except WspaceError:  # a kernel of another platform
                continue
            plain = plain or spent
            bounds = []
            if case.moved is not None:
                bounds.append(f"{case.moved(**given) / spent / bandwidth:6.1%} of copy")
            if case.done is not None:
                bounds.append(f"{case.done(**given) / spent / rate:6.1%} of matmul")
            yield f"{case.name:24} {name:4} {spent * 1e3:9.3f} ms  {', '.join(bounds)}  {plain / spent:.2f}x plain XLA"
