"""If this were deleted, a merged model could be given the statistics of other units, or of layers not yet repaired."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from tests.match.nets import loss, pair
from tests.trace.zoo import ZOO
from wspace.core.containers import show
from wspace.core.errors import SelectionError
from wspace.data import digits
from wspace.trace.vectors import biases, normalizations

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def as_users_have_it() -> Any:
    """Models of the zoo don't run under the strict promotion of the rest of these tests."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def hidden(net: Any, images: Any) -> list[np.ndarray]:
    """Pre-activations of a digits net, in numpy."""
    x, out = np.float64(images), []
    for name in ("hidden0", "hidden1", "out"):
        w = net["params"][name]
        out.append(x @ np.float64(w["kernel"]) + np.float64(w["bias"]))
        x = np.maximum(out[-1], 0)
    return out


def test_repaired_units_lie_between_their_parents() -> None:
    """Every layer, with those before it repaired; and (the paper's claim) the midpoint loses less."""
    model, (a, b), axes = pair(32)
    images = np.asarray(digits.load("train")[0])
    b = ws.match.act(b, axes, ws.match.weight(a, b, axes, key=jax.random.key(0)))
    middle = ws.match.midpoint(a, b)
    new = ws.match.repair_model(model.apply, middle, a, b, [images[:700], images[700:]], epsilon=0.0)
    for got, p, q in zip(*(hidden(net, images) for net in (new, a, b)), strict=True):
        np.testing.assert_allclose(got.mean(0), (p.mean(0) + q.mean(0)) / 2, atol=2e-3)
        np.testing.assert_allclose(got.std(0), (p.std(0) + q.std(0)) / 2, rtol=1e-3)
    assert loss(model, new) < loss(model, middle)


def test_recalibrated_batch_norms_meet_what_they_expect() -> None:
    """Two in a row, the second behind the first: against flax's own batch statistics."""

    class Net(nn.Module):
        train: bool

        @nn.compact
        def __call__(self, x: Any) -> Any:
            for width in (4, 6):
                x = nn.Conv(width, (3, 3))(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not self.train, momentum=0.0)(x))
            return nn.Dense(2)(x.mean((1, 2)))

    x = jnp.asarray(RNG.standard_normal((8, 6, 6, 2)), jnp.float32)
    params = Net(True).init(jax.random.key(0), x)
    _, now = Net(True).apply(params, x, mutable="batch_stats")  # what training would have put there, all of it at once
    found = ws.match.recalibrate(Net(False).apply, params, [x[:5], x[5:]])
    for name, stats in now["batch_stats"].items():
        for key, want in stats.items():
            np.testing.assert_allclose(found["batch_stats"][name][key], want, rtol=1e-4, atol=1e-5)
    assert (
        found["params"] is not None
        and (found["params"]["Conv_0"]["kernel"] == params["params"]["Conv_0"]["kernel"]).all()
    )


def test_vectors_of_the_zoo() -> None:
    apply, params, inputs = ZOO["resnet20-batch"].make()
    assert len(normalizations(apply, params, *inputs)) == 21
    assert all(
        show(m).endswith("mean") and show(v).endswith("var") for m, v in normalizations(apply, params, *inputs).items()
    )
    apply, params, inputs = ZOO["eqx-mlp"].make()
    found = {show(b): (show(layer.kernel), layer.axis) for b, layer in biases(apply, params, *inputs).items()}
    assert found == {f"layers/{k}/bias": (f"layers/{k}/weight", 0) for k in range(3)}
    apply, params, inputs = ZOO["mlp"].make()
    assert [show(layer.kernel) for layer in biases(apply, params, *inputs).values()] == [
        "a/kernel",
        "b/kernel",
        "head/kernel",
    ]
    assert not normalizations(apply, params, *inputs)


def test_what_can_not_be_measured() -> None:
    apply, params, (x,) = ZOO["mlp"].make()
    with pytest.raises(SelectionError, match="recalibrate: the program has no such layer"):
        ws.match.recalibrate(apply, params, [x])
    with pytest.raises(SelectionError, match="no batch"):
        ws.match.recalibrate(apply, params, [])
    with pytest.raises(SelectionError, match="repair_model: the program has no such layer"):
        ws.match.repair_model(apply, params, params, params, [x], where="nothing")
    apply, params, (x,) = ZOO["recurrent"].make()
    with pytest.raises(SelectionError, match="can't be measured in a loop"):
        ws.match.repair_model(apply, params, params, params, [x])
