"""Deleted, an adapter could be extracted that another of its rank beats, or merged to other numbers than peft's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wspace as ws
from wspace.core.axes import MatrixView
from wspace.core.errors import NonFinite, ShapeError, SideTreeError, WspaceError
from wspace.reparam import LoRA, combine_adapters, extract_lora, lora_ranks
from wspace.reparam.extract_lora import low_rank_array, low_rank_product_array

RNG = np.random.default_rng(0)
NUMBERS = np.load(Path(__file__).with_name("peft_numbers.npz"), allow_pickle=False)
CASES = json.loads(str(NUMBERS["cases"]))


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def adapter(a: np.ndarray, b: np.ndarray, scale: float = 1.0) -> LoRA:
    """An adapter on a zero weight [out, in] from factors as peft keeps them: A [r, in], B [out, r]."""
    shape = (b.shape[0], a.shape[1])
    view = MatrixView((1, 0), shape, 0, 1)
    return LoRA(jnp.zeros(shape), jnp.asarray(a.T), jnp.asarray(b.T), jnp.asarray(scale, jnp.float32), view)


# Extraction


def test_eckart_and_young() -> None:
    """The squared error is the sum of the other squared singular values, and no random update of the rank is nearer."""
    base, tuned = {"q.weight": normal(12, 9)}, {"q.weight": normal(12, 9)}
    delta = tuned["q.weight"].astype(np.float64) - base["q.weight"]
    s = np.linalg.svd(delta, compute_uv=False)
    for rank in (1, 4, 9):
        node = extract_lora(rank)(tuned, base=base)["q.weight"]
        error = np.sum((np.asarray(node.materialize(), np.float64) - tuned["q.weight"]) ** 2)
        np.testing.assert_allclose(error, np.sum(s[rank:] ** 2), rtol=1e-5, atol=1e-9)
        for _ in range(20):  # the best update within a random column space
            q = np.linalg.qr(RNG.standard_normal((12, rank)))[0]
            assert np.sum((delta - q @ (q.T @ delta)) ** 2) >= error * (1 - 1e-6)


def test_the_extracted_adapter_stands_on_the_base_and_trains() -> None:
    base = {"kernel": jnp.asarray(normal(8, 6)), "bias": jnp.zeros(6)}
    low = jnp.asarray(normal(8, 2) @ normal(2, 6))
    tuned = {"kernel": base["kernel"] + low, "bias": jnp.ones(6)}
    adapted = ws.on("kernel", extract_lora(rank=2))(tuned, base=base)
    np.testing.assert_array_equal(adapted["kernel"].base, base["kernel"])
    np.testing.assert_allclose(adapted["kernel"].materialize(), tuned["kernel"], atol=1e-5)
    np.testing.assert_array_equal(adapted["bias"], tuned["bias"])
    train, _ = ws.split(adapted)
    assert sum(x.size for x in jax.tree.leaves(train)) == 2 * (8 + 6)
    a = np.asarray(adapted["kernel"].a)
    assert all(c[np.argmax(np.abs(c))] > 0 for c in a.T)
    np.testing.assert_allclose(np.sum(a**2, 0), np.sum(np.asarray(adapted["kernel"].b) ** 2, 1), rtol=1e-4)


def test_ranks_for_an_energy() -> None:
    """Singular values 4, 2, 1, 0.5: squares 16, 4, 1, 0.25 of 21.25."""
    u, v = np.linalg.qr(normal(6, 6))[0], np.linalg.qr(normal(4, 4))[0]
    change = (u[:, :4] * [4, 2, 1, 0.5]) @ v
    base = {"kernel": normal(6, 4), "stay": normal(6, 4), "stack": normal(2, 6, 4)}
    tuned = {**base, "kernel": base["kernel"] + change.astype(np.float32)}
    tuned["stack"] = base["stack"] + np.stack([change, np.outer(u[:, 0], v[0])]).astype(np.float32)
    for energy, rank in ((0.7, 1), (0.8, 2), (0.95, 3), (0.999, 4)):
        assert lora_ranks(tuned, base, energy) == {"kernel": rank, "stack": rank}
    assert lora_ranks(tuned, base, 0.999, most=2, where="kernel") == {"kernel": 2}
    ranks = lora_ranks(tuned, base, 0.95)
    out = ws.on(lambda path, spec: path in ranks, extract_lora(ranks))(tuned, base=base)
    assert out["kernel"].a.shape == (6, 3) and out["stack"].b.shape == (2, 3, 4)
    held = np.sum((np.asarray(out["kernel"].materialize()) - base["kernel"]) ** 2) / np.sum(change**2)
    assert 0.95 <= held < 1
    np.testing.assert_array_equal(out["stay"], base["stay"])


def test_extraction_on_a_quantized_base_corrects_its_rounding() -> None:
    """The change since the 4-bit base holds the rounding error too: at full rank the adapter undoes it."""
    tuned = {"kernel": jnp.asarray(normal(8, 6))}
    base = ws.quant.rtn(bits=4)({"kernel": tuned["kernel"] + 0.1})
    out = extract_lora(rank=6)(tuned, base=base)["kernel"]
    assert isinstance(out.base, ws.quant.QTensor)
    np.testing.assert_allclose(out.materialize(), tuned["kernel"], atol=1e-5)


# Merging


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i]['how']}")
def test_the_numbers_of_peft(i: int) -> None:
    case = CASES[i]
    nodes = [
        adapter(NUMBERS[f"{i}/{k}/A"], NUMBERS[f"{i}/{k}/B"], alpha / r)
        for k, (r, alpha) in enumerate(zip(case["ranks"], case["alphas"], strict=True))
    ]
    settings = dict(case["settings"])
    settings |= {"rank": settings.pop("svd_rank")} if "svd_rank" in settings else {}
    t = combine_adapters(case["how"], case["weights"], **settings)
    given = {"key": jax.random.key(0)} if "dare" in case["how"] else {}
    out = t(*({"q": node} for node in nodes), **given)["q"]
    want = NUMBERS[f"{i}/out"]
    np.testing.assert_allclose(out.materialize(), want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("how", ["dare_linear", "dare_ties"])
def test_random_masks_have_the_distribution_of_pefts(how: Any) -> None:
    """2000 draws there, 2000 here: no count and no mean is further off than six standard deviations."""
    nodes = [adapter(NUMBERS[f"{how}/{k}/A"], NUMBERS[f"{how}/{k}/B"], s) for k, s in enumerate((2.0, 1.0))]
    t, draws = combine_adapters(how, (1.0, 0.5), density=0.6), 2000
    keys = jax.random.split(jax.random.key(1), draws)
    made = jax.jit(jax.vmap(lambda key: t(*({"q": n} for n in nodes), key=key)["q"].a))(keys)
    found = np.asarray(made, np.float64).swapaxes(1, 2)
    kept, mean = NUMBERS[f"{how}/kept"], NUMBERS[f"{how}/mean"]
    chance = (kept + np.sum(found != 0, axis=0)) / (2 * draws)
    assert (abs(np.sum(found != 0, axis=0) - kept) <= 6 * np.sqrt(2 * draws * chance * (1 - chance))).all()
    assert (abs(found.mean(axis=0) - mean) <= 6 * found.std(axis=0) * np.sqrt(2 / draws)).all()


def test_cat_is_the_exact_sum_and_linear_is_not() -> None:
    a, b = ({"q": adapter(normal(2, 7), normal(5, 2), 0.5)} for _ in range(2))
    want = 0.7 * a["q"].materialize() - 0.2 * b["q"].materialize()
    exact = combine_adapters("cat", (0.7, -0.2))(a, b)["q"]
    np.testing.assert_allclose(exact.materialize(), want, atol=1e-5)
    assert exact.a.shape[1] == 4
    full = combine_adapters("svd", (0.7, -0.2), rank=4)(a, b)["q"]
    np.testing.assert_allclose(full.materialize(), want, atol=1e-5)
    assert np.abs(combine_adapters("linear", (0.7, -0.2))(a, b)["q"].materialize() - want).max() > 0.1
    one = combine_adapters("linear", (-0.7,))(a)["q"]
    np.testing.assert_allclose(one.materialize(), -0.7 * a["q"].materialize(), atol=1e-6)


def test_the_svd_of_a_product_is_that_of_its_factors() -> None:
    """Wide, tall, and more columns than rows; at most the rank that the product has."""
    for ins, k, outs, rank in ((9, 3, 7, 5), (4, 6, 9, 2)):
        a, b = jnp.asarray(normal(ins, k)), jnp.asarray(normal(k, outs))
        found, want = low_rank_product_array(a, b, rank), low_rank_array(a @ b, min(rank, k))
        assert [x.shape for x in found] == [x.shape for x in want]
        np.testing.assert_allclose(found[0] @ found[1], want[0] @ want[1], atol=2e-5)
        np.testing.assert_allclose(np.sum(found[0] ** 2, 0), np.sum(found[1] ** 2, 1), rtol=1e-3, atol=1e-5)


def test_leaves_without_an_adapter() -> None:
    """Merged from the trees that have one; plain in all, the first tree's."""
    node, w = adapter(normal(2, 7), normal(5, 2)), jnp.zeros((5, 7))
    out = combine_adapters("linear", (3.0, 0.5))({"q": w, "n": jnp.ones(2)}, {"q": node, "n": jnp.ones(2)})
    np.testing.assert_allclose(out["q"].materialize(), 0.5 * node.materialize(), atol=1e-6)
    np.testing.assert_array_equal(out["n"], jnp.ones(2))


