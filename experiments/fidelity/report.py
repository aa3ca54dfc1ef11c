"""What is shown of how well simulated step times agree with measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.plots import save_figure, style
from experiments.tables import format_seconds, make_table

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]


def draw(
    points: Mapping[str, tuple[Floats, Floats]], result: Mapping[str, Any], path: Path
) -> None:
    """Draws predicted against measured step times.

    Args:
        points: Measured and predicted step times of each kind of placement, ``[n]`` each.
        result: What :meth:`experiments.fidelity.folder.FidelityFolder.write` gives.
        path: The picture, ``.png``.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.4, 5.2), layout="constrained")
        axes = figure.subplots()
        for kind, (measured, predicted) in points.items():
            label = f"{kind} ({len(measured)})"
            axes.plot(measured * 1e3, predicted * 1e3, ".", alpha=0.7, label=label)
        every = np.concatenate([seconds for both in points.values() for seconds in both]) * 1e3
        ends = [every.min() * 0.95, every.max() * 1.05]
        axes.plot(ends, ends, color="0.6", linewidth=1, label="equal")
        axes.set(xlabel="measured step time (ms)", ylabel="predicted step time (ms)")
        axes.set_title(
            f"{result['workload']}: Spearman {_figure(result['spearman'])} "
            f"(ceiling {_figure(result['noise_ceiling'])}), error {result['median_error']:.0%}",
            loc="left",
            fontsize=10,
        )
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
        save_figure(figure, path)


def fidelity_tables(result: Mapping[str, Any]) -> list[Table]:
    """What :meth:`experiments.fidelity.folder.FidelityFolder.write` gives."""
    alone = result["links_timed_alone"]
    figures = [
        ("placements", result["placements"]),
        ("of these failed", result["failed"]),
        ("measured while the machine was busy", result["busy_measurements"]),
        ("Spearman's rank correlation", _figure(result["spearman"])),
        ("noise ceiling", _figure(result["noise_ceiling"])),
        ("median error", f"{result['median_error']:.1%}"),
        *(
            (f"median error, {kind}", f"{error:.1%}")
            for kind, error in result["median_error_by_kind"].items()
        ),
        ("predicted over measured, median", _figure(result["median_ratio"])),
        *(
            (f"with links timed alone: {name}", shown)
            for name, shown in (
                ("rank correlation", _figure(alone["spearman"])),
                ("median error", f"{alone['median_error']:.1%}"),
                ("predicted over measured", _figure(alone["median_ratio"])),
            )
        ),
        ("least step time", format_seconds(result["least_seconds"])),
        ("greatest over least", f"{result['spread']:.2f}x"),
    ]
    rows = [
        (
            miss["placement"],
            miss["kind"],
            format_seconds(miss["predicted_seconds"]),
            format_seconds(miss["measured_seconds"]),
            what,
            found["name"],
            found["where"],
            format_seconds(found["predicted_seconds"]),
            format_seconds(found["measured_seconds"]),
        )
        for miss in result["misses"]
        for what in ("types", "transfers", "ops")
        for found in miss[what][:3]
    ]
    columns = (">placement", "kind", ">predicted", ">measured", "", "name", "where")
    return [
        make_table(f"{result['workload']}: simulated and measured", ("", ">"), figures),
        make_table("Largest misses", (*columns, ">predicted", ">measured"), rows),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
