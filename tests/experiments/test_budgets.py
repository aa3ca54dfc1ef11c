"""What ends a run: evaluations, seconds or a plateau, and that it has ended when it is resumed."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import training
from experiments.cli import app
from experiments.record import Record
from experiments.run import RunFolder
from experiments.training import new_config
from placer.errors import UsageError
from placer.heuristics import HeuristicResult
from placer.problem import Problem, Progress
from tests.experiments.builders import cluster, graph
from tests.experiments.reading import without_wall_clock


def train(*arguments: object):
    """Calls ``placer train``."""
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def trained(*arguments: object) -> dict[str, object]:
    """What ``placer train --json`` prints."""
    result = train(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


class SlowClock:
    """A clock by which a thousand seconds pass whenever it is read."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        cls.now += 1000.0
        return cls.now


@pytest.fixture
def begun(run) -> list[object]:
    """How the run that every test knows was begun, but for the seed."""
    return [*run.inputs, "--groups", 6, "--evaluations", 800]


@pytest.fixture
def seconds(begun, tmp_path, monkeypatch) -> float:
    """Steps of training take thousands of seconds each; these are over in the fourth."""
    monkeypatch.setattr("policies.reinforce.time", SlowClock)
    trained(*begun, "--out", tmp_path / "slow")
    wall = RunFolder(tmp_path / "slow").read_metrics()["wall_seconds"]
    assert len(wall) > 1 + 4
    return float(wall[3:5].mean())


def interrupt(config, out: Path, batches: int) -> RunFolder:
    """A run that Ctrl-C stops after so many batches."""
    folder, seen = RunFolder(out), []
    folder.create(config, graph(), cluster())

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == batches:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training.train(
            Problem.build(graph(), cluster(), num_groups=6), config, folder, on_progress=stop
        )
    return folder


def check_ended(folder: Path, ended_by: str) -> None:
    """Resumed, it does nothing more; nor if it was killed before it could write its result."""
    config = RunFolder(folder).read_config()
    metrics = (folder / "metrics.csv").read_bytes()
    for _ in range(2):
        again = trained("--resume", "--out", folder)
        assert again["ended_by"] == ended_by
        assert (folder / "metrics.csv").read_bytes() == metrics
        assert RunFolder(folder).read_config() == config
        (folder / "result.json").unlink()


# seconds


def test_no_batch_begins_after_the_seconds(run, begun, seconds, tmp_path) -> None:
    """But the fourth ends after them; the curve is that of a longer run."""
    printed = trained(*begun, "--seconds", seconds, "--out", tmp_path / "run")
    assert printed["ended_by"] == "seconds"
    wall = RunFolder(tmp_path / "run").read_metrics()["wall_seconds"]
    assert wall[-2] < seconds < wall[-1] == printed["seconds"]
    rows = without_wall_clock(run.folder).splitlines()[: 2 + 4]
    assert without_wall_clock(tmp_path / "run").splitlines() == rows
    assert RunFolder(tmp_path / "run").read_config().seconds == seconds
    check_ended(tmp_path / "run", "seconds")


def test_the_seconds_are_those_of_all_sessions(run, begun, seconds, tmp_path) -> None:
    """A run that is stopped after two batches has two left."""
    config = msgspec.structs.replace(RunFolder(run.folder).read_config(), seconds=seconds)
    stopped = interrupt(config, tmp_path / "stopped", batches=2)
    assert len(stopped.read_metrics()["step"]) == 1 + 2
    printed = trained("--resume", "--out", stopped.path, "--seconds", seconds)
    assert printed["ended_by"] == "seconds"
    rows = without_wall_clock(run.folder).splitlines()[: 2 + 4]
    assert without_wall_clock(stopped.path).splitlines() == rows
    check_ended(stopped.path, "seconds")


