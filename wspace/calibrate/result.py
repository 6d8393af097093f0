"""What a calibration gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wspace.core.axes import Axes
from wspace.core.typing import Tree


class Calibration(dict[str, Tree]):
    """Side trees by name of the fold, to pass on: `gptq(bits=4)(params, gram=found["gram"], axes=found.axes)`.

    axes: the roles that the statistics were taken in, to be passed along where they are not those of the names.
    unmet: path -> why this floating leaf has no entry. apart: path -> uses along other axes, not counted.
    apply, inputs: in `blockwise`, the block's program and what it was calibrated on, to learn from.
    """

    apply: Callable[[Tree, Any], Any] | None = None
    inputs: Sequence[Any] = ()

    def __init__(self, trees: dict[str, Tree], axes: Axes, unmet: dict[str, str], apart: dict[str, str]) -> None:
        super().__init__(trees)
        self.axes, self.unmet, self.apart = axes, unmet, apart
