"""Plots as SVG text, for a report page. matplotlib is an extra: without it the report has its tables and says so."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from wspace.core.errors import MissingExtra

COLORS = ("#2457c5", "#d9622b", "#2a9d6f", "#8b5cf6", "#b3306b", "#667085")


def curve(ts: Sequence[float], lines: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> str:
    """Lines over one axis, each named at its legend entry."""
    figure, axes = _axes(7.2, 3.4)
    for (name, values), color in zip(lines.items(), COLORS * len(lines), strict=False):
        axes.plot(ts, values, color=color, lw=1.8, marker="o", ms=3, label=name)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def bars(values: Mapping[str, float], xlabel: str, most: int = 40, low: float = 0.0, grey: Collection[str] = ()) -> str:
    """One horizontal bar a name, in the order given, its value at its end; of more than `most`, the largest.

    low: where the axis starts. grey: names that stand back. Drawn by hand: every run has one, with matplotlib or not.
    """
    if len(values) > most:
        largest = sorted(values, key=values.__getitem__, reverse=True)[:most]
        values = {name: v for name, v in values.items() if name in largest}
    top = max((v for v in values.values()), default=1.0)
    left, width, step = 16 + 6.2 * max(map(len, values), default=0), 720, 21
    scale = (width - left - 60) / (top - low if top > low else 1)
    drawn = []
    for i, (name, value) in enumerate(values.items()):
        y, color = step * i + 6, "#b8c0cc" if name in grey else COLORS[0]
        long = max(0.0, scale * (value - low))
        drawn += [
            f'<text x="{left - 8:.1f}" y="{y + 11}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left:.1f}" y="{y}" width="{long:.1f}" height="14" rx="2" fill="{color}"/>',
            f'<text x="{left + long + 6:.1f}" y="{y + 11}">{value:.3g}</text>',
        ]
    height = step * len(values) + 32
    drawn.append(f'<text x="{left:.1f}" y="{height - 8}" fill="#667085">{escape(xlabel)}</text>')
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = 'font-family="system-ui, Segoe UI, sans-serif" font-size="12" fill="#1c2330"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(drawn)}</svg>'


def grouped(groups: Mapping[str, Mapping[str, float]], ylabel: str) -> str:
    """Bars side by side: one group a name, one color a metric."""
    metrics = list(dict.fromkeys(m for values in groups.values() for m in values))
    figure, axes = _axes(7.2, 3.4)
    width = 0.8 / max(len(metrics), 1)
    for i, metric in enumerate(metrics):
        at = [g + (i - (len(metrics) - 1) / 2) * width for g in range(len(groups))]
        heights = [values.get(metric, float("nan")) for values in groups.values()]
        axes.bar(at, heights, width * 0.92, color=COLORS[i % len(COLORS)], label=metric)
    axes.set_xticks(range(len(groups)), list(groups), rotation=20, ha="right", fontsize=8)
    axes.set_ylabel(ylabel)
    axes.grid(axis="x", visible=False)
    if len(metrics) > 1:
        axes.legend(
            frameon=False, fontsize=8, ncols=min(len(metrics), 5), loc="lower center", bbox_to_anchor=(0.5, 1.0)
        )
    return _svg(figure)


def heat(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    span: tuple[float, float],
) -> str:
    """A map of numbers, each written in its cell; `span` is what the two ends of the color scale stand for."""
    figure, axes = _axes(1.9 + 0.95 * len(columns) + 0.075 * max(map(len, rows)), 1.1 + 0.34 * len(rows))
    image = axes.imshow(values, cmap="Blues", vmin=span[0], vmax=span[1], aspect="auto")
    dark = span[0] + 0.6 * (span[1] - span[0])
    for i, row in enumerate(values):
        for k, value in enumerate(row):
            ink = "white" if value > dark else "#1c2330"
            axes.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(columns)), list(columns), fontsize=8.5)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, label=label)
    bar.outline.set_visible(False)
    return _svg(figure)


def landscape(surface: Any, points: Mapping[str, tuple[float, float]], label: str, levels: int = 14) -> str:
    """A surface over a plane (`xs`, `ys`, `values`) as filled contours on a logarithmic scale, models as points."""
    import numpy as np

    figure, axes = _axes(7.2, 5.0)
    values = np.maximum(surface.values, 1e-6)
    low, high = np.log10(values.min()), np.log10(values.max())
    ticks = np.logspace(low, high if high > low else low + 1, levels)
    filled = axes.contourf(surface.xs, surface.ys, values, levels=ticks, norm="log", cmap="Blues", extend="both")
    axes.contour(surface.xs, surface.ys, values, levels=ticks, colors="#667085", linewidths=0.4)
    for (name, (x, y)), color in zip(points.items(), COLORS[1:] * len(points), strict=False):
        axes.plot(x, y, "o", color=color, ms=8, mec="white", mew=1.2, zorder=5)
        note = axes.annotate(name, (x, y), (7, 7), textcoords="offset points", fontsize=9, zorder=6)
        note.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5})
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xlabel("distance in weight space")
    bar = figure.colorbar(filled, ax=axes, fraction=0.04, label=label)
    shown = ticks[:: max(1, levels // 7)]
    bar.set_ticks(shown, labels=[f"{t:.2g}" for t in shown])
    bar.ax.minorticks_off()
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as problem:
        raise MissingExtra("plots need matplotlib: pip install 'wspace[viz]'") from problem
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e7ec", lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The drawing alone, no XML head; the same bytes for the same figure."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "wspace", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
