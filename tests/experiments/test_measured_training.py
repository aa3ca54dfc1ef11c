"""Training on measured step times starts from the simulator's policy, and a stop loses nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import measuring, training
from experiments.cli import app
from experiments.run import RunFolder
from placer.placement import Placement
from placer.problem import Problem
from placer.simulator import Simulator
from placer.tf import Measurement
from placer.tf._order import previous_ops
from placer.tf._wire import Request
from placer.tf.measure import MeasuredEvaluator
from placer.tf.measurements import MeasurementLog, key_of
from tests.experiments.builders import cluster, graph
from tests.experiments.reading import without_wall_clock

MEASURED = ("--evaluator", "measured", "--workload", "branches", "--workers", "2", "--steps", "2")


class Fake(MeasuredEvaluator):
    """Measures what is simulated, with noise; some placements fail, and it can be killed."""

    kill_at = 10_000
    rng = np.random.default_rng(0)

    def __init__(self, log: Path, problem: Problem) -> None:
        self.graph, self.cluster = problem.graph, problem.cluster
        self._log = MeasurementLog(log, self.graph, self.cluster)
        self._known = self._log.read()
        self._made_up = problem.evaluator
        self._simulator = problem.evaluator if problem.order == "priority" else None
        self._variables, self._devices = {}, self.cluster.device_names

    def _measure(self, request: Request) -> Measurement:
        key = key_of(request.devices, request.previous)
        if key not in self._known:
            Fake.kill_at -= 1
            if Fake.kill_at < 0:
                raise KeyboardInterrupt
            seconds = self._made_up.step_time(request.devices) * Fake.rng.uniform(1, 1.2)
            failed = "the process was killed" if Fake.rng.random() < 0.2 else None
            found = Measurement(() if failed else (seconds, seconds), (), failed, 0.5)
            self._log.append(request.devices, request.previous, found)
            self._known[key] = found
        return self._known[key]


@pytest.fixture
def fake(monkeypatch) -> None:
    """The workload is a graph of chains, and what measures it is made up."""

    @contextmanager
    def measured(problem, config, log, *, patience_seconds, on_wait):
        evaluator = Fake(log, problem)
        yield dataclasses.replace(problem, evaluator=evaluator), evaluator

    monkeypatch.setattr(measuring, "measured", measured)
    monkeypatch.setattr(measuring.MeasuringConfig, "read_graph", lambda config: graph())
    monkeypatch.setattr(Fake, "kill_at", 10_000)
    monkeypatch.setattr(Fake, "rng", np.random.default_rng(0))


def train(*arguments: object):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def begun(run, tmp_path) -> list[object]:
    """How a measured run begins that starts from the one that is finished."""
    return [
        *MEASURED,
        "--cluster",
        run.inputs[-1],
        "--groups",
        6,
        "--start",
        run.folder,
        "--seed",
        4,
    ]


def test_every_evaluation_is_logged(run, fake, begun, tmp_path) -> None:
    """With its raw times or why it failed; the start is the simulator's best placement."""
    out = tmp_path / "measured"
    result = train(*begun, "--evaluations", 60, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    lines = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines()]
    placements = {tuple(line["devices"]) for line in lines}
    assert len(placements) == len(lines), "what was measured is not measured again"
    assert 0 < sum(line["reason"] is not None for line in lines) < len(lines)
    assert all(len(line["step_seconds"]) == (line["reason"] is None) * 2 for line in lines)
    assert f"too busy to tell in {len(lines)} of {len(lines)} measurements" in result.stderr
    best = json.loads((run.folder / "placement.json").read_text())["devices"]
    by_simulator = tuple(cluster().device_index[best[name]] for name in graph().op_names)
    assert by_simulator in placements
    assert printed["best_step_time_seconds"] == min(
        float(np.median(line["step_seconds"])) for line in lines if line["step_seconds"]
    )
    config = RunFolder(out).read_config()
    assert (config.measuring.workload, config.measuring.steps) == ("branches", 2)
    assert Path(printed["paths"]["simulated"], "result.json").exists()


