"""Training leaves a complete record, and a stop changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import training
from experiments.cli import app
from experiments.run import RunFolder
from placer.cluster import Cluster
from placer.errors import InfeasibleError
from placer.graph import OpGraph
from placer.heuristics import HEURISTICS
from placer.placement import Placement
from placer.problem import Problem, Progress
from placer.simulator import Simulator
from policies.config import MODERN
from policies.metrics import COLUMNS, WALL_CLOCK_COLUMNS
from policies.reinforce import Trainer
from tests.experiments.builders import cluster, graph
from tests.experiments.reading import read_events, same_events, without_wall_clock


def call(*arguments: object):
    """Calls the command."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_what_is_printed(run) -> None:
    """Best step time, speedup over every heuristic, evaluations, seconds and paths, as JSON."""
    printed = run.printed
    assert {name.partition(":")[0] for name in printed["speedup_over"]} == set(HEURISTICS)
    assert printed["evaluations"] == 800
    assert printed["seconds"] > 0
    assert (printed["workload"], printed["cluster"], printed["seed"]) == ("chains", "pair", 0)
    for row in printed["heuristics"]:
        speedup = printed["speedup_over"][row["name"]]
        if row["feasible"]:
            assert speedup >= 1  # the best that was evaluated, heuristics included
            assert speedup == row["step_time_seconds"] / printed["best_step_time_seconds"]
        else:
            assert speedup is None
            assert row["infeasible_because"]
    for what, path in printed["paths"].items():
        assert Path(path).exists(), what
    assert json.loads((run.folder / "result.json").read_text()) == printed


def test_the_placement_has_the_step_time(run) -> None:
    """The placement that is written is the one whose step time is printed."""
    placement = Placement.load(run.folder / "placement.json", graph(), cluster())
    seconds = Simulator(graph(), cluster()).step_time(placement.devices)
    assert seconds == run.printed["best_step_time_seconds"]


def test_the_folder_needs_no_other_file(run) -> None:
    """Graph and cluster are in the folder; `placer simulate` takes all three from there."""
    result = call(
        "simulate",
        *("--graph", run.folder / "graph.json.gz"),
        *("--cluster", run.folder / "cluster.toml"),
        *("--placement", run.folder / "placement.json"),
        "--json",
    )
    printed = json.loads(result.stdout)
    assert printed["step_time_seconds"] == run.printed["best_step_time_seconds"]


def test_what_the_folder_says(run) -> None:
    """Settings with defaults filled in, versions and host; nothing of who or where."""
    config = tomllib.loads((run.folder / "config.toml").read_text())
    assert (config["strategy"], config["seed"], config["evaluations"]) == ("reinforce", 0, 800)
    assert (config["groups"], config["graph_fingerprint"]) == (6, graph().fingerprint)
    assert config["training"]["batch_size"] > 0
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert {"python", "numpy", "tensorflow"} <= set(manifest["versions"])
    assert set(manifest["host"]) == {"platform", "machine", "num_cpus"}


def test_metrics(run) -> None:
    """A row for the heuristics, then one per batch up to the budget; the best never worsens."""
    metrics = RunFolder(run.folder).read_metrics()
    assert metrics["step"].tolist() == list(range(len(metrics["step"])))
    assert metrics["evaluations"][0] == sum(
        row["step_time_seconds"] is not None for row in run.printed["heuristics"]
    )
    assert metrics["evaluations"][-1] == 800
    best = metrics["best_step_time_seconds"]
    assert (np.diff(best) <= 0).all()
    assert best[-1] == run.printed["best_step_time_seconds"]
    assert np.isnan(metrics["mean_reward"][0])
    assert np.isfinite(metrics["mean_reward"][1:]).all()
    assert (np.diff(metrics["wall_seconds"]) > 0).all()


HISTOGRAMS = {
    "batch/step_time_seconds",
    "batch/advantages",
    "batch/credits",
    "policy/entropies",
}


