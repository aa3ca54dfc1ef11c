"""Pictures of runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.run import RunConfig, RunFolder
from placer import files
from placer.errors import FormatError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class RunCurves:
    """What a run has to show.

    Attributes:
        config: What was asked.
        metrics: The columns of its metrics, ``[num_rows]`` each.
        heuristics: Name, step time and reward of each feasible heuristic.
    """

    config: RunConfig
    metrics: dict[str, Floats]
    heuristics: list[tuple[str, float, float]]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunCurves:
        """Reads a run's folder.

        Raises:
            FormatError: The folder is no run, or has nothing to show yet.
        """
        folder = RunFolder(path)
        config, metrics = folder.read_config(), folder.read_metrics()
        if not len(metrics["evaluations"]):
            raise FormatError(f"{path}: nothing to plot yet; its metrics.csv has no rows")
        return cls(config, metrics, folder.read_heuristics())

    @property
    def task(self) -> tuple[str, str, str, bool]:
        """What must agree for curves to be comparable."""
        config = self.config
        is_measured = config.measuring is not None
        return config.graph_fingerprint, config.cluster_fingerprint, config.order, is_measured

    @property
    def kind(self) -> tuple[str, int, int]:
        """What must agree for runs to differ in the seed alone."""
        return self.config.strategy, self.config.evaluations, self.config.groups or 0


def check_picture(path: str | os.PathLike[str]) -> None:
    """Checks that a picture can be written in the format that the name says.

    Raises:
        UsageError: It cannot.
    """
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise UsageError(f"{path}: ends in {suffix!r}; expected one of {', '.join(FORMATS)}")


def plot_runs(runs: Sequence[RunCurves], path: str | os.PathLike[str]) -> None:
    """Draws reward and best step time so far against evaluations.

    There is a column for each graph on each cluster, and one where step times are measured. Runs
    that differ in the seed alone are one line, their median, in a band from the least to the
    greatest of them.

    Raises:
        UsageError: No runs, or a picture of an unknown format.
        PlacerError: The picture cannot be written.
    """
    check_picture(path)
    if not runs:
        raise UsageError("no runs to plot; expected at least one")
    from matplotlib.figure import Figure

    tasks = _grouped(runs, lambda run: run.task)
    with style():
        figure = Figure(figsize=(7.2 * len(tasks), 6.6), layout="constrained")
        axes = figure.subplots(2, len(tasks), sharex="col", squeeze=False)
        for column, of_task in enumerate(tasks):
            _draw_task(axes[0, column], axes[1, column], of_task)
        save_figure(figure, path)


def style() -> AbstractContextManager[None]:
    """What our pictures look like, for as long as the context lasts."""
    import matplotlib as mpl

    return mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a picture, the same file for what looks the same.

    Raises:
        PlacerError: It cannot be written.
    """
    import matplotlib as mpl

    suffix = Path(path).suffix
    date = {"CreationDate": None} if suffix == ".pdf" else {"Date": None}
    with files.replacing(path) as aside, mpl.rc_context({"svg.hashsalt": "placer"}):
        figure.savefig(aside, dpi=150, metadata={} if suffix == ".png" else date)