def test_a_sweep_and_a_gradient_over_weights() -> None:
    a, b = ({"q": adapter(normal(2, 7), normal(5, 2))} for _ in range(2))

    def total(w: jax.Array) -> jax.Array:
        return combine_adapters("svd", w, rank=4)(a, b)["q"].materialize().sum()

    sweep = jax.jit(jax.vmap(lambda x: total(jnp.stack([x, 1 - x]))))(np.linspace(0, 1, 3, dtype=np.float32))
    np.testing.assert_allclose(sweep[1], (sweep[0] + sweep[2]) / 2, rtol=1e-4)
    slope = jax.jit(jax.grad(lambda w: combine_adapters("cat", w)(a, b)["q"].materialize().sum()))(np.ones(2, "f"))
    np.testing.assert_allclose(slope, [np.sum(x["q"].materialize()) for x in (a, b)], rtol=1e-4)


def test_errors_name_the_word_the_leaf_and_the_ranks() -> None:
    small, large = {"q": adapter(normal(2, 7), normal(5, 2))}, {"q": adapter(normal(3, 7), normal(5, 3))}
    with pytest.raises(ShapeError, match=r"needs adapters of one rank, but at q they have \[2, 3\]; take cat"):
        combine_adapters("linear")(small, large)
    with pytest.raises(ShapeError, match="different layouts"):
        combine_adapters("cat")(small, {"q": LoRA(jnp.zeros((5, 7)), *_factors(), MatrixView((0, 1), (5, 7), 0, 1))})
    with pytest.raises(WspaceError, match=r"no combination 'tise'. Did you mean 'ties'"):
        combine_adapters("tise")  # type: ignore[arg-type]
    with pytest.raises(WspaceError, match="needs a density"):
        combine_adapters("ties_svd")
    with pytest.raises(WspaceError, match="leave density out"):
        combine_adapters("cat", density=0.5)
    with pytest.raises(WspaceError, match=r"density 1.5 is no share"):
        combine_adapters("ties", density=1.5)
    with pytest.raises(WspaceError, match="takes no rank 4"):
        combine_adapters("linear", rank=4)
    with pytest.raises(SideTreeError, match="random: pass a key"):
        combine_adapters("dare_ties", density=0.5)(small, small)
    with pytest.raises(ShapeError, match="at least 1, but got 0"):
        extract_lora(0)
    with pytest.raises(ShapeError, match="rank None for w; give it one"):
        extract_lora({"v": 1})({"w": normal(2, 2)}, base={"w": normal(2, 2)})
    with pytest.raises(WspaceError, match=r"at most 1, not 1\.5"):
        lora_ranks({}, {}, energy=1.5)


def _factors() -> tuple[jax.Array, jax.Array, jax.Array]:
    return jnp.ones((5, 2)), jnp.ones((2, 7)), jnp.ones(())


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_change_with_an_infinity_gives_nan_and_has_no_rank(bad: float) -> None:
    """The SVD of an infinity runs for ever on a CPU, and NaN counted as no change."""
    base, tuned = {"kernel": jnp.zeros((4, 3))}, {"kernel": jnp.ones((4, 3)).at[0, 0].set(bad)}
    assert np.isnan(extract_lora(2)(tuned, base=base)["kernel"].materialize()).all()
    with pytest.raises(NonFinite, match="kernel has NaN or infinity"):
        lora_ranks(tuned, base, 0.9)