def test_tensorboard_events(run) -> None:
    """TensorBoard shows the same curves."""
    found = read_events(run.folder)
    metrics = RunFolder(run.folder).read_metrics()
    assert set(found) - HISTOGRAMS == set(COLUMNS) - set(WALL_CLOCK_COLUMNS) - {"evaluations"}
    steps, values = zip(*found["best_step_time_seconds"], strict=True)
    assert list(steps) == metrics["evaluations"].tolist()
    np.testing.assert_allclose(values, metrics["best_step_time_seconds"], rtol=1e-6)


def test_tensorboard_histograms(run) -> None:
    """They count all that is feasible and all op groups; samples have advantages, moves credit."""
    found, metrics = read_events(run.folder), RunFolder(run.folder).read_metrics()
    num_groups = Problem.build(graph(), cluster(), num_groups=6).num_groups
    rows = np.arange(1, len(metrics["step"]))  # the first row is the heuristics
    counted = {
        "batch/step_time_seconds": (metrics["num_feasible"], metrics["mean_step_time_seconds"]),
        "policy/entropies": (np.full(len(rows) + 1, num_groups), metrics["entropy_bonus"]),
    }
    assert set(found) >= HISTOGRAMS
    for tag, (numbers, means) in counted.items():
        assert [step for step, _ in found[tag]] == metrics["evaluations"][rows].tolist()
        for row, (_, buckets) in zip(rows, found[tag], strict=True):
            low, high, count = buckets.T
            assert count.sum() == numbers[row]
            slack = 1e-6 * abs(means[row])
            assert low.min() - slack <= means[row] <= high.max() + slack
    num_samples = MODERN.batch_size - round(MODERN.move_share * MODERN.batch_size)
    assert [buckets[:, 2].sum() for _, buckets in found["batch/advantages"]][:2] == [
        num_samples
    ] * 2
    assert all(buckets[:, 2].sum() >= 1 for _, buckets in found["batch/credits"])


@pytest.mark.parametrize(("num_batches", "every"), [(1, 1), (120, 2), (500, 10), (9000, 10)])
def test_long_runs_show_every_tenth_batch(num_batches: int, every: int) -> None:
    """So that the files stay small; and as many as there are where those are few."""
    evaluations = num_batches * MODERN.batch_size
    trainer = Trainer(Problem.build(graph(), cluster()), evaluations=evaluations, seed=0)
    assert training._steps_between_histograms(trainer) == every


def test_same_seed_same_bytes(run, tmp_path) -> None:
    """The same seed gives the same metrics but for wall-clock columns, and the same placement."""
    again = tmp_path / "again"
    arguments = ["--groups", 6, "--evaluations", 800, "--seed", 0, "--out", again]
    result = call("train", *run.inputs, *arguments)
    assert result.exit_code == 0
    assert without_wall_clock(again) == without_wall_clock(run.folder)
    for name in ("placement.json", "config.toml", "heuristics.csv", "graph.json.gz"):
        assert (again / name).read_bytes() == (run.folder / name).read_bytes()
    for row in run.printed["heuristics"]:
        assert row["name"] in result.stdout
    assert "reinforce (learned)" in result.stdout
    assert "found by" in result.stdout


def test_another_seed_another_curve(run, tmp_path) -> None:
    """The seed matters."""
    arguments = ["--groups", 6, "--evaluations", 60, "--seed", 1, "--out", tmp_path / "seed1"]
    assert call("train", *run.inputs, *arguments).exit_code == 0
    rows = without_wall_clock(tmp_path / "seed1").splitlines()
    assert rows[2] != without_wall_clock(run.folder).splitlines()[2]


def restart(run, out: Path) -> tuple[Problem, RunFolder]:
    """A new folder with what the run was asked, and its problem."""
    config = RunFolder(run.folder).read_config()
    folder = RunFolder(out)
    folder.create(config, graph(), cluster())
    return Problem.build(graph(), cluster(), num_groups=6), folder


def test_interrupted_and_resumed(run, tmp_path, monkeypatch) -> None:
    """Ctrl-C lets the batch finish and saves it; resumed, the run ends as if never stopped."""
    problem, folder = restart(run, tmp_path / "stopped")
    seen = []

    def stop(progress: Progress) -> None:
        seen.append(progress.evaluations)
        if len(seen) == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training.train(problem, folder.read_config(), folder, on_progress=stop)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(seen) == 4
    assert folder.placement.exists()
    result = call("train", "--resume", "--out", folder.path, "--json")
    assert result.exit_code == 0, result.stderr
    assert without_wall_clock(folder.path) == without_wall_clock(run.folder)
    assert folder.placement.read_bytes() == (run.folder / "placement.json").read_bytes()
    printed = json.loads(result.stdout)
    assert printed["best_step_time_seconds"] == run.printed["best_step_time_seconds"]


