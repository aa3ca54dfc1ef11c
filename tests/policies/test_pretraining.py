"""Pretraining: the same again from a seed, wherever it was stopped; and what a file must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from placer.cluster import Cluster
from placer.errors import FormatError, InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.problem import Problem
from placer.strategies import STRATEGIES, resolve
from policies import BUNDLED, checkpoint, pretrained, pretraining
from policies.graph_network import list_schedule_weights
from policies.parts import partitions
from policies.pretrained import PretrainedPolicy, bundled
from policies.pretraining import Pretrainer, Row
from policies.reinforce import Trainer
from tests.experiments.builders import cluster, graph
from tests.toys import all_choices, make_toy

TOY = make_toy(6, 3)


@pytest.fixture(scope="module")
def given() -> Problem:
    return Problem.build(graph(), cluster())


@pytest.fixture(scope="module")
def saved(given: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A checkpoint after two of four steps, and the rows of all four."""
    path = tmp_path_factory.mktemp("policy") / "p.npz"
    pretrainer = Pretrainer(steps=4, seed=3, problems=[given])
    rows = [pretrainer.step(), pretrainer.step()]
    pretrainer.save(path)
    rows += [pretrainer.step(), pretrainer.step()]
    pretrainer.save(path.with_name("end.npz"))
    return path, rows


def test_what_was_stopped_goes_on_the_same(
    saved: tuple[Path, list[Row]], given: Problem, tmp_path: Path
) -> None:
    """Rows and, at the end, every byte of the checkpoint."""
    path, rows = saved
    assert [row.step for row in rows] == [1, 2, 3, 4]
    assert rows[1].graph == given.graph.name
    assert rows[0].graph != given.graph.name
    again = Pretrainer(steps=4, seed=3, problems=[given])
    again.restore(path)
    assert [again.step(), again.step()] == rows[2:]
    assert again.done
    again.save(tmp_path / "end.npz")
    assert (tmp_path / "end.npz").read_bytes() == path.with_name("end.npz").read_bytes()


def test_only_its_own_pretraining_goes_on(saved: tuple[Path, list[Row]], given: Problem) -> None:
    for other in (
        Pretrainer(steps=5, seed=3, problems=[given]),
        Pretrainer(steps=4, seed=4, problems=[given]),
        Pretrainer(steps=4, seed=3),
    ):
        with pytest.raises(FormatError, match="asked for"):
            other.restore(saved[0])


def test_a_state_of_another_network_is_refused(
    saved: tuple[Path, list[Row]], given: Problem, tmp_path: Path
) -> None:
    """Adam's means, too, are to fit before a step is taken."""
    arrays, facts = checkpoint.load(saved[0])
    del facts["format"], arrays["second/output"]
    checkpoint.save(tmp_path / "p.npz", arrays, facts)
    pretrainer = Pretrainer(steps=4, seed=3, problems=[given])
    with pytest.raises(FormatError, match="not a whole checkpoint .*second/output is None"):
        pretrainer.restore(tmp_path / "p.npz")
    assert pretrainer.step_count == 0


@pytest.mark.parametrize(("steps", "seed"), [(0, 0), (1, -1), (2.5, 0), (1, 0.5)])
def test_arguments_outside_their_range(steps: float, seed: float) -> None:
    with pytest.raises(UsageError, match="expected"):
        Pretrainer(steps=steps, seed=seed)


def test_the_card_says_what_it_was_trained_on(
    saved: tuple[Path, list[Row]], given: Problem
) -> None:
    card = PretrainedPolicy.load(saved[0]).card
    assert card["steps_taken"] == 2
    assert card["steps"] == 4
    assert card["seed"] == 3
    assert card["evaluations"] == saved[1][1].evaluations
    assert card["problems"][0]["graph_fingerprint"] == given.graph.fingerprint
    assert card["versions"]["numpy"] == np.__version__
    assert json.dumps(card)


def test_a_loaded_policy_places_what_it_has_never_seen(saved: tuple[Path, list[Row]]) -> None:
    """First the likeliest choices, within the budget, and again the same from the same seed."""
    policy = PretrainedPolicy.load(saved[0])
    found = policy.search(TOY, evaluations=20, seed=1)
    assert found.evaluations == 20 == len(found.best_so_far)
    assert TOY.evaluate(found.choices[None]).step_time_seconds[0] == found.step_time_seconds
    assert found.best_so_far[-1] == found.step_time_seconds
    alone = policy.search(TOY, evaluations=1, seed=2)
    assert alone.step_time_seconds == found.best_so_far[0]
    again = policy.search(TOY, evaluations=20, seed=1)
    assert np.array_equal(again.best_so_far, found.best_so_far)


