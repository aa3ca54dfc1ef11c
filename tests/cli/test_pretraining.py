"""``placer pretrain`` and ``placer place``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from placer.api import best_heuristic
from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.heuristics import evaluate_heuristics
from placer.placement import Placement
from placer.problem import Problem
from placer.simulator import Simulator
from policies import BUNDLED, pretraining
from policies.pretrained import bundled

ON_TINY = ["--graph", "g.json", "--cluster", "c.toml"]


@pytest.fixture(autouse=True)
def _few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "NUM_HELD_OUT", 2)


def test_pretrain_then_place(placer, folder: Path) -> None:
    """A checkpoint and its card; going on takes the steps that are left; placing needs no more."""
    command = ["pretrain", "--out", "p.npz", *ON_TINY, "--steps", "2", "--json"]
    result = placer(*command)
    assert result.exit_code == 0, result.stderr
    card = json.loads(result.stdout)
    assert card == json.loads(Path("p.card.json").read_text())
    assert card["steps_taken"] == 2
    assert card["problems"][0]["graph"] == "chains"
    assert card["held_out"]["problems"] == 2
    written = Path("p.npz").read_bytes()
    result = placer(*command, "--resume")
    assert json.loads(result.stdout) == card
    assert Path("p.npz").read_bytes() == written

    place = ["place", "--policy", "p.npz", *ON_TINY, "--evaluations", "4"]
    result = placer(*place, "--out", "placement.json", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    graph, cluster = OpGraph.load("g.json"), Cluster.load("c.toml")
    placed = Placement.load("placement.json", graph, cluster)
    problem = Problem.build(graph, cluster)
    rows = evaluate_heuristics(problem, np.random.default_rng(0))
    assert found["evaluations"] == sum(row.choices is not None for row in rows) + 4
    assert Simulator(graph, cluster).step_time(placed.devices) == found["step_time_seconds"]
    text = placer(*place).stdout
    assert "chains on pair: step time" in text
    assert f"the best of {found['evaluations']} placements" in text


def test_what_a_kill_left_aside_is_removed(placer, folder: Path) -> None:
    """Of the checkpoint and its card; files of others stay."""
    left = {".p.npz.abcd_123.npz", ".p.card.json.abcd_123.json"}
    others = {".q.npz.abcd_123.npz", ".p.npz.mine.npz", "p.npz.abcd_123.npz"}
    for name in left | others:
        Path(name).write_bytes(b"half of one")
    result = placer("pretrain", "--out", "p.npz", *ON_TINY, "--steps", "1", "--resume")
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in folder.iterdir()}
    assert not left & names
    assert others < names


def test_place_is_never_worse_than_a_heuristic(placer, folder: Path) -> None:
    """Nor than the policy; it says which of them found what it writes."""
    command = ["place", "--workload", "resnet50", "--cluster", "v100x8", "--order", "priority"]
    result = placer(*command, "--evaluations", "1", "--out", "placement.json", "--json")
    found = json.loads(result.stdout)
    graph, cluster = OpGraph.load("resnet50"), Cluster.load("v100x8")
    problem = Problem.build(graph, cluster, order="priority")
    best = best_heuristic(evaluate_heuristics(problem, np.random.default_rng(0)))
    alone = bundled().search(problem, evaluations=1, seed=0)
    assert best is not None
    assert best.step_time_seconds < alone.step_time_seconds
    assert found["step_time_seconds"] == best.step_time_seconds
    assert found["found_by"] == best.name
    placed = Placement.load("placement.json", graph, cluster)
    simulator = Simulator(graph, cluster, order=placed.order, priorities=placed.priorities)
    assert simulator.step_time(placed.devices) == best.step_time_seconds


def test_training_goes_on_from_a_pretrained_policy(placer, folder: Path) -> None:
    """The run has a copy of it, and goes on without the file; another policy is refused then."""
    pretrain = ["pretrain", *ON_TINY, "--steps", "1", "--out"]
    for name, seed in (("p.npz", "0"), ("q.npz", "1")):
        assert placer(*pretrain, name, "--seed", seed).exit_code == 0
    train = ["train", *ON_TINY, "--evaluations", "100", "--out", "run", "--json"]
    result = placer(*train, "--from", "p.npz")
    assert result.exit_code == 0, result.stderr
    assert Path("run/policy.npz").read_bytes() == Path("p.npz").read_bytes()
    assert 'network = "graph"' in Path("run/config.toml").read_text()
    best = json.loads(result.stdout)["best_step_time_seconds"]
    Path("run/checkpoint.npz").unlink()
    Path("run/result.json").unlink()
    again = placer(*train, "--from", "p.npz", "--resume")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["best_step_time_seconds"] == best
    result = placer(*train, "--from", "q.npz", "--resume")
    assert result.exit_code == 2
    assert "--from q.npz: the run was not started from this policy" in result.stderr
    for name in ("checkpoint.npz", "result.json", "policy.npz"):
        Path("run", name).unlink()
    result = placer(*train, "--resume")
    assert result.exit_code == 2, "it would train a fresh policy"
    assert "error: run/policy.npz: no such file" in result.stderr


def test_the_bundled_policy_goes_by_its_name(placer, folder: Path) -> None:
    """And is what places where no policy is given."""
    found = [
        json.loads(placer("place", *ON_TINY, *policy, "--json").stdout)["step_time_seconds"]
        for policy in ([], ["--policy", "bundled"], ["--policy", str(BUNDLED)])
    ]
    assert len(set(found)) == 1
    train = ["train", *ON_TINY, "--evaluations", "70", "--out", "run", "--from", "bundled"]
    result = placer(*train)
    assert result.exit_code == 0, result.stderr
    assert Path("run/policy.npz").read_bytes() == BUNDLED.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pretrain", "--out", "p.txt"], "--out p.txt: expected a name that ends in .npz"),
        (["pretrain", "--out", "there.npz"], "there.npz: there already"),
        (
            ["pretrain", "--out", "p.npz", "--workload", "rnnlm"],
            "graphs and clusters come together: give both, or neither",
        ),
        (
            ["pretrain", "--out", "there.npz", "--resume"],
            "there.npz: not a checkpoint; expected an .npz file of arrays",
        ),
        (
            ["place", "--policy", "there.npz", *ON_TINY],
            "there.npz: not a checkpoint; expected an .npz file of arrays",
        ),
        (
            ["pretrain", "--out", "card.npz", *ON_TINY, "--steps", "1"],
            "card.card.json: cannot be written (Is a directory)",
        ),
        (["place", "--policy", "none.npz", *ON_TINY], "none.npz: no such file"),
        (
            ["place", "--policy", "none.npz", *ON_TINY, "--out", "card.card.json"],
            "card.card.json: cannot be written (Is a directory)",
        ),
        (["place", "--policy", "there.npz", "--cluster", "c.toml"], "give either --graph or"),
        (
            ["train", *ON_TINY, "--out", "run", "--from", "there.npz"],
            "there.npz: not a checkpoint; expected an .npz file of arrays",
        ),
        (
            ["train", *ON_TINY, "--out", "run", "--from", "p.npz", "--strategy", "annealing"],
            "--from p.npz: strategy 'annealing' trains no policy",
        ),
        (
            ["train", "--workload", "rnnlm", "--evaluator", "measured", "--from", "p.npz"],
            "--from is of simulated step times",
        ),
    ],
)
def test_bad_input(placer, folder: Path, arguments: list[str], line: str) -> None:
    """One clear line, exit code 2, and nothing is written."""
    Path("there.npz").write_text("no checkpoint")
    Path("card.card.json").mkdir()
    before = sorted(folder.rglob("*"))
    result = placer(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {line}")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
