"""Pictures of runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import plots
from experiments.cli import app
from experiments.measuring import MeasuringConfig
from experiments.plots import RunCurves
from experiments.run import RunFolder
from placer.errors import FormatError


def with_seed(run: RunCurves, seed: int, **changes: object) -> RunCurves:
    """The run as if with another seed: all its metrics a little greater."""
    config = msgspec.structs.replace(run.config, seed=seed, **changes)
    metrics = {name: values * (1 + 0.01 * seed) for name, values in run.metrics.items()}
    metrics["evaluations"] = run.metrics["evaluations"]
    return dataclasses.replace(run, config=config, metrics=metrics)


@pytest.fixture(scope="module")
def curves(run) -> RunCurves:
    """The curves of the run."""
    return RunCurves.read(run.folder)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plot_writes_a_picture(run, tmp_path: Path, suffix: str) -> None:
    """`placer plot` writes the format that the name says, the same bytes each time."""
    pictures = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for picture in pictures:
        result = CliRunner().invoke(app, ["plot", str(run.folder), "--out", str(picture)])
        assert (result.exit_code, result.stdout) == (0, f"written to {picture}\n")
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert pictures[0].read_bytes().startswith(head)
    assert pictures[0].stat().st_size > 5_000


def drawn(runs: list[RunCurves]):
    """The axes for reward and step time, with one graph on one cluster drawn."""
    from matplotlib.figure import Figure

    axes = Figure().subplots(2, 1)
    plots._draw_task(axes[0], axes[1], runs)
    return axes


def test_axes_are_titled_with_units(curves: RunCurves) -> None:
    """What is drawn, on what, and in which unit can be read from the picture."""
    reward, time = drawn([curves])
    assert reward.get_title(loc="left") == "chains on pair"
    assert reward.get_ylabel().startswith("reward, mean of each batch")
    assert time.get_ylabel() == "best step time so far (ms)"
    assert time.get_xlabel() == "evaluations"


def test_measured_runs_have_a_column_of_their_own(curves: RunCurves) -> None:
    """They are no other seed of the run on the simulator."""
    measured = with_seed(curves, 1, measuring=MeasuringConfig("branches"))
    assert plots._grouped([curves, measured], lambda run: run.task) == [[curves], [measured]]
    reward, _ = drawn([measured])
    assert reward.get_title(loc="left") == "chains on pair, measured"


def test_lines_for_what_was_there_before(curves: RunCurves) -> None:
    """Best heuristic and best single device are lines at their step times, in both panels."""
    reward, time = drawn([curves])
    rows = {name: (seconds, worth) for name, seconds, worth in curves.heuristics}
    best = min(rows.values())
    alone = min(row for name, row in rows.items() if name.startswith("single_device:"))
    levels = [line.get_ydata()[0] for line in time.get_lines()[1:]]
    expected = sorted({best[0], alone[0]})
    np.testing.assert_allclose(sorted(levels), np.array(expected) * 1e3)
    worths = [line.get_ydata()[0] for line in reward.get_lines()[1:]]
    np.testing.assert_allclose(sorted(worths), sorted({best[1], alone[1]}))
    labels = [text.get_text() for text in time.get_legend().get_texts()]
    assert labels[0] == "reinforce, seed 0"
    assert any(label.startswith("best heuristic: ") for label in labels)


def test_seeds_are_a_median_and_a_band(curves: RunCurves) -> None:
    """Runs that differ in the seed alone are one line, the median, in their range."""
    reward, time = drawn([with_seed(curves, seed) for seed in range(3)])
    label = time.get_legend().get_texts()[0].get_text()
    assert label == "reinforce, median and range of 3 seeds"
    x, y = time.get_lines()[0].get_data()
    np.testing.assert_array_equal(x, curves.metrics["evaluations"])
    np.testing.assert_allclose(y, curves.metrics["best_step_time_seconds"] * 1.01e3)
    (band,) = time.collections
    vertices = band.get_paths()[0].vertices[:, 1]
    assert vertices.max() == pytest.approx(curves.metrics["best_step_time_seconds"][0] * 1.02e3)
    assert len(reward.collections) == 1


def test_what_differs_is_in_the_label(curves: RunCurves) -> None:
    """Strategies, budgets and numbers of op groups are lines of their own."""
    others = [
        with_seed(curves, 0, strategy="colocrl"),
        with_seed(curves, 0, evaluations=90),
        with_seed(curves, 0, groups=None),
    ]
    _, time = drawn([curves, *others])
    labels = [text.get_text() for text in time.get_legend().get_texts()]
    assert labels[:4] == [
        "reinforce, 800 evaluations, 6 groups, seed 0",
        "colocrl, 800 evaluations, 6 groups, seed 0",
        "reinforce, 90 evaluations, 6 groups, seed 0",
        "reinforce, 800 evaluations, default groups, seed 0",
    ]


def test_runs_of_different_length_are_compared_where_all_are(curves: RunCurves) -> None:
    """A run that is still going on shortens the common line; between rows a value holds."""
    short = {name: values[:4] for name, values in curves.metrics.items()}
    short["evaluations"] = short["evaluations"] + 1
    x, values = plots._aligned(
        [curves, dataclasses.replace(curves, metrics=short)], "best_step_time_seconds"
    )
    assert x[0] == short["evaluations"][0]
    assert x[-1] == short["evaluations"][-1]
    best = curves.metrics["best_step_time_seconds"]
    np.testing.assert_array_equal(values[1], np.repeat(best[:4], 2)[:-1])


def test_several_tasks_are_side_by_side(curves: RunCurves, tmp_path: Path) -> None:
    """Graphs and clusters that cannot be compared do not share axes."""
    other = with_seed(curves, 0, cluster="other", cluster_fingerprint="sha256:0")
    plots.plot_runs([curves], tmp_path / "one.svg")
    plots.plot_runs([curves, other], tmp_path / "two.svg")
    text = (tmp_path / "two.svg").read_text()
    assert "chains on other" in text
    assert "chains on pair" in text


def test_a_run_that_has_just_begun(run, tmp_path: Path) -> None:
    """A run without rows has nothing to show; with the row of the heuristics it has."""
    folder = RunFolder(tmp_path / "begun")
    full = RunFolder(run.folder)
    folder.create(full.read_config(), full.read_graph(), full.read_cluster())
    folder.start_metrics([])
    with pytest.raises(FormatError, match="nothing to plot yet"):
        RunCurves.read(folder.path)
    folder.append_metrics({"step": 0, "evaluations": 8, "best_step_time_seconds": 0.1})
    folder.close()
    plots.plot_runs([RunCurves.read(folder.path)], tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