def test_one_batch_is_evaluated_in_any_case(begun, tmp_path) -> None:
    """Also where the heuristics take longer than there is time."""
    for strategy, num_rows in (("reinforce", 2), ("random", 2)):
        out = tmp_path / strategy
        printed = trained(*begun, "--seconds", 1e-9, "--strategy", strategy, "--out", out)
        assert printed["ended_by"] == "seconds"
        assert len(RunFolder(out).read_metrics()["step"]) == num_rows


def test_a_search_without_state_keeps_the_seconds(run, tmp_path) -> None:
    """It is over long before its evaluations; when it is resumed, it is not begun anew."""
    arguments = [*run.inputs, "--strategy", "random", "--evaluations", 10_000_000]
    result = train(*arguments, "--seconds", 0.5, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "s: the 0.5 seconds were over\n" in result.stdout
    again = train("--resume", "--out", tmp_path / "run")
    assert again.stdout == result.stdout


# plateau


def test_it_stops_on_a_plateau(run, begun, tmp_path) -> None:
    """After the first batch whose end is so far from the last improvement; and not before."""
    whole = RunFolder(run.folder).read_metrics()
    evaluations, best = whole["evaluations"], whole["best_step_time_seconds"]
    improved_at = evaluations[0]
    for last in range(1, len(evaluations)):
        improved_at = evaluations[last] if best[last] < best[last - 1] or last == 1 else improved_at
        if evaluations[last] - improved_at >= 40:
            break
    assert last < len(evaluations) - 1, "the run has no plateau of 40"
    printed = trained(*begun, "--plateau", 40, "--out", tmp_path / "run")
    assert printed["ended_by"] == "plateau"
    assert printed["evaluations"] == evaluations[last]
    rows = without_wall_clock(run.folder).splitlines()[: last + 2]
    assert without_wall_clock(tmp_path / "run") == "\n".join(rows)
    check_ended(tmp_path / "run", "plateau")
    config = RunFolder(tmp_path / "run").read_config()
    stopped = interrupt(config, tmp_path / "stopped", batches=last - 1)
    assert trained("--resume", "--out", stopped.path)["ended_by"] == "plateau"
    assert without_wall_clock(stopped.path) == "\n".join(rows)


def test_a_search_without_state_stops_on_a_plateau(run, tmp_path) -> None:
    """With what it had found; and as soon as a listener is told."""
    arguments = [*run.inputs, "--strategy", "random", "--evaluations", 100_000]
    result = train(*arguments, "--plateau", 300, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "s: nothing better in the last 300\n" in result.stdout
    found = RunFolder(tmp_path / "run").read_result()
    metrics = RunFolder(tmp_path / "run").read_metrics()
    assert found.ended_by == "plateau"
    assert found.evaluations == metrics["evaluations"][-1] < 100_000
    assert metrics["best_step_time_seconds"][-1] == found.best_step_time_seconds
    rows = without_wall_clock(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert train("--resume", "--out", tmp_path / "run").exit_code == 0
    assert without_wall_clock(tmp_path / "run") == rows


class Rows:
    """A record that is fed rows, with what ends it after each."""

    def __init__(
        self, tmp_path: Path, heuristics: list[HeuristicResult], **budgets: object
    ) -> None:
        problem = Problem.build(graph(), cluster())
        config = new_config(problem, strategy="reinforce", seed=0, **budgets)
        folder = RunFolder(tmp_path)
        self.record = Record(problem, config, folder, None)
        self.record.start(heuristics)

    def add(self, evaluations: int, best: float, seconds: float = 0.0) -> str | None:
        row = {
            "evaluations": evaluations,
            "best_step_time_seconds": best,
            "wall_seconds": seconds,
        }
        self.record.add(row, Progress(evaluations, best, best, None))
        return self.record.ended_by


def test_what_counts_is_what_the_strategy_finds(tmp_path) -> None:
    """A strategy that starts from nothing improves long before it reaches the heuristics."""
    zeros = np.zeros(6, np.int32)
    heuristics = [HeuristicResult("single", zeros, 1.0, True, None)]
    rows = Rows(tmp_path, heuristics, evaluations=100, plateau=20)
    assert rows.record.ended_by is None
    found = [rows.add(n, best) for n, best in ((10, 9.0), (20, 8.0), (30, 7.0), (40, 7.0))]
    assert found == [None] * 4
    assert rows.add(50, 7.0) == "plateau"
    assert rows.add(99, 7.0) == "evaluations"
    rows.record.begin([])
    assert rows.record.ended_by is None
    rows.record.folder.close()


def test_nothing_feasible_is_nothing_better(tmp_path) -> None:
    """So a run in which everything fails ends, too."""
    rows = Rows(tmp_path, [], evaluations=100, plateau=20)
    assert [rows.add(n, math.inf) for n in (10, 20)] == [None, "plateau"]
    rows.record.folder.close()


def test_nothing_feasible_within_the_plateau(tmp_path, monkeypatch) -> None:
    """The command says why nothing was found, and says it again when it is resumed."""
    monkeypatch.chdir(tmp_path)
    graph().save("g.json")
    cluster(memory_bytes=3.5e6).save("c.toml")  # a device for each chain, and there are three
    arguments = ["--graph", "g.json", "--cluster", "c.toml", "--groups", 6, "--plateau", 50]
    for strategy in ("reinforce", "random"):
        out = ["--out", strategy, "--strategy", strategy]
        first = train(*arguments, *out)
        assert first.exit_code == 2
        assert "error: no" in first.stderr
        assert not Path(strategy, "result.json").exists()
        again = train("--resume", "--out", strategy)
        assert again.stderr.splitlines()[-1] == first.stderr.splitlines()[-1]
        assert RunFolder(strategy).read_metrics()["evaluations"][-1] < 800


# all of them


def test_a_search_may_have_nothing_left_to_try(run, tmp_path) -> None:
    """Exact search ends with its proof."""
    arguments = [*run.inputs, "--groups", 6, "--strategy", "exact", "--evaluations", 5000]
    result = train(*arguments, "--seconds", 1000, "--plateau", 5000, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "s: exact had nothing left to try\n" in result.stdout
    assert RunFolder(tmp_path / "run").read_result().ended_by == "search"


def test_the_evaluations_may_be_spent_first(run, begun, tmp_path) -> None:
    """Then the other budgets change nothing at all."""
    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    assert run.printed["ended_by"] == "evaluations"
    assert "s: the budget of evaluations was spent\n" in train("--resume", "--out", copied).stdout
    generous = [*begun, "--seconds", 1e6, "--plateau", 1000, "--out", tmp_path / "run"]
    assert trained(*generous)["ended_by"] == "evaluations"
    assert without_wall_clock(tmp_path / "run") == without_wall_clock(run.folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "seconds is 0; expected a number above 0"),
        (["--seconds", "-2.5"], "seconds is -2.5; expected a number above 0"),
        (["--seconds", "nan"], "seconds is nan; expected a number above 0"),
        (["--seconds", "inf"], "seconds is inf; expected a number above 0"),
        (["--plateau", "0"], "should be greater than or equal to 1"),
    ],
)
def test_budgets_that_are_none(run, tmp_path, arguments: list[str], message: str) -> None:
    """Refused before anything is written."""
    result = train(*run.inputs, *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="plateau is 0; expected at least 1"):
        new_config(
            Problem.build(graph(), cluster()),
            strategy="random",
            evaluations=1,
            seed=0,
            plateau=0,
        )


def test_resumed_with_other_budgets(run) -> None:
    """They are part of what the run was asked."""
    for name, value in (("seconds", "5.0"), ("plateau", "7")):
        result = train("--resume", "--out", run.folder, f"--{name}", value)
        assert result.exit_code == 2
        assert f"the run was started without {name}; got {value}; leave it out" in result.stderr
