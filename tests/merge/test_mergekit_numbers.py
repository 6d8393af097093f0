"""Deleted, a recipe of mergekit could run here and give other numbers than there.

`mergekit_numbers.npz` was made by mergekit itself with benchmarks/mergekit_numbers.py, which tells what is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.rows import close
from wspace.app.mergekit import read_mergekit
from wspace.app.mergekit_build import merge_transform
from wspace.app.mergekit_methods import METHODS
from wspace.app.yaml_strict import parse
from wspace.core.compose import around_base
from wspace.core.errors import RecipeError
from wspace.interpolate import nuslerp
from wspace.merge import drop, magprune

NUMBERS = np.load(Path(__file__).with_name("mergekit_numbers.npz"), allow_pickle=False)
CASES = json.loads(str(NUMBERS["cases"]))
CANCELLING = [
    i
    for i, case in enumerate(CASES)
    if abs(sum(case["each"].get("weight", [1]))) < 1e-6 and METHODS[case["method"]].divides == "always"
]


def recipe(case: dict[str, Any], models: int) -> str:
    """The document that asks mergekit for a case."""
    own = [{name: values[k] for name, values in case["each"].items()} for k in range(models)]
    document = {
        "merge_method": case["method"],
        "models": [{"model": f"m/{k}", **({"parameters": p} if p else {})} for k, p in enumerate(own)],
        **({"base_model": "m/base"} if case["based"] else {}),
        **({"parameters": case["whole"]} if case["whole"] else {}),
    }
    return json.dumps(document)  # which is YAML


@pytest.mark.parametrize(
    "i", sorted(set(range(len(CASES))) - set(CANCELLING)), ids=lambda i: f"{i}-{CASES[i]['method']}"
)
def test_the_numbers_of_mergekit(i: int) -> None:
    case, (base, *models) = CASES[i], NUMBERS[f"{i}/in"]
    (merge,) = read_mergekit(parse(recipe(case, len(models)), "r.yml"))
    names, t = merge_transform(merge, ["w"])
    trees = {"m/base": {"w": base}, **{f"m/{k}": {"w": w} for k, w in enumerate(models)}}
    sides: dict[str, Any] = {"base": trees["m/base"]} if "base" in t.needs else {}
    if "key" in t.needs:
        sides["key"] = jax.random.key(0)
    close(t(*(trees[name] for name in names), **sides), {"w": NUMBERS[f"{i}/out"]}, 1e-6)


def test_weights_that_cancel_are_refused_in_a_recipe_and_count_as_equal_in_a_call() -> None:
    assert {CASES[i]["method"] for i in CANCELLING} == {"nuslerp"}
    for i in CANCELLING:
        with pytest.raises(RecipeError, match="sum to zero"):
            read_mergekit(parse(recipe(CASES[i], 2), "r.yml"))
        base, a, b = ({"w": w} for w in NUMBERS[f"{i}/in"])
        close(around_base(nuslerp((1.0, -1.0)))(a, b, base=base), {"w": NUMBERS[f"{i}/out"]}, 1e-6)


def test_every_method_of_mergekit_has_numbers() -> None:
    assert {case["method"] for case in CASES} == METHODS.keys()


@pytest.mark.parametrize(
    ("name", "t"), [("della", magprune(0.5, 0.3, rescale="l1")), ("dare", drop(0.4, rescale="l1"))]
)
def test_random_masks_have_the_distribution_of_mergekits(name: str, t: Any) -> None:
    """4000 draws there, 4000 here: no entry's count, and no mean, is further off than six standard deviations."""
    x, kept, mean = (NUMBERS[f"{name}/{key}"] for key in ("in", "kept", "mean"))
    draws = 4000
    keys = jax.random.split(jax.random.key(1), draws)
    made = np.asarray(jax.jit(jax.vmap(lambda key: t({"w": jnp.asarray(x)}, key=key)["w"]))(keys), np.float64)
    chance = (kept + np.sum(made != 0, axis=0)) / (2 * draws)
    assert (abs(np.sum(made != 0, axis=0) - kept) <= 6 * np.sqrt(2 * draws * chance * (1 - chance))).all()
    assert (abs(made.mean(axis=0) - mean) <= 6 * made.std(axis=0) * np.sqrt(2 / draws)).all()
    assert kept.max() - kept.min() > (draws / 3 if name == "della" else -1)  # DELLA's chances do differ
    np.testing.assert_allclose(np.abs(made).sum(axis=(1, 2)), np.abs(x).sum(), rtol=1e-5)