def test_the_first_policy_is_a_list_scheduler() -> None:
    """Untrained it is better than nearly all placements there are, on every toy."""
    rng = np.random.default_rng(0)
    weights = list_schedule_weights(rng, pretraining.HIDDEN)
    policy = PretrainedPolicy(weights, {"hidden": pretraining.HIDDEN})
    for seed in range(3):
        toy = make_toy(6, 3, seed=seed)
        seconds = toy.evaluate(all_choices(toy)).step_time_seconds
        found = policy.search(toy, evaluations=1, seed=0)
        assert (seconds < found.step_time_seconds).mean() < 0.05


def test_nothing_that_fits() -> None:
    """Where no placement has the memory, the error says so."""
    weights = list_schedule_weights(np.random.default_rng(0), pretraining.HIDDEN)
    policy = PretrainedPolicy(weights, {"hidden": pretraining.HIDDEN})
    tight = make_toy(6, 3, memory_bytes=1.1e6)
    with pytest.raises(InfeasibleError, match="none of 2 placements tried by zero_shot"):
        policy.search(tight, evaluations=2, seed=0)
    with pytest.raises(InfeasibleError, match="none of 2 placements tried by zero_shot"):
        policy.fine_tune(tight, evaluations=2, seed=0)
    with pytest.raises(InfeasibleError) as caught:
        policy.fine_tune(tight, evaluations=60, seed=0)
    assert caught.value.evaluations == 60


def test_what_does_not_fit_is_moved_until_it_does() -> None:
    """Where no placement of the first batch has the memory, those of the next ones are repaired."""
    weights = list_schedule_weights(np.random.default_rng(0), pretraining.HIDDEN)
    policy = PretrainedPolicy(weights, {"hidden": pretraining.HIDDEN})
    tight = make_toy(40, 4, seed=3, memory_bytes=1.9e7)
    with pytest.raises(InfeasibleError, match="none of 16 placements"):
        policy.search(tight, evaluations=16, seed=0)
    found = policy.search(tight, evaluations=48, seed=0)
    assert tight.evaluate(found.choices[None]).feasible.all()


def test_fine_tuning_is_a_search(saved: tuple[Path, list[Row]]) -> None:
    """Placing first, then training from the best; the budget is kept, and so is the best."""
    policy = PretrainedPolicy.load(saved[0])
    zero_shot = policy.search(TOY, evaluations=48, seed=1)
    told: list[int] = []
    found = policy.fine_tune(
        TOY, evaluations=100, seed=1, on_progress=lambda now: told.append(now.evaluations)
    )
    assert found.evaluations == 100 == len(found.best_so_far) == len(found.seconds_so_far)
    assert told[0] == 48
    assert told[-1] == 100
    assert np.array_equal(found.best_so_far[:48], zero_shot.best_so_far)
    assert (np.diff(found.seconds_so_far) >= 0).all()
    assert TOY.evaluate(found.choices[None]).step_time_seconds[0] == found.step_time_seconds
    assert found.step_time_seconds == found.best_so_far[-1]
    optimum = TOY.evaluate(all_choices(TOY)).step_time_seconds.min()
    assert found.step_time_seconds == optimum


def test_no_batch_is_begun_after_the_seconds(saved: tuple[Path, list[Row]]) -> None:
    """The first is always evaluated, and told of."""
    told: list[int] = []
    found = PretrainedPolicy.load(saved[0]).fine_tune(
        TOY,
        evaluations=100,
        seed=1,
        seconds=1e-6,
        on_progress=lambda now: told.append(now.evaluations),
    )
    assert found.method == "pretrained"
    assert found.evaluations == 16 == len(found.best_so_far)
    assert told == [16]


def test_a_start_is_tried_and_a_small_budget_is_kept(saved: tuple[Path, list[Row]]) -> None:
    policy = PretrainedPolicy.load(saved[0])
    times = TOY.evaluate(all_choices(TOY)).step_time_seconds
    start = all_choices(TOY)[times.argmin()]
    for evaluations in (2, 48, 60):
        found = policy.fine_tune(TOY, evaluations=evaluations, seed=0, start=start)
        assert found.evaluations == evaluations
        assert found.step_time_seconds == times.min()


