"""The smallest and the oddest that can be asked of ``placer train``, from one end to the other."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import training
from experiments.cli import app
from experiments.run import RunFolder
from experiments.training import new_config
from placer.cluster import Cluster
from placer.problem import Evaluations, Problem
from tests.experiments.builders import cluster, graph
from tests.experiments.reading import read_events


def train(*arguments: object) -> dict[str, object]:
    """What ``placer train --json`` prints."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> list[str]:
    """The working directory has the graph and the cluster."""
    monkeypatch.chdir(tmp_path)
    graph().save("g.json")
    cluster().save("c.toml")
    return ["--graph", "g.json", "--cluster", "c.toml"]


def test_one_device(inputs) -> None:
    """There is one placement; it is found, and nothing is learned of it."""
    Cluster("alone", cluster().devices[1:2], ()).save("c.toml")
    found = train(*inputs, "--groups", 6, "--evaluations", 60, "--out", "run")
    (alone,) = (row for row in found["heuristics"] if row["name"].startswith("single_device"))
    assert found["best_step_time_seconds"] == alone["step_time_seconds"]
    assert found["learned_step_time_seconds"] == alone["step_time_seconds"]
    metrics = RunFolder("run").read_metrics()
    assert set(metrics["num_distinct"][1:]) == {1}
    assert set(metrics["num_skipped_updates"][1:]) == {0}
    assert set(metrics["entropy_bonus"][1:]) == {0}


def test_one_group(inputs) -> None:
    """The best single device."""
    found = train(*inputs, "--groups", 1, "--evaluations", 60, "--out", "run")
    times = [row["step_time_seconds"] for row in found["heuristics"] if row["feasible"]]
    assert found["best_step_time_seconds"] == found["learned_step_time_seconds"] == min(times)


def test_a_budget_smaller_than_a_batch(inputs) -> None:
    """What the heuristics leave is evaluated, to the last one."""
    inputs = [*inputs, "--groups", 6]
    heuristics = train(*inputs, "--evaluations", 1, "--out", "none")["evaluations"]
    found = train(*inputs, "--evaluations", heuristics + 3, "--out", "run")
    assert found["evaluations"] == heuristics + 3
    ((_, buckets),) = read_events(RunFolder("run").path)["batch/advantages"]
    assert buckets[:, 2].sum() == 3


class Once:
    """The simulator, but for one measurement that goes wrong."""

    def __init__(self, problem: Problem, seconds: float, number: int) -> None:
        self.evaluator, self.seconds, self.number = problem.evaluator, seconds, number

    def evaluate(self, placements: np.ndarray) -> Evaluations:
        found = self.evaluator.evaluate(placements)
        seconds = found.step_time_seconds.copy()
        if 0 <= self.number < len(seconds):
            seconds[self.number] = self.seconds
        self.number -= len(seconds)
        return dataclasses.replace(found, step_time_seconds=seconds)


@pytest.mark.parametrize("strategy", ["reinforce", "colocrl"])
@pytest.mark.parametrize("seconds", [np.nan, np.inf])
@pytest.mark.parametrize("number", [20, 30])
def test_a_measurement_that_is_not_finite(
    inputs, tmp_path, strategy: str, seconds: float, number: int
) -> None:
    """Costs its batch, at most; what comes afterwards is learned from again."""
    problem = Problem.build(graph(), cluster(), num_groups=6)
    problem = dataclasses.replace(problem, evaluator=Once(problem, seconds, number))
    config = new_config(problem, strategy=strategy, evaluations=120, seed=0, num_groups=6)
    folder = RunFolder(tmp_path / "run")
    folder.create(config, graph(), cluster())
    training.train(problem, config, folder)
    metrics = folder.read_metrics()
    assert metrics["num_skipped_updates"][-1] <= 1
    num_feasible = metrics["num_feasible"][1:].sum()
    assert num_feasible == metrics["evaluations"][-1] - metrics["evaluations"][0] - 1
    assert np.isfinite(metrics["policy_loss"][-1])
    assert np.isfinite(metrics["baseline"][-1])
    assert np.isfinite(metrics["best_step_time_seconds"]).all()