def test_killed_and_resumed(run, tmp_path, monkeypatch) -> None:
    """Killed at any point, a run goes on from its last checkpoint, to the same end."""
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    problem, folder = restart(run, tmp_path / "killed")
    copies = []

    def copy(progress: Progress) -> None:  # the row is written, the checkpoint still the last
        copies.append(tmp_path / f"copy{len(copies)}")
        shutil.copytree(folder.path, copies[-1])

    training.train(problem, folder.read_config(), folder, on_progress=copy)
    for index in (0, len(copies) // 2, len(copies) - 1):
        with (copies[index] / "metrics.csv").open("a") as file:
            file.write("99,9")  # cut off in the middle of a row
        resumed = RunFolder(copies[index])
        training.train(problem, resumed.read_config(), resumed)
        assert without_wall_clock(resumed.path) == without_wall_clock(run.folder)
        assert same_events(resumed.path, run.folder)


def test_a_finished_run_resumed_prints_the_same(run, tmp_path, monkeypatch) -> None:
    """To resume what is finished does nothing but to print it again."""
    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    printed = json.loads(call("train", "--resume", "--out", copied, "--json").stdout)
    assert Path(printed.pop("paths")["result"]) == copied / "result.json"
    assert printed == {k: v for k, v in run.printed.items() if k != "paths"}
    assert call("train", "--resume", "--out", copied).stdout.count("learned") == 1
    (copied / "result.json").write_text('{"workload": 3}')
    result = call("train", "--resume", "--out", copied)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 2)
    assert "result.json: " in result.stderr


def test_killed_at_its_very_end_and_resumed(run, tmp_path) -> None:
    """After the last checkpoint and before the result: nothing is evaluated again."""
    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    (copied / "result.json").unlink()
    printed = json.loads(call("train", "--resume", "--out", copied, "--json").stdout)
    assert printed["evaluations"] == 800
    assert (copied / "metrics.csv").read_bytes() == (run.folder / "metrics.csv").read_bytes()


def test_killed_before_it_began(run, tmp_path) -> None:
    """What a kill leaves of a folder that is being made is no run, and no obstacle."""
    out = tmp_path / "begun"
    arguments = ["train", *run.inputs, "--strategy", "random", "--evaluations", 30, "--out", out]
    assert call(*arguments).exit_code == 0
    config = (out / "config.toml").read_bytes()
    for path in out.iterdir():
        if path.name not in ("manifest.json", "graph.json.gz"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (out / ".cluster.toml.k1ll3d.toml").touch()
    assert call(*arguments, "--resume").exit_code == 0
    assert (out / "config.toml").read_bytes() == config


def test_resumed_with_the_same_command(run, tmp_path) -> None:
    """The command of a run with --resume added is the command to resume it."""
    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    arguments = ["--groups", 6, "--evaluations", 800, "--resume", "--out", copied]
    assert call("train", *run.inputs, *arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "started", "got"),
    [
        (["--seed", 1], "seed 0", "1"),
        (["--evaluations", 300], "evaluations 800", "300"),
        (["--strategy", "colocrl"], "strategy 'reinforce'", "'colocrl'"),
        (["--cluster", "k80x4"], "cluster 'pair'", "another cluster"),
        (["--workload", "rnnlm"], "graph 'chains'", "another graph"),
    ],
)
def test_resumed_with_other_settings(run, arguments, started: str, got: str) -> None:
    """A run is not resumed as another one."""
    before = (run.folder / "metrics.csv").read_bytes()
    result = call("train", "--resume", "--out", run.folder, *arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: the run was started with {started}; got {got}; "
        "leave it out to resume, or give another --out\n"
    )
    assert (run.folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["graph.json.gz", "cluster.toml"])
