"""Deleted, a method of the zoo could stop working, or its page lose a part, without anyone who runs it for minutes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.measure.test_plane import trees

ZOO = Path(__file__).parents[2] / "configs" / "merge_zoo.py"


@pytest.mark.slow
def test_every_method_merges_and_the_page_has_every_part() -> None:
    pytest.importorskip("matplotlib")
    zoo = runpy.run_path(str(ZOO), run_name="zoo")
    base, *models = ({"layer": {"kernel": t["w"]}} for t in trees(4))

    def score(params: Any) -> dict[str, float]:
        assert jax.tree.structure(params) == jax.tree.structure(base)
        assert np.isfinite(np.asarray(params["layer"]["kernel"])).all()
        return {f"task {k}": 1 / (1 + float(jnp.sum(params["layer"]["kernel"] ** 2)) + k) for k in range(3)}

    names = [f"task {k}" for k in range(3)]
    family = zoo["Family"](
        "Toy",
        "A toy.",
        base,
        dict(zip(names, models, strict=True)),
        score,
        lambda params: -float(jnp.sum(params["layer"]["kernel"])),
        lambda params: 1 + jnp.sum(params["layer"]["kernel"] ** 2),
        spectral=True,
    )
    found = zoo["scored"](family, (0.5, 1.0))
    assert set(found) == {"base", *names, *zoo["PLAIN"], *zoo["SCALED"], *zoo["SPECTRAL"]}
    sections = dict(zoo["sections"](family, found))
    assert list(sections) == ["Toy: scores", "Toy: task vectors", "Toy: the plane through the three"]
    drawn = [block for blocks in sections.values() for block in blocks if hasattr(block, "svg")]
    assert len(drawn) == 4 and all(block.svg.startswith("<svg") for block in drawn)
    best = max(found, key=lambda name: found[name].mean)
    assert sections["Toy: scores"][2].rows[0][0] == best
