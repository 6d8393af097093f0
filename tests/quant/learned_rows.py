"""Rows of the methods that learn how to round, and their truths: loops in float64 with gradients written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import wspace as ws
from tests.rows import Row
from tests.stats.grams import grams
from wspace.quant.formats import named

SGD = optax.sgd(1.0)  # AdaRound starts where the slope is zero, up to rounding, of which Adam would make full steps
Learned = dict[str, np.ndarray]
Slope = Callable[[Learned, float], tuple[float, Learned]]


def error_of(made: np.ndarray, w: np.ndarray, gram: np.ndarray) -> float:
    return float(np.trace((made - w).T @ gram @ (made - w)))


def learned(
    start: Learned,
    slope: Slope,
    hard: Callable[[Learned], float],
    rates: Any,
    steps: int,
    *,
    pace: Callable[[float], float] = lambda t: 1.0,
    rule: str = "adam",
    relaxed: bool = False,
    bounded: Callable[[Learned], Learned] = lambda x: x,
) -> Learned:
    """Adam (or slopes, or their signs) from the start, keeping what has the least error."""
    x, best, least = dict(start), dict(start), hard(start)
    first = {n: np.zeros_like(v) for n, v in start.items()}
    second = {n: np.zeros_like(v) for n, v in start.items()}
    for i in range(steps):
        t = i / steps
        error, g = slope(x, t)
        if not relaxed and error < least:
            best, least = dict(x), error
        for n in x:
            first[n] = 0.9 * first[n] + 0.1 * g[n]
            second[n] = 0.999 * second[n] + 0.001 * g[n] ** 2
            mean, square = first[n] / (1 - 0.9 ** (i + 1)), second[n] / (1 - 0.999 ** (i + 1))
            way = {"sgd": g[n], "sign": np.sign(g[n]), "adam": mean / (np.sqrt(square) + 1e-4)}[rule]
            x[n] = x[n] - (rates[n] if isinstance(rates, dict) else rates) * pace(t) * way
        x = bounded(x)
    return x if hard(x) < least else best


def matrices(one: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A truth of one matrix, for stacked ones too."""

    def each(leaves: list[np.ndarray], sides: Any, key: Any, **settings: Any) -> np.ndarray:
        (w,), gram = leaves, sides.get("gram")
        if w.ndim == 2:
            return one(w, gram, **settings)
        grams_of = [None] * len(w) if gram is None else gram
        return np.stack([one(x, g, **settings) for x, g in zip(w, grams_of, strict=True)])

    return each


def scales_of(w: np.ndarray, bits: int, group: int) -> np.ndarray:
    """The symmetric scale of every weight, float32 as the product keeps it."""
    most = np.abs(w).reshape(-1, group, w.shape[1]).max(1)
    scale = np.float32(np.where(most == 0, 2 ** (bits - 1) - 1, most) / (2 ** (bits - 1) - 1))
    return np.repeat(scale.astype(np.float64), group, axis=0)


