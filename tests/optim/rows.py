"""Rows of the optim room and the slow numpy truths of their runs."""

from __future__ import annotations

import numpy as np

import wspace as ws
from tests import refs
from tests.optax_rows import OptaxRow as OptaxRow
from tests.optax_rows import descend as descend
from tests.optim import seed_rows
from tests.rows import Leaves, Row

ROWS: list[Row] = []  # the room has no Transform of its own


def kernels(params: Leaves) -> list[str]:
    return [path for path in params if path.endswith("kernel")]


def pruned(params: Leaves, grads: list[Leaves]) -> Leaves:
    """At steps 1, 3 and 4 the smallest go, 20 to 60 %; what is gone stays gone."""
    gone = {path: np.zeros(params[path].shape, bool) for path in kernels(params)}
    for t, now in descend(params, grads):
        for path in gone:
            w = np.where(gone[path], 0, now[path])
            if t in (1, 3, 4):
                sparsity = 0.6 - 0.4 * (1 - (t - 1) / 3) ** 3
                gone[path] |= refs.keep_largest(w, w.size - round(sparsity * w.size)) == 0
            now[path] = np.where(gone[path], 0, w)
    return params


MASK = np.random.default_rng(9).random((16, 8)) < 0.5


def masked(params: Leaves, grads: list[Leaves]) -> Leaves:
    for _, now in descend(params, grads):
        now["dense/kernel"] = now["dense/kernel"] * MASK
    return params


def halved() -> ws.Transform:
    """Something simple to project with: every kernel is brought half the way to 1."""
    return ws.on("kernel$", ws.leafwise("halve", lambda leaves, ctx: 0.5 + 0.5 * leaves[0]))


def projected(params: Leaves, grads: list[Leaves]) -> Leaves:
    for t, now in descend(params, grads):
        if t in (2, 5):
            for path in kernels(now):
                now[path] = 0.5 + 0.5 * now[path]
    return params


OPTAX_ROWS = [
    *seed_rows.OPTAX_ROWS,
    OptaxRow(
        "optim.prune",
        lambda: ws.optim.prune(
            lambda s: ws.on(ws.matrices, ws.prune.magnitude(s)),
            ws.optim.polynomial_sparsity(0.6, begin=1, end=4, initial=0.2),
            begin=1,
            end=4,
            every=2,
        ),
        pruned,
    ),
    OptaxRow(
        "optim.mask",
        lambda: ws.optim.mask({"dense": {"kernel": MASK, "bias": None}, "layers": {"kernel": None}}),
        masked,
    ),
    OptaxRow("optim.project", lambda: ws.optim.project(halved(), every=3), projected),
]
