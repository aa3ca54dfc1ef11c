"""Pictures of comparisons: what is drawn where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import comparison
from experiments.comparison import Comparison, Journal, plots
from experiments.comparison.plots import Panel, collect_panels, plot_panels
from tests.experiments.builders import cluster, graph

METHODS = ("single_device", "random")


@pytest.fixture(scope="module")
def compared() -> tuple[Comparison, Journal, list[Panel]]:
    """Two methods, two budgets, three seeds."""
    asked = Comparison([graph()], [cluster()], METHODS, (60, 90), 3)
    journal = Journal()
    for _ in comparison.compare(asked, journal):
        pass
    return asked, journal, collect_panels(asked, journal)


def test_panels_have_all_that_was_found(compared) -> None:
    """A curve for each seed, from the first feasible placement to the end of the budget."""
    asked, journal, (panel,) = compared
    assert panel.title == "chains on pair"
    assert [(found.method, found.budget) for found in panel.methods] == [
        ("single_device", 0),
        ("random", 60),
        ("random", 90),
    ]
    outcomes = [journal.outcomes[asked.settings[0].task("random", s, 90)] for s in range(3)]
    for curve, outcome in zip(panel.methods[2].curves, outcomes, strict=True):
        assert curve[-1].tolist() == [90, outcome.seconds, outcome.step_time_seconds]
        assert (np.diff(curve[:, 0]) >= 0).all()
        assert (np.diff(curve[:, 1]) >= 0).all()
        assert (np.diff(curve[:, 2]) <= 0).all()


def test_aligned_by_hand() -> None:
    """Values hold until beaten, and after the end; the line begins where all have one."""
    first = np.array([[2, 0.2, 9.0], [5, 0.5, 7.0], [6, 0.6, 7.0]])
    second = np.array([[3, 0.1, 8.0], [9, 0.9, 4.0]])
    x, values = plots.aligned([first, second], 0)
    assert x.tolist() == [3, 5, 6, 9]
    assert values.tolist() == [[9, 7, 7, 7], [8, 8, 8, 4]]
    x, values = plots.aligned([first, second], 1)
    assert x.tolist() == [0.2, 0.5, 0.6, 0.9]
    assert values.tolist() == [[9, 7, 7, 7], [8, 8, 8, 4]]


def draw(panel: Panel, against: str):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    return axes, plots._draw_panel(axes, panel, against, METHODS)


def test_the_largest_budget_is_a_median_in_a_band(compared) -> None:
    from matplotlib.collections import PolyCollection

    _, _, (panel,) = compared
    axes, handles = draw(panel, "evaluations")
    assert set(handles) == {*METHODS, "lower_bound"}
    x, y = handles["random"].get_data()
    expected_x, values = plots.aligned(panel.methods[2].curves, 0)
    np.testing.assert_array_equal(x, expected_x)
    np.testing.assert_allclose(y, np.median(values, axis=0) * 1e3)
    (band,) = [drawn for drawn in axes.collections if isinstance(drawn, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(values.min() * 1e3)
    assert heights.max() == pytest.approx(values.max() * 1e3)
    assert handles["lower_bound"].get_ydata()[0] == pytest.approx(panel.bound_seconds * 1e3)


def test_heuristics_and_smaller_budgets_are_points(compared) -> None:
    """At the median of their ends, with a bar from the least to the greatest."""
    _, _, (panel,) = compared
    axes, _ = draw(panel, "evaluations")
    points = {
        round(float(c.lines[0].get_xdata()[0])): (
            c.lines[0].get_ydata()[0],
            c.lines[2][0].get_segments()[0][:, 1].tolist(),
        )
        for c in axes.containers
    }
    assert set(points) == {3, 60}
    ends = [curve[-1, 2] * 1e3 for curve in panel.methods[1].curves]
    assert points[60][0] == pytest.approx(np.median(ends))
    assert points[60][1] == pytest.approx([min(ends), max(ends)])


@pytest.mark.parametrize("against", ["evaluations", "seconds"])
def test_pictures_are_written(compared, tmp_path: Path, against) -> None:
    """Labels say what is on the axes; the same runs give the same picture."""
    _, _, panels = compared
    axes, _ = draw(panels[0], against)
    assert axes.get_xlabel().startswith({"evaluations": "eval", "seconds": "wall"}[against])
    assert axes.get_ylabel() == "best step time so far (ms)"
    for name in "ab":
        plot_panels(panels * 4, tmp_path / f"{name}.png", against)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_there_are_as_many_axes_as_panels(compared, tmp_path: Path, monkeypatch) -> None:
    """Places of the grid without a panel stay empty."""
    _, _, panels = compared
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
    for number in (1, 4, 5):
        plot_panels(panels * number, tmp_path / "a.png", "seconds")
        assert sum(axes.get_visible() for axes in figures[-1].axes) == number
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw(tmp_path: Path) -> None:
    plot_panels([], tmp_path / "none.png", "evaluations")
    assert not list(tmp_path.iterdir())
