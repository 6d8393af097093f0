"""The grids by name: what a recipe writes, and what a file says its codes are."""

from __future__ import annotations

import math
import re
from functools import cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from wspace.core.errors import WspaceError, nearest
from wspace.quant.codebook import Codebook
from wspace.quant.edge_scale import EdgeScale
from wspace.quant.grid import Grid
from wspace.quant.integer import Affine, Integer
from wspace.quant.levels import Cast, Levels, Snap
from wspace.quant.power import Power

Format: TypeAlias = Grid | str | None
NAMES = (
    "int4", "int4_asymmetric", "int4_full", "fp4", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2", "nf4", "mxfp4",
    "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "nvfp4", "binary", "ternary", "statsq2", "balanced2",
    "log2_4", "logsqrt2_4", "logsqrt2_4_positive", "log2_4_positive", "kmeans3", "power4", "edge_scale8", "affine4",
    "ratiofp4",
)  # fmt: skip
CASTS = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}
SNAPS: dict[str, Snap] = {"": "", "mx": "mx", "nv": "nv", "up": "up", "ratio": "ratio"}


def choose(bits: int, symmetric: bool, grid: Format) -> Grid:
    """The grid that a solver was asked for: integers of `bits` bits, or `grid` instead, by name or as it is.

    Raises:
      WspaceError: bits outside 2..8; an unknown name.
    """
    if grid is not None:
        return named(grid) if isinstance(grid, str) else grid
    if not 2 <= bits <= 8:
        raise WspaceError(f"bits={bits} is not supported; a code has 2 to 8 bits")
    return named(f"int{bits}" + ("" if symmetric else "_asymmetric"))


@cache
def named(name: str) -> Grid:
    """The grid of a name.

    int2..int8, also `int4_asymmetric` and `int4_full` (scaled to half a step above the last code); fp4 (E2M1),
    fp6_e2m3, fp6_e3m2, fp8_e4m3, fp8_e5m2: small floats; nf4: the quantiles of a normal distribution (QLoRA). With `mx`
    before it: scales are powers of two as in the OCP formats (groups of 32); with `up`: the next power of two above;
    with `ratio`: the largest scale of an output over powers of two (ZeroQuant-FP's M2); with `nv`: E4M3 scales under
    one of the matrix (groups of 16). binary, ternary; statsq2: half steps without a zero, scaled by the mean (OFQ);
    balanced2: 2^b + 1 codes (BitsFusion); log2_4, logsqrt2_4: signed powers of two, or of its root, nearest in the
    logarithm; with `_positive` those below 1 and zero, for probabilities (RepQuant). kmeans4: 2^b values of each
    block's own. power4: equal steps of a power of the weight, whose exponent is a scale (PowerQuant). edge_scale8:
    zero up to an edge, equal steps above it (L2 compression). affine4: equal steps between a block's smallest and
    largest weight. `levels:-1,0,1`: a list of numbers.

    >>> named("fp4").levels[-3:], named("int4").bits, named("mxfp4").snap
    ((3.0, 4.0, 6.0), 4, 'mx')

    Raises:
      WspaceError: no such name.
    """
    if found := re.fullmatch(r"int([2-8])(_asymmetric|_full)?", name):
        return Integer(name, int(found[1]), symmetric=found[2] != "_asymmetric", full=found[2] == "_full")
    if found := re.fullmatch(r"affine([1-8])", name):
        return Affine(name, int(found[1]))
    for prefix, snap in SNAPS.items():
        rest = name.removeprefix(prefix)
        if not name.startswith(prefix):
            continue
        if rest in CASTS:
            return Cast(name, 8, snap, CASTS[rest])
        if levels := _levels(rest):
            return _with_levels(name, snap, levels)
    if found := re.fullmatch(r"edge_scale([2-8])", name):
        return EdgeScale(name, int(found[1]))
    if found := re.fullmatch(r"power([2-8])", name):
        return Power(name, int(found[1]))
    if found := re.fullmatch(r"statsq([1-8])", name):
        n = 2 ** (int(found[1]) - 1)
        return Levels(name, int(found[1]), levels=tuple((k + 0.5) / n for k in range(-n, n)), mean=2.0)
    if found := re.fullmatch(r"log(2|sqrt2)_([2-8])(_positive)?", name):
        return _logarithmic(name, int(found[2]), 1.0 if found[1] == "2" else 0.5, bool(found[3]))
    if found := re.fullmatch(r"kmeans([1-8])", name):
        return Codebook(name, int(found[1]))
    raise WspaceError(f"there is no grid {name!r}.{nearest(name, NAMES)}")


def _with_levels(name: str, snap: Snap, levels: tuple[float, ...]) -> Levels:
    mean = 1.0 if name == "binary" else 0.0
    return Levels(name, max(math.ceil(math.log2(len(levels))), 1), snap, levels=levels, mean=mean)


def _levels(name: str) -> tuple[float, ...]:
    """The levels of a name without its prefix; () if it is not of this kind."""
    if name.startswith("levels:"):
        return tuple(sorted(float(x) for x in name.removeprefix("levels:").split(",")))
    if found := re.fullmatch(r"balanced([1-7])", name):
        n = 2 ** (int(found[1]) - 1)
        return tuple(float(k) for k in range(-n, n + 1))
    floats = {"fp4": (2, 1), "fp6_e2m3": (2, 3), "fp6_e3m2": (3, 2)}
    if name in floats:
        return float_levels(*floats[name])
    return {"binary": (-1.0, 1.0), "ternary": (-1.0, 0.0, 1.0), "nf4": normal_levels()}.get(name, ())


def float_levels(exponent: int, mantissa: int) -> tuple[float, ...]:
    """All numbers of a float with a sign, no infinity and no NaN: bias 2^(E-1) - 1, subnormals included.

        +-2^(e - bias) (1 + m / 2^M)  for e >= 1,   +-2^(1 - bias) m / 2^M  for e = 0

    >>> [x for x in float_levels(2, 1) if x >= 0]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    bias = 2 ** (exponent - 1) - 1
    positive = [
        2.0 ** (max(e, 1) - bias) * ((e > 0) + m / 2**mantissa) for e in range(2**exponent) for m in range(2**mantissa)
    ]
    return tuple(sorted({sign * x + 0.0 for x in positive for sign in (-1, 1)}))


def normal_levels() -> tuple[float, ...]:
    """NF4: quantiles of a normal distribution, eight below and nine from zero up, the largest scaled to 1.

    Dettmers et al., 2023, "QLoRA"; the offset 0.9677083 is that of the authors' code.
    """
    offset = 0.9677083
    quantile = NormalDist().inv_cdf
    above = [quantile(offset + (0.5 - offset) * k / 8) for k in range(8)]
    below = [-quantile(offset + (0.5 - offset) * k / 7) for k in range(7)]
    return tuple(float(np.float32(x / above[0])) for x in sorted([*below, 0.0, *above]))


def _logarithmic(name: str, bits: int, step: float, positive: bool) -> Levels:
    """Levels 2^(-k step), k = 0, 1, ..., with borders halfway in k."""
    sizes = [2.0 ** (-k * step) for k in range(2**bits - 1 if positive else 2 ** (bits - 1))]
    between = [x * 2 ** (-step / 2) for x in sizes]
    if positive:
        return Levels(name, bits, levels=(0.0, *reversed(sizes)), borders=tuple(reversed(between)))
    levels, inner = (*(-x for x in sizes), *reversed(sizes)), between[:-1]
    return Levels(name, bits, levels=levels, borders=(*(-x for x in inner), 0.0, *reversed(inner)))