def test_resumed_with_another_file_in_the_folder(run, tmp_path, name: str) -> None:
    """What a run was started with is not exchanged behind its back."""
    copied = tmp_path / "copy"
    shutil.copytree(run.folder, copied)
    if name == "cluster.toml":
        Cluster.load("k80x2").save(copied / name)
    else:
        OpGraph.load("resnet50").save(copied / name)
    result = call("train", "--resume", "--out", copied)
    assert result.exit_code == 2
    what = name.partition(".")[0]
    assert result.stderr == (
        f"error: {copied / name}: another {what} than that which the run was started with\n"
    )


def test_ctrl_c_exits_130(run, tmp_path, monkeypatch) -> None:
    """The command says how to go on, and exits as shells expect."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    result = call("train", *run.inputs, "--out", tmp_path / "stopped")
    assert result.exit_code == 130
    line = f"interrupted; go on with: placer train --resume --out {tmp_path / 'stopped'}\n"
    assert result.stderr.endswith(line)


def test_default_folder(run, tmp_path, monkeypatch) -> None:
    """Without --out, each run gets a new folder in runs/."""
    monkeypatch.chdir(tmp_path)
    arguments = [*run.inputs, "--strategy", "random", "--evaluations", 30, "--json"]
    paths = [json.loads(call("train", *arguments).stdout)["paths"]["run"] for _ in range(2)]
    assert paths == ["runs/chains-pair-random-seed0", "runs/chains-pair-random-seed0-2"]


def test_a_search_without_state_is_resumed_too(run, tmp_path) -> None:
    """A search that keeps no checkpoint begins anew, to the same end."""
    arguments = [*run.inputs, "--strategy", "random", "--evaluations", 600]
    first = call("train", *arguments, "--out", tmp_path / "first")
    assert first.exit_code == 0, first.stderr
    (tmp_path / "first" / "result.json").unlink()
    before = without_wall_clock(tmp_path / "first")
    again = call("train", "--resume", "--out", tmp_path / "first")
    assert again.exit_code == 0
    assert without_wall_clock(tmp_path / "first") == before
    assert before.count("\n") > 2


def test_no_budget_beyond_the_heuristics(run, tmp_path) -> None:
    """A budget that the heuristics use up gives the best of them."""
    result = call("train", *run.inputs, "--evaluations", 1, "--out", tmp_path / "one", "--json")
    printed = json.loads(result.stdout)
    assert printed["learned_step_time_seconds"] is None
    assert printed["found_by"] in printed["speedup_over"]
    assert min(filter(None, printed["speedup_over"].values())) == 1


def test_more_than_one_device_holds(tmp_path, monkeypatch) -> None:
    """Where no device holds the graph, those rows say so with bytes; what is learned fits."""
    monkeypatch.chdir(tmp_path)
    graph().save("g.json")
    cluster(memory_bytes=7e6).save("c.toml")
    arguments = ["--graph", "g.json", "--cluster", "c.toml", "--groups", 6, "--out", "run"]
    printed = json.loads(call("train", *arguments, "--evaluations", 100, "--json").stdout)
    rows = {row["name"]: row for row in printed["heuristics"]}
    for device in ("cpu:0", "gpu:0", "gpu:1"):
        row = rows[f"single_device:{device}"]
        assert row["feasible"] is False
        assert row["step_time_seconds"] is None
        assert device in row["infeasible_because"]
        assert "bytes" in row["infeasible_because"]
    placement = Placement.load("run/placement.json", graph(), cluster(memory_bytes=7e6))
    simulator = Simulator(graph(), cluster(memory_bytes=7e6))
    assert simulator.step_time(placement.devices) == printed["best_step_time_seconds"]


def test_nothing_fits_anywhere(tmp_path, monkeypatch) -> None:
    """A graph that fits on no device at all is refused before a folder is made."""
    monkeypatch.chdir(tmp_path)
    graph().save("g.json")
    cluster(memory_bytes=1e3).save("c.toml")
    result = call("train", "--graph", "g.json", "--cluster", "c.toml", "--out", "run")
    assert result.exit_code == 2
    assert "bytes of variables" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("run").exists()
    with pytest.raises(InfeasibleError):
        _ = Problem.build(graph(), cluster(memory_bytes=1e3)).allowed
