"""Without this file a gradient or a filter could give a layer another number than mergekit's rule gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wspace.app.settings import Number, Parameter, Setting, evaluate, layer_counts, layer_of, read_setting
from wspace.app.yaml_strict import parse
from wspace.core.errors import RecipeError

GRADIENT = "[0, 0.5, 0.3, 0.7, 1]"  # from mergekit's own example of a SLERP over 40 layers


def setting(text: str, kind: type[Number] = float) -> Setting:
    (document,) = parse(text, "r.yml")
    return read_setting(document, Parameter(kind))


@pytest.mark.parametrize(
    ("layer", "layers", "value"),
    [
        (0, 40, 0.0),
        (13, 40, 0.5 * 2 / 3 + 0.3 / 3),  # t = 1/3 stands at 4/3 of the list
        (26, 40, 0.3 / 3 + 0.7 * 2 / 3),  # t = 2/3 stands at 8/3
        (39, 40, 1.0),
        (1, 3, 0.3),  # t = 1/2 is the middle of five
        (0, 1, 1.0),  # a single layer stands at the end
        (None, 40, 0.0),  # embeddings and the final norm stand at the start
    ],
)
def test_a_gradient_by_hand(layer: int | None, layers: int, value: float) -> None:
    assert evaluate(setting(GRADIENT), "model.layers.0.mlp", layer, layers) == pytest.approx(value, abs=1e-15)


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=7), st.integers(2, 50))
def test_a_gradient_is_piecewise_linear(points: list[float], layers: int) -> None:
    found = [evaluate(setting(str(points)), "x", layer, layers) for layer in range(layers)]
    truth = np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, len(points)), points)
    np.testing.assert_allclose(np.array(found, float), truth, atol=1e-12)


def test_the_first_filter_that_matches_wins() -> None:
    value = setting(
        "- {filter: self_attn, value: [0, 1]}\n- {filter: attn, value: 7}\n- {filter: '*', value: 5}\n- value: 9"
    )
    assert evaluate(value, "layers.1.self_attn.q_proj.weight", 1, 3) == 0.5
    assert evaluate(value, "layers.1.cross_attn.q_proj.weight", 1, 3) == 7
    assert evaluate(value, "lm_head.weight", None, 3) == 5


def test_no_match_is_none_and_patterns_are_searched() -> None:
    value = setting("{where: 'attn.*(query|key)', value: 0.2}")
    assert evaluate(value, "layer.0.attn.self.key.weight") == 0.2
    assert evaluate(value, "layer.0.attn.self.value.weight") is None


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[]", float, "is an empty list"),
        ("[0.5, {filter: mlp, value: 1}]", float, "r.yml:1: [0]: mixes numbers with filters"),
        ("- filter: mlp", float, "a filter needs a 'value'"),
        ("- {filtr: mlp, value: 1}", float, "unknown key 'filtr' in [0]. Did you mean 'filter'?"),
        ("- {filter: a, where: b, value: 1}", float, "keep one"),
        ("- {where: '(', value: 1}", float, "is not a regular expression"),
        ("- {filter: mlp, value: [[1]]}", float, "must be a number, not a list"),
        ("[true, false]", bool, "can't change gradually"),
        ("[1, 2]", int, "can't change gradually"),
        ("0.5", bool, "must be true or false"),
    ],
)
def test_bad_forms(text: str, kind: type, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        setting(text, kind)
    assert message in str(caught.value)


def test_layers_by_name() -> None:
    names = {
        "model.layers.12.mlp.up_proj.weight": ("model.layers", 12),
        "encoder.layer.3.attention.self.query.weight": ("encoder.layer", 3),
        "transformer.h.0.attn.c_attn.weight": ("transformer.h", 0),
        "decoder.block.2.layer.1.EncDecAttention.k.weight": ("decoder.block", 2),
        "params/blocks_3/mlp/kernel": ("params/blocks", 3),
        "params/layers/7": ("params/layers", 7),
        "lm_head.weight": None,
        "model.sublayers.1.weight": None,
        "player.3.weight": None,
    }
    assert {name: layer_of(name) for name in names} == names
    assert layer_counts(names) == {
        "model.layers": 13,
        "encoder.layer": 4,
        "transformer.h": 1,
        "decoder.block": 3,
        "params/blocks": 4,
        "params/layers": 8,
    }