def test_a_trainer_begins_with_the_policy(saved: tuple[Path, list[Row]], tmp_path: Path) -> None:
    """Its first batch is sampled from the policy, and it goes on where it was stopped."""
    policy = PretrainedPolicy.load(saved[0])
    trainer = policy.trainer(TOY, evaluations=40, seed=2)
    for name, weight in policy.weights.items():
        assert np.array_equal(trainer.state.weights[name], weight)
    trainer.step()
    trainer.save(tmp_path / "t.npz")
    again = Trainer.restore(tmp_path / "t.npz", TOY)
    assert np.array_equal(again.run().best_so_far, trainer.run().best_so_far)


def test_the_bundled_policy_places_a_graph_that_it_has_not_seen() -> None:
    """Its card does not have the graph, and the placement beats every single device."""
    policy = bundled()
    seen = {problem["graph"] for problem in policy.card["problems"]}
    assert seen == {"inception_v3", "rnnlm", "transformer"}
    assert policy.card["steps_taken"] == policy.card["steps"]
    problem = Problem.build(OpGraph.load("nmt"), Cluster.load("p100x4"))
    found = policy.search(problem, evaluations=16, seed=0)
    single = [np.full(problem.num_groups, device, np.int32) for device in range(5)]
    assert found.step_time_seconds < problem.evaluate(np.array(single)).step_time_seconds.min()


def test_the_card_beside_the_bundled_policy_is_its_own() -> None:
    """Who reads it there reads what the file of the policy says."""
    assert json.loads(BUNDLED.with_suffix(".card.json").read_text()) == bundled().card


def test_parts_go_where_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are balanced by what they take."""
    toy = make_toy(12, 3)
    rng = np.random.default_rng(0)
    seconds = np.tile([1e-3, 1e-3, 1.0], (toy.num_groups, 1))
    monkeypatch.setattr(pretrained, "group_seconds", lambda problem: seconds)
    parts = partitions(toy, (4, 8))
    choices = np.concatenate([pretrained._placed_by_parts(toy, parts, rng) for _ in range(10)])
    assert toy.allowed[np.arange(toy.num_groups), choices].all()
    whole = choices[pretrained._BATCH - 1 :: pretrained._BATCH]
    assert not whole.any()  # all of the graph is on the first of the two fast devices
    loads = np.array([np.bincount(row, minlength=3) for row in choices])
    fast = loads[(loads[:, :2] > 0).all(axis=1)]
    assert len(fast) > 20
    assert not fast[:, 2].any()  # in any of these, the slow device would be done last
    assert (np.abs(fast[:, 0] - fast[:, 1]) <= 3).all()  # by one part of four at most


@pytest.mark.parametrize("toy", [make_toy(6, 1), make_toy(1, 3)], ids=["one device", "one group"])
def test_little_to_choose(toy: Problem) -> None:
    """The bundled policy places it, and trains on."""
    best = toy.evaluate(all_choices(toy)).step_time_seconds.min()
    for place in (bundled().search, bundled().fine_tune):
        assert place(toy, evaluations=70, seed=0).step_time_seconds == best


def test_the_bundled_policy_is_a_strategy() -> None:
    """By its name; it is trained on."""
    found = resolve("strategy", "pretrained", STRATEGIES)(TOY, evaluations=70, seed=3)
    tuned = bundled().fine_tune(TOY, evaluations=70, seed=3)
    assert found.method == "pretrained"
    assert np.array_equal(found.best_so_far, tuned.best_so_far)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, facts: facts.update(kind="training"), "not of a pretrained policy"),
        (lambda arrays, facts: facts.update(features={}), "other features"),
        (lambda arrays, facts: facts["card"].update(hidden=-1), "hidden is -1"),
        (lambda arrays, facts: facts["card"].update(hidden=7), "expected float32"),
        (lambda arrays, facts: arrays.pop("weights/output"), "lacks weight 'output'"),
        (lambda arrays, facts: arrays.update({"weights/x": np.ones(1)}), "unknown weight 'x'"),
        (lambda arrays, facts: arrays["weights/pair_bias"].fill(np.nan), "not finite"),
    ],
)
def test_files_that_are_no_policy(
    saved: tuple[Path, list[Row]], tmp_path: Path, change, message: str
) -> None:
    arrays, facts = checkpoint.load(saved[0])
    change(arrays, facts)
    facts.pop("format")
    checkpoint.save(tmp_path / "bad.npz", arrays, facts)
    with pytest.raises(FormatError, match=message):
        PretrainedPolicy.load(tmp_path / "bad.npz")