def steps_of(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x in steps, in float32 and by the reciprocal: it decides on the border."""
    return (x.astype(np.float32) * (1 / scale.astype(np.float32))).astype(np.float64)


@matrices
def adaround(
    w: np.ndarray,
    gram: np.ndarray,
    bits: int,
    group: int,
    steps: int,
    lr: float = 0.01,
    weight: float = 3.0,
    warmup: float = 0.2,
    optimizer: Any = None,
) -> np.ndarray:
    scale = scales_of(w, bits, group)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    floor = np.floor(steps_of(w, scale) + 2.0**-12)
    down, up = (np.clip(x, low, high) * scale for x in (floor, floor + 1))
    y = np.where(up > down, np.clip((w - down) / np.where(up > down, up - down, 1), 0, 1), 0.5)
    unit = error_of(np.where(y >= 0.5, up, down), w, gram) / w.size

    def h_of(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = 1 / (1 + np.exp(-v))
        h = 1.2 * s - 0.1
        return np.clip(h, 0, 1), 1.2 * s * (1 - s) * (np.abs(h - 0.5) < 0.5 + 1e-4)

    def slope(x: Learned, t: float) -> tuple[float, Learned]:
        h, dh = h_of(x["v"])
        made = down + h * (up - down)
        g = 2 * gram @ (made - w) * (up - down) * dh / unit
        if t >= warmup:
            beta = 2 + 9 * (1 + np.cos(np.pi * (t - warmup) / (1 - warmup)))
            g = g - weight * 2 * beta * np.abs(2 * h - 1) ** (beta - 1) * np.sign(2 * h - 1) * dh
        return error_of(made, w, gram), {"v": g}

    def hard(x: Learned) -> np.ndarray:
        return np.where(h_of(x["v"])[0] >= 0.5, up, down)

    start = {"v": -np.log(1.2 / (y + 0.1) - 1)}
    best = learned(start, slope, lambda x: error_of(hard(x), w, gram), lr, steps, relaxed=True, rule="sgd")
    return hard(best)


@matrices
def flexround(w: np.ndarray, gram: np.ndarray, bits: int, group: int, steps: int, lr: float = 3e-3) -> np.ndarray:
    first = scales_of(w, bits, group)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def made(x: Learned) -> tuple[np.ndarray, ...]:
        scale = first * np.exp(np.repeat(x["size"], group, axis=0))
        part = w * np.exp(-x["each"] - x["output"])
        whole = np.round(part / scale)
        inside = (whole >= low) & (whole <= high)
        return scale, part, np.clip(whole, low, high), inside

    def slope(x: Learned, t: float) -> tuple[float, Learned]:
        scale, part, codes, inside = made(x)
        g = 2 * gram @ (codes * scale - w) / unit
        by_scale = g * (codes - np.where(inside, part / scale, 0)) * scale
        by_part = g * np.where(inside, -part, 0)
        size = by_scale.reshape(-1, group, w.shape[1]).sum(1)
        return error_of(codes * scale, w, gram), {
            "size": size,
            "each": by_part,
            "output": by_part.sum(0, keepdims=True),
        }

    def hard(x: Learned) -> np.ndarray:
        scale, _, codes, _ = made(x)
        return codes * scale

    unit = error_of(np.clip(np.round(steps_of(w, first)), low, high) * first, w, gram) / w.size
    zeros = {"size": np.zeros((len(w) // group, w.shape[1])), "each": np.zeros_like(w), "output": np.zeros_like(w[:1])}
    best = learned(
        zeros, slope, lambda x: error_of(hard(x), w, gram), lr, steps, pace=lambda t: (1 + np.cos(np.pi * t)) / 2
    )
    return hard(best)


def ranged(
    w: np.ndarray, gram: np.ndarray, bits: int, group: int, offset: str
) -> tuple[Learned, Slope, Callable[[Learned], np.ndarray]]:
    """What SignRound and AdaQuant share on asymmetric integers: an offset of each weight, in steps as they are ("v") or
    as they were ("move"), and factors of both ends of each range."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    blocks = w.reshape(-1, group, w.shape[1])
    least, most = np.minimum(blocks.min(1), 0), np.maximum(blocks.max(1), 0)

    def each(x: np.ndarray) -> np.ndarray:
        return np.repeat(x, group, axis=0)

    was = each((most - least) / (high - low))

    def made(x: Learned) -> tuple[np.ndarray, ...]:
        bottom, top = x["low"] * least, x["high"] * most
        scale = (top - bottom) / (high - low)
        zero = np.round(-bottom / scale) + low
        shift = x[offset] if offset == "v" else x[offset] * was / each(scale)
        place = w / each(scale) + shift
        whole = np.round(place + each(zero))
        inside = (whole >= low) & (whole <= high)
        return scale, zero, np.clip(whole, low, high) - each(zero), inside, w / each(scale) if offset == "v" else place

    def slope(x: Learned, t: float) -> tuple[float, Learned]:
        scale, _, codes, inside, place = made(x)
        g = 2 * gram @ (codes * each(scale) - w) / unit
        by_scale = (g * (codes - np.where(inside, place, 0))).reshape(blocks.shape).sum(1)
        by_zero = (g * np.where(inside, 0, -each(scale))).reshape(blocks.shape).sum(1)
        by_scale += by_zero * x["low"] * least / scale**2  # zero = -low least / s
        by_low = -by_scale * least / (high - low) - by_zero * least / scale
        by_offset = g * np.where(inside, each(scale) if offset == "v" else was, 0)
        slopes = {offset: by_offset, "low": by_low, "high": by_scale * most / (high - low)}
        return error_of(codes * each(scale), w, gram), slopes

    def hard(x: Learned) -> np.ndarray:
        scale, _, codes, _, _ = made(x)
        return codes * each(scale)

    start = {offset: np.zeros_like(w), "low": np.ones_like(least), "high": np.ones_like(most)}
    unit = error_of(hard(start), w, gram) / w.size
    return start, slope, hard


@matrices
def signround(
    w: np.ndarray, gram: np.ndarray, bits: int, group: int, steps: int, symmetric: bool, lr: float, range_lr: float
) -> np.ndarray:
    start, slope, hard = ranged(w, gram, bits, group, "v")
    best = learned(
        start,
        slope,
        lambda x: error_of(hard(x), w, gram),
        {"v": lr, "low": range_lr, "high": range_lr},
        steps,
        pace=lambda t: 1 - t,
        rule="sign",
        bounded=lambda x: {n: np.clip(v, *((-0.5, 0.5) if n == "v" else (0, 1))) for n, v in x.items()},
    )
    return hard(best)


@matrices
def adaquant(
    w: np.ndarray, gram: np.ndarray, bits: int, group: int, steps: int, lr: float, range_lr: float = 3e-3, **same: bool
) -> np.ndarray:
    start, slope, hard = ranged(w, gram, bits, group, "move")
    rates = {"move": lr, "low": range_lr, "high": range_lr}
    return hard(learned(start, slope, lambda x: error_of(hard(x), w, gram), rates, steps))


def weights_alone(
    leaves: Any, sides: Any, key: Any, variable: str, fixed_scales: bool, symmetric: bool, **rest: Any
) -> Any:
    return adaquant(leaves, sides, key, range_lr=0.0, **rest)


LEVELS = np.array(named("nf4").levels)


@matrices
def discquant(
    w: np.ndarray, gram: np.ndarray, grid: str, group: int, steps: int, lr: float, rho: float, clamp: float = 1.0
) -> np.ndarray:
    most = np.float32(np.abs(w).reshape(-1, group, w.shape[1]).max(1))
    scale = np.repeat(np.where(most == 0, 1, most).astype(np.float64), group, axis=0)
    x = steps_of(w, scale)
    above = np.minimum(np.searchsorted(LEVELS, x + 2.0**-12 * np.diff(LEVELS).min()), 15)
    below = np.maximum(np.searchsorted(LEVELS, x + 2.0**-12 * np.diff(LEVELS).min()) - 1, 0)
    down, up = LEVELS[below] * scale, LEVELS[above] * scale
    y = np.where(above > below, np.clip((w - down) / np.where(above > below, up - down, 1), 0, 1), 0.5)
    unit = error_of(np.where(y >= 0.5, up, down), w, gram) / w.size

    def slope(p: Learned, t: float) -> tuple[float, Learned]:
        made = (1 - p["x"]) * down + p["x"] * up
        g = np.clip(2 * gram @ (made - w) * (up - down) / unit, -clamp / rho, clamp / rho)
        return error_of(made, w, gram), {"x": g - (2 * y - 1) / rho}

    def hard(p: Learned) -> np.ndarray:
        return np.where(p["x"] >= 0.5, up, down)

    best = learned(
        {"x": y},
        slope,
        lambda p: error_of(hard(p), w, gram),
        lr,
        steps,
        pace=lambda t: 1 - t,
        relaxed=True,
        bounded=lambda p: {"x": np.clip(p["x"], 0, 1)},
    )
    return hard(best)


@matrices
def powerquant(w: np.ndarray, gram: None, bits: int, group: int, exponent: float) -> np.ndarray:
    last, out = 2 ** (bits - 1) - 1, np.zeros_like(w)
    for i in range(0, len(w), group):
        for j in range(w.shape[1]):
            part = w[i : i + group, j]
            size = np.max(np.abs(part) ** exponent) / last or 1.0
            codes = np.round(np.sign(part) * np.abs(part) ** exponent / size)
            out[i : i + group, j] = np.sign(codes) * (np.abs(codes) * size) ** (1 / exponent)
    return out


@matrices
def nupes(
    w: np.ndarray,
    gram: np.ndarray,
    bits: int,
    group: int,
    steps: int,
    lr: float,
    exponent_lr: float = 1e-3,
    exponent: float = 0.5,
) -> np.ndarray:
    last = 2 ** (bits - 1) - 1
    most = np.abs(w).reshape(-1, group, w.shape[1]).max(1)
    most = np.repeat(np.where(most == 0, 1, most), group, axis=0)

    def hard(x: Learned) -> np.ndarray:
        codes = np.round(x["codes"])
        return most * np.sign(codes) * (np.abs(codes) / last) ** (1 / x["exponent"][0])

    unit = 0.0

    def slope(x: Learned, t: float) -> tuple[float, Learned]:
        made, a, codes = hard(x), x["exponent"][0], np.round(x["codes"])
        g = 2 * gram @ (made - w) / unit
        by_code = most / (a * last) * (np.maximum(np.abs(x["codes"]), 0.5) / last) ** (1 / a - 1)
        by_exponent = np.where(codes == 0, 0, -made * np.log(np.maximum(np.abs(codes), 1) / last) / a**2)
        return error_of(made, w, gram), {"codes": g * by_code, "exponent": np.sum(g * by_exponent, keepdims=True)[0]}

    def bounded(x: Learned) -> Learned:
        return {"codes": np.clip(x["codes"], -last, last), "exponent": np.clip(x["exponent"], 0.2, 1.0)}

    start = {"codes": last * np.sign(w) * (np.abs(w) / most) ** exponent, "exponent": np.array([exponent])}
    unit = error_of(hard(start), w, gram) / w.size
    best = learned(
        start,
        slope,
        lambda x: error_of(hard(x), w, gram),
        {"codes": lr, "exponent": exponent_lr},
        steps,
        pace=lambda t: (1 + np.cos(np.pi * t)) / 2,
        bounded=bounded,
    )
    return hard(best)


def row(name: str, make: Any, truth: Any, settings: dict[str, Any], numeric: dict[str, Any], **more: Any) -> Row:
    return Row(
        name,
        make,
        truth,
        settings=settings,
        numeric=numeric,
        sides=grams,
        matrices=True,
        gathers=True,
        tolerance=1e-5,
        **more,
    )


ROWS = [
    row(
        "quant.adaround",
        ws.quant.adaround,
        adaround,
        {"bits": 3, "group": 8, "steps": 20, "lr": 0.1, "optimizer": SGD},
        {"lr": 0.04, "weight": 1.0, "warmup": 0.4},
    ),
    row(
        "quant.flexround",
        ws.quant.flexround,
        flexround,
        {"bits": 3, "group": 8, "steps": 12, "lr": 0.02},
        {"lr": 0.03},
    ),
    row(
        "quant.signround",
        ws.quant.signround,
        signround,
        {"bits": 3, "group": 8, "steps": 12, "symmetric": False, "lr": 0.08, "range_lr": 0.02},
        {"lr": 0.05, "range_lr": 0.01},
    ),
    row(
        "quant.discquant",
        ws.quant.discquant,
        discquant,
        {"grid": "nf4", "group": 8, "steps": 12, "lr": 0.1, "rho": 0.1},
        {"lr": 0.07, "rho": 0.3, "clamp": 0.5},
    ),
    row(
        "quant.nupes",
        ws.quant.nupes,
        nupes,
        {"bits": 3, "group": 8, "steps": 12, "lr": 0.02},
        {"lr": 0.03, "exponent_lr": 0.01, "exponent": 0.7},
    ),
    Row(
        "quant.powerquant",
        ws.quant.powerquant,
        powerquant,
        settings={"bits": 4, "group": 2, "exponent": 0.6},
        numeric={"exponent": 0.8},
        matrices=True,
        families=("quantizer",),
    ),
    row(
        "quant.adaquant",
        ws.quant.adaquant,
        adaquant,
        {"bits": 3, "group": 8, "steps": 12, "lr": 0.05},
        {"lr": 0.03, "range_lr": 0.01},
    ),
    row(
        "quant.gradient_based",
        ws.quant.gradient_based,
        weights_alone,
        {
            "variable": "weight",
            "bits": 3,
            "group": 8,
            "steps": 12,
            "lr": 0.05,
            "fixed_scales": True,
            "symmetric": False,
        },
        {"lr": 0.03},
    ),
]
