"""As low as a metric allows: bisection over leaves in the order of their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wspace.core.errors import WspaceError


def bisect(
    scores: Mapping[str, float],
    evaluate: Callable[[dict[str, Any]], float],
    choices: Sequence[Any],
    tolerance: float = 0.01,
) -> dict[str, Any]:
    """Put as many leaves as possible to the first choice, then to the second, ..., the least sensitive ones first.

    For each choice but the last, the largest k is found by bisection for which the metric stays at
    `(1 - tolerance) * baseline` or above when the k least sensitive of the leaves still open take it.

    Args:
      scores: leaf -> sensitivity, of `augmented` or any other. evaluate: leaf -> choice to a metric, larger is better;
        called at most ceil(log2(n + 1)) times a choice, and once for the baseline.
      choices: from the lowest precision to the highest, which is the baseline.
      tolerance: fraction of the baseline's metric that may be lost.
    Returns:
      leaf -> choice.
    Raises:
      WspaceError: no choices.
    Example:
      >>> good = lambda bits: 1.0 if bits["b"] == 8 else 0.5
      >>> bisect({"b": 3.0, "a": 1.0}, good, choices=(4, 8))
      {'b': 8, 'a': 4}

    Reference: Schaefer et al., 2023, "Augmenting Hessians with Inter-Layer Dependencies for Mixed-Precision
      Post-Training Quantization".
    Differs from the paper: none known; it takes for granted, as bisection does, that fewer leaves lose less.
    """
    if not choices:
        raise WspaceError("bisect: no choices; give at least one, such as bits (4, 8)")
    found: dict[str, Any] = dict.fromkeys(scores, choices[-1])
    floor = (1 - tolerance) * evaluate(dict(found))
    still = sorted(scores, key=lambda leaf: (scores[leaf], leaf))
    for choice in choices[:-1]:
        low, high = 0, len(still)  # low leaves are known to be good
        while low < high:
            middle = (low + high + 1) // 2
            if evaluate({**found, **dict.fromkeys(still[:middle], choice)}) >= floor:
                low = middle
            else:
                high = middle - 1
        found.update(dict.fromkeys(still[:low], choice))
        still = still[low:]
    return found
