"""Pictures of comparisons: best step time against evaluations, and against seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.comparison.asked import Comparison
from experiments.comparison.journal import Journal
from experiments.comparison.tasks import BOUND
from experiments.plots import save_figure, style, time_unit
from placer.strategies import STRATEGIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Floats = NDArray[np.float64]
Against = Literal["evaluations", "seconds"]

_LABELS: dict[Against, str] = {
    "evaluations": "evaluations, heuristics included",
    "seconds": "wall-clock seconds, without the heuristics before",
}
_MOST_COLUMNS = 3
_MARKERS = "osD^v<>pPX*hd"


@dataclass(frozen=True, eq=False)
class MethodCurves:
    """What one method found with one budget.

    Attributes:
        method: The method.
        budget: Its budget; 0 for a heuristic.
        curves: For each seed that found anything feasible, where its best step time changed, and
            the end: evaluations, seconds and step time, ``[num_points, 3]``.
    """

    method: str
    budget: int
    curves: tuple[Floats, ...]


@dataclass(frozen=True, eq=False)
class Panel:
    """What all methods found in one setting.

    Attributes:
        title: The setting.
        methods: By method, then by budget.
        bound_seconds: What no placement can be faster than, if known.
    """

    title: str
    methods: tuple[MethodCurves, ...]
    bound_seconds: float | None


def collect_panels(comparison: Comparison, journal: Journal) -> list[Panel]:
    """What there is to draw: a panel for each setting in which something was feasible."""
    panels = []
    seeds = range(comparison.num_seeds)
    for setting in comparison.settings:
        found = []
        for method in comparison.methods:
            for budget in comparison.evaluations if method in STRATEGIES else (0,):
                outcomes = [
                    journal.outcomes.get(setting.task(method, seed, budget)) for seed in seeds
                ]
                curves = [np.array(o.curve) for o in outcomes if o is not None and o.curve]
                if curves:
                    found.append(MethodCurves(method, budget, tuple(curves)))
        bound = journal.outcomes.get(setting.task(BOUND))
        order = "" if setting.order == "fifo" else f", {setting.order} order"
        title = f"{setting.graph.name} on {setting.cluster.name}{order}"
        if found:
            seconds = None if bound is None else bound.step_time_seconds
            panels.append(Panel(title, tuple(found), seconds))
    return panels


def plot_panels(panels: Sequence[Panel], path: Path, against: Against) -> None:
    """Draws best step time so far, a panel for each setting; nothing where there is none.

    The largest budget of a strategy is a line, the median over seeds, in a band from the least to
    the greatest; smaller budgets, which are runs of their own, are points at their ends. So are
    heuristics. Bars reach from the least to the greatest over seeds.

    Raises:
        PlacerError: The picture cannot be written.
    """
    if not panels:
        return
    from matplotlib.figure import Figure

    found = [curves for panel in panels for curves in panel.methods]
    # searches first: there are fewer of them than colours, and markers tell heuristics apart
    found.sort(key=lambda curves: not curves.budget)
    names = list(dict.fromkeys(curves.method for curves in found))
    num_columns = 2 if len(panels) == 4 else min(len(panels), _MOST_COLUMNS)
    num_rows = -(-len(panels) // num_columns)
    num_legend_columns = 2 + num_columns * 2
    legend_height = 0.5 + 0.22 * -(-(len(names) + 1) // num_legend_columns)
    with style():
        size = (max(6.4, 5.2 * num_columns), 3.9 * num_rows + legend_height)
        figure = Figure(figsize=size, layout="constrained")
        all_axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        handles: dict[str, Line2D] = {}
        for axes, panel in zip(all_axes, panels, strict=False):
            handles |= _draw_panel(axes, panel, against, names)
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        figure.legend(
            [handles[name] for name in (*names, BOUND) if name in handles],
            [name.replace("_", " ") for name in (*names, BOUND) if name in handles],
            loc="outside lower center",
            ncols=num_legend_columns,
            frameon=False,
            fontsize=8,
            title=_caption(panels),
            title_fontsize=8,
        )
        save_figure(figure, path)


def _caption(panels: Sequence[Panel]) -> str:
    """What lines, bands and hollow points are, as far as there are any."""
    found = [curves for panel in panels for curves in panel.methods]
    num_seeds = max(len(curves.curves) for curves in found)
    parts = [f"median and range of {num_seeds} seeds"] if num_seeds > 1 else []
    if len({curves.budget for curves in found if curves.budget}) > 1:
        parts.append("hollow: runs with smaller budgets")
    return "; ".join(parts)


def _draw_panel(
    axes: Axes, panel: Panel, against: Against, names: Sequence[str]
) -> dict[str, Line2D]:
    """Draws one setting; returns a line for the legend by method."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    column = 0 if against == "evaluations" else 1
    ends = [curve[-1, 2] for found in panel.methods for curve in found.curves]
    scale, unit = time_unit(min(ends))
    handles: dict[str, Line2D] = {}
    for found in panel.methods:
        number = names.index(found.method)
        look: dict[str, Any] = {"color": _color(number)}
        is_largest = found.budget == max(
            other.budget for other in panel.methods if other.method == found.method
        )
        if found.budget and is_largest:
            x, values = aligned(found.curves, column)
            (handles[found.method],) = axes.plot(
                x, np.median(values, axis=0) / scale, drawstyle="steps-post", linewidth=1.5, **look
            )
            if len(found.curves) > 1:
                low, high = values.min(axis=0) / scale, values.max(axis=0) / scale
                axes.fill_between(x, low, high, step="post", alpha=0.18, linewidth=0, **look)
            continue
        x_ends = [float(curve[-1, column]) for curve in found.curves]
        y_ends = np.array([curve[-1, 2] for curve in found.curves]) / scale
        middle = float(np.median(y_ends))
        bars = [[middle - y_ends.min()], [y_ends.max() - middle]]
        if found.budget:
            look |= {"fmt": "o", "markerfacecolor": "white", "markersize": 4}
        else:
            look |= {"fmt": _MARKERS[number % len(_MARKERS)], "markersize": 5}
        drawn = axes.errorbar([float(np.median(x_ends))], [middle], yerr=bars, **look)
        handles.setdefault(found.method, drawn.lines[0])
    if panel.bound_seconds:
        handles[BOUND] = axes.axhline(
            panel.bound_seconds / scale, color="0.35", linestyle=":", linewidth=1.2
        )
    axes.set_title(panel.title, loc="left", weight="bold", fontsize=10)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(_LABELS[against])
    axes.set_ylabel(f"best step time so far ({unit})")
    axes.grid(alpha=0.25)
    return handles


def aligned(curves: Sequence[Floats], column: int) -> tuple[Floats, Floats]:
    """Curves at common places, from where all have a value: ``[n]`` and ``[num_curves, n]``.

    The best so far holds until it is beaten, and after the end.

    Args:
        curves: As in :class:`MethodCurves`.
        column: 0 for evaluations, 1 for seconds.
    """
    places = np.unique(np.concatenate([curve[:, column] for curve in curves]))
    places = places[places >= max(curve[0, column] for curve in curves)]
    values = [
        curve[np.searchsorted(curve[:, column], places, side="right") - 1, 2] for curve in curves
    ]
    return places, np.stack(values)


def _color(number: int) -> tuple[float, ...]:
    """Colours that stay apart for as many methods as there are."""
    import matplotlib as mpl

    colors = [*mpl.colormaps["tab10"].colors, *mpl.colormaps["Dark2"].colors]  # type: ignore[attr-defined]
    color: tuple[float, ...] = colors[number % len(colors)]
    return color