def _draw_task(reward_axes: Axes, time_axes: Axes, runs: Sequence[RunCurves]) -> None:
    """Draws all runs of one graph on one cluster."""
    config = runs[0].config
    how = "" if config.order == "fifo" else f", {config.order} order"
    how += ", measured" if config.measuring is not None else ""
    reward_axes.set_title(f"{config.graph} on {config.cluster}{how}", loc="left", weight="bold")
    best = [run.metrics["best_step_time_seconds"] for run in runs]
    scale, unit = time_unit(max(float(b[np.isfinite(b)].max(initial=0)) for b in best))
    for number, of_kind in enumerate(_grouped(runs, lambda run: run.kind)):
        color = f"C{number}"
        label = _label(of_kind, runs)
        _draw_curve(reward_axes, of_kind, "mean_reward", 1.0, color, label)
        _draw_curve(time_axes, of_kind, "best_step_time_seconds", scale, color, label)
    for (name, seconds, reward), style in _references(runs[0].heuristics):
        look: dict[str, Any] = {"color": "0.35", "linestyle": style, "linewidth": 1.2}
        reward_axes.axhline(reward, **look)
        label = f"{name} ({seconds / scale:.4g} {unit})"
        time_axes.axhline(seconds / scale, label=label, **look)
    reward_axes.set_ylabel(
        "reward, mean of each batch\n" + r"$-\sqrt{\mathrm{step\ time / reference}}$"
    )
    time_axes.set_ylabel(f"best step time so far ({unit})")
    time_axes.set_xlabel("evaluations")
    time_axes.set_xlim(left=0)
    for axes in (reward_axes, time_axes):
        axes.grid(alpha=0.25)
    time_axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def _draw_curve(
    axes: Axes, runs: Sequence[RunCurves], metric: str, scale: float, color: str, label: str
) -> None:
    """Draws the median of the runs, and the band that they fill."""
    x, values = _aligned(runs, metric)
    if not len(x):
        return
    middle = np.median(values, axis=0) / scale
    is_step = metric.startswith("best")  # it holds until it is beaten
    style = "steps-post" if is_step else "default"
    axes.plot(x, middle, color=color, label=label, drawstyle=style)
    if len(runs) > 1:
        low, high = values.min(axis=0) / scale, values.max(axis=0) / scale
        axes.fill_between(
            x, low, high, step="post" if is_step else None, color=color, alpha=0.2, linewidth=0
        )


def _aligned(runs: Sequence[RunCurves], metric: str) -> tuple[Floats, Floats]:
    """A metric of all runs where all have it: evaluations ``[n]`` and values ``[num_runs, n]``."""
    curves = []
    for run in runs:
        x, y = run.metrics["evaluations"], run.metrics[metric]
        curves.append((x[np.isfinite(y)], y[np.isfinite(y)]))
    if not all(len(x) for x, _ in curves):
        return np.empty(0), np.empty((len(runs), 0))
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = grid[(grid >= first) & (grid <= last)]
    rows = [y[np.searchsorted(x, grid, side="right") - 1] for x, y in curves]
    return grid, np.stack(rows)


def _references(
    heuristics: Sequence[tuple[str, float, float]],
) -> list[tuple[tuple[str, float, float], str]]:
    """The best heuristic and the best single device, with a line style each."""
    if not heuristics:
        return []
    name, seconds, reward = min(heuristics, key=lambda row: row[1])
    lines = [((f"best heuristic: {name}", seconds, reward), "--")]
    single = [row for row in heuristics if row[0].startswith("single_device:")]
    if single:
        alone = min(single, key=lambda row: row[1])
        if alone[0] != name:
            device = alone[0].removeprefix("single_device:")
            lines.append(((f"best single device: {device}", alone[1], alone[2]), ":"))
    return lines


def _label(runs: Sequence[RunCurves], of_task: Sequence[RunCurves]) -> str:
    config = runs[0].config
    parts = [config.strategy]
    if len({run.config.evaluations for run in of_task}) > 1:
        parts.append(f"{config.evaluations} evaluations")
    if len({run.config.groups for run in of_task}) > 1:
        parts.append(f"{config.groups or 'default'} groups")
    if len(runs) > 1:
        parts.append(f"median and range of {len(runs)} seeds")
    else:
        parts.append(f"seed {config.seed}")
    return ", ".join(parts)


def _grouped(
    runs: Sequence[RunCurves], key: Callable[[RunCurves], object]
) -> list[list[RunCurves]]:
    """Runs with the same key together, in the order in which they were given."""
    groups: dict[object, list[RunCurves]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in a unit, and its name."""
    for scale, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return scale, name
    return 1e-6, "us"
