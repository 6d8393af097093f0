"""Plots as SVG text, for a report page. matplotlib is an extra: without it the report has its tables and says so."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
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


def bars(values: Mapping[str, float], xlabel: str, most: int = 40) -> str:
    """One horizontal bar a name, in the order given; of more than `most`, the largest."""
    if len(values) > most:
        largest = sorted(values, key=values.__getitem__, reverse=True)[:most]
        values = {name: v for name, v in values.items() if name in largest}
    figure, axes = _axes(7.2, 0.7 + 0.24 * max(len(values), 2))
    names = list(values)[::-1]
    axes.barh(names, [values[n] for n in names], color=COLORS[0], height=0.66)
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", visible=False)
    return _svg(figure)


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