def test_killed_and_resumed_on_the_same_curve(run, fake, begun, tmp_path, monkeypatch) -> None:
    """What was measured since the last checkpoint is read back, though it would differ now."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(*begun, "--evaluations", 60, "--out", whole).exit_code == 0
    monkeypatch.setattr(Fake, "rng", np.random.default_rng(0))
    num_measured = len((whole / "measurements.jsonl").read_text().splitlines())
    monkeypatch.setattr(Fake, "kill_at", num_measured // 2)  # in the middle of a batch
    assert train(*begun, "--evaluations", 60, "--out", stopped).exit_code == 130
    monkeypatch.setattr(Fake, "kill_at", 10_000)
    result = train("--resume", "--out", stopped)
    assert result.exit_code == 0, result.stderr
    for name in ("measurements.jsonl", "placement.json", "heuristics.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert without_wall_clock(stopped) == without_wall_clock(whole)


def test_from_a_run_that_began_with_a_pretrained_policy(run, fake, tmp_path, monkeypatch) -> None:
    """Its network is gone on with, and resumed alike."""
    on = ("--cluster", run.inputs[-1], "--groups", 6)
    before = tmp_path / "before"
    simulated = (*run.inputs, "--groups", 6, "--evaluations", 30, "--from", "bundled")
    assert train(*simulated, "--out", before).exit_code == 0
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    begin = (*MEASURED, *on, "--start", before, "--evaluations", 50)
    result = train(*begin, "--out", whole)
    assert result.exit_code == 0, result.stderr
    settings = RunFolder(whole).read_config().training
    assert (settings["network"], settings["batch_size"]) == ("graph", 16)
    monkeypatch.setattr(Fake, "rng", np.random.default_rng(0))
    num_measured = len((whole / "measurements.jsonl").read_text().splitlines())
    monkeypatch.setattr(Fake, "kill_at", num_measured // 2)
    assert train(*begin, "--out", stopped).exit_code == 130
    monkeypatch.setattr(Fake, "kill_at", 10_000)
    assert train("--resume", "--out", stopped).exit_code == 0
    assert without_wall_clock(stopped) == without_wall_clock(whole)


def test_in_order_of_priority(run, fake, tmp_path, monkeypatch) -> None:
    """With the priorities that the placement it starts from was found with, and resumed alike."""
    on = ("--cluster", run.inputs[-1], "--groups", 6, "--order", "priority")
    drawn = np.random.default_rng(0).permutation(graph().num_ops)
    problem = Problem.build(graph(), cluster(), num_groups=6, order="priority")
    started = RunFolder(tmp_path / "started")
    config = training.new_config(
        problem, strategy="reinforce", evaluations=60, seed=0, num_groups=6
    )
    started.create(config, graph(), cluster())
    training.train(problem.with_priorities(drawn), config, started)
    priorities = Placement.load(started.placement, graph(), cluster()).priorities
    assert priorities is not None
    begin = (*MEASURED, *on, "--start", started.path, "--evaluations", 50)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(*begin, "--out", whole)
    assert result.exit_code == 0, result.stderr
    placement = Placement.load(whole / "placement.json", graph(), cluster())
    np.testing.assert_array_equal(placement.priorities, priorities)
    lines = [json.loads(line) for line in (whole / "measurements.jsonl").read_text().splitlines()]
    simulator = Simulator(graph(), cluster(), order="priority", priorities=priorities)
    assert all(line["previous"] == previous_ops(simulator, line["devices"]) for line in lines)
    monkeypatch.setattr(Fake, "rng", np.random.default_rng(0))
    monkeypatch.setattr(Fake, "kill_at", len(lines) // 2)
    assert train(*begin, "--out", stopped).exit_code == 130
    monkeypatch.setattr(Fake, "kill_at", 10_000)
    assert train("--resume", "--out", stopped).exit_code == 0
    assert without_wall_clock(stopped) == without_wall_clock(whole)


def test_it_learns_on_the_simulator_first(run, fake, tmp_path, monkeypatch) -> None:
    """Unless it is told a run; that run has a folder within."""
    monkeypatch.setattr("experiments.cli.training.DEFAULT_EVALUATIONS", 30)
    out = tmp_path / "both"
    on = ("--cluster", run.inputs[-1], "--evaluations", 20)
    assert train(*MEASURED, *on, "--out", out, "--strategy", "random").exit_code == 0
    simulated = RunFolder(out).simulated
    assert simulated.finished
    assert (simulated.read_config().evaluations, simulated.read_config().measuring) == (30, None)


def test_stopped_on_the_simulator(run, fake, tmp_path, monkeypatch) -> None:
    """Even before the run there was begun, it is begun with all that it needs."""
    monkeypatch.setattr("experiments.cli.training.DEFAULT_EVALUATIONS", 30)
    out = tmp_path / "both"
    on = (*MEASURED, "--cluster", run.inputs[-1], "--evaluations", 20, "--strategy", "random")
    with monkeypatch.context() as killed:
        killed.setattr(RunFolder, "finished", property(lambda folder: 1 / 0))
        assert train(*on, "--out", out).exit_code == 1
    (out / "simulated").mkdir()
    (out / "simulated" / ".manifest.json.xyz").touch()  # as a kill while it is written leaves it
    assert train("--resume", "--out", out).exit_code == 0
    assert RunFolder(out).simulated.read_config().evaluations == 30


def test_what_does_not_agree_with_the_run(run, fake, begun, tmp_path) -> None:
    """Another evaluator or start than the run began with is refused, the same one is not."""
    out, other = tmp_path / "measured", tmp_path / "other"
    on = (*begun, "--evaluations", 20, "--out", out, "--resume")
    assert train(*on).exit_code == 0
    assert train(*on).exit_code == 0
    shutil.copytree(run.folder, other)
    content = (other / "config.toml").read_text()
    (other / "config.toml").write_text(content.replace("seed = 0", "seed = 1"))
    result = train(*on, "--start", other)
    assert result.exit_code == 2
    assert "the run was started from another one" in result.stderr
    for folder, evaluator in ((out, "simulated"), (run.folder, "measured")):
        result = train("--resume", "--out", folder, "--evaluator", evaluator)
        assert result.exit_code == 2
        assert "the run was started with the other one" in result.stderr


def test_bad_requests(run, fake, begun, tmp_path) -> None:
    """One line, and no folder."""
    out = tmp_path / "none"
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run.folder, unfinished)
    (unfinished / "result.json").unlink()
    on = ("--cluster", run.inputs[-1], "--out", out)
    requests = {
        "give --workload": ("--evaluator", "measured", *on),
        "are of --evaluator measured": (*run.inputs, "--workers", 2, "--out", out),
        "a run with another groups": (*MEASURED, *on, "--start", run.folder),
        "not finished": (*MEASURED, *on, "--groups", 6, "--start", unfinished),
        "random cannot start from it": (*begun, "--strategy", "random", "--out", out),
        "with the same groups and order": (*begun, "--order", "priority", "--out", out),
        "no run": (*MEASURED, *on, "--start", tmp_path),
        "colocrl cannot start from it": (*begun, "--strategy", "colocrl", "--out", out),
        "unknown workload 'brunches'": (*MEASURED, *on, *run.inputs[:2], "--workload", "brunches"),
        "expected 2 numbers in (0, 1]": (*MEASURED, *on, *run.inputs[:2], "--shares", "1"),
        "--seconds-limit 0; expected": (*MEASURED, *on, *run.inputs[:2], "--seconds-limit", 0),
        "--seconds-limit inf; expected": (
            *MEASURED,
            *on,
            *run.inputs[:2],
            "--seconds-limit",
            "inf",
        ),
        "needs the model to run": (
            *run.inputs,
            "--out",
            out,
            "--resume",
            "--evaluator",
            "measured",
        ),
    }
    for message, arguments in requests.items():
        result = train(*arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not out.exists()
