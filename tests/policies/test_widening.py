"""A policy that has made up its mind tries other choices again, and forgets nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from placer.errors import FormatError, UsageError
from placer.placement import Evaluations
from placer.problem import Problem
from policies import learner
from policies import lstm_network as network
from policies.config import MODERN
from policies.networks import score
from policies.reinforce import Trainer
from policies.widening import widen
from tests.experiments.builders import cluster, graph

SMALL = dataclasses.replace(MODERN, hidden=8, batch_size=8, num_elites=4)
PROBLEM = Problem.build(graph(), cluster())


class Slower:
    """The simulator's step times, twice as long: another evaluator of the same placements."""

    def evaluate(self, placements: np.ndarray) -> Evaluations:
        found = PROBLEM.evaluator.evaluate(placements)
        return dataclasses.replace(found, step_time_seconds=2 * found.step_time_seconds)


def taught(evaluations: int = 160) -> Trainer:
    trainer = Trainer(
        PROBLEM,
        SMALL,
        evaluations=evaluations,
        seed=0,
        start=np.ones(PROBLEM.num_groups, np.int32),
    )
    trainer.run()
    return trainer


def sampled(trainer: Trainer, weights, noise: np.ndarray) -> np.ndarray:
    return np.array(learner.sample(network, weights, trainer.inputs, noise).choices)


def test_as_many_deviations_as_asked_for() -> None:
    """From the likeliest choices, which stay the likeliest."""
    trainer = taught()
    weights = {name: np.array(w) for name, w in trainer.state.weights.items()}
    weights["group_bias"][:, 1] += 20  # as sure as can be
    shape = PROBLEM.num_groups, 400, PROBLEM.num_devices
    noise = np.random.default_rng(5).gumbel(size=shape).astype(np.float32)
    silence = np.zeros(shape, np.float32)
    likeliest = sampled(trainer, weights, silence)
    assert (sampled(trainer, weights, noise) == likeliest).all()
    for wanted in (1.0, 3.0):
        wide = widen(network, weights, trainer.inputs, wanted, np.random.default_rng(0))
        assert (sampled(trainer, wide, silence) == likeliest).all()
        found = (sampled(trainer, wide, noise) != likeliest).sum(axis=1).mean()
        assert found == pytest.approx(wanted, rel=0.25)
    again = widen(network, wide, trainer.inputs, 1.0, np.random.default_rng(0))
    for name, weight in wide.items():
        np.testing.assert_array_equal(again[name], weight)


def test_logits_are_divided() -> None:
    """All of them, prior included: log-probabilities under a temperature, worked out by hand."""
    trainer = taught(40)
    weights = trainer.state.weights
    wide = widen(network, weights, trainer.inputs, 5.5, np.random.default_rng(0))
    factor = np.asarray(wide["output"])[0, 0] / np.asarray(weights["output"])[0, 0]
    assert 0 < factor < 1
    before = trainer.inputs.prior_logits + np.asarray(weights["group_bias"])
    after = trainer.inputs.prior_logits + wide["group_bias"]
    np.testing.assert_allclose(after, factor * before, rtol=1e-4, atol=1e-5)
    assert score(network, wide, trainer.inputs, np.ones((1, PROBLEM.num_groups), np.int32))


def test_a_policy_without_biases_gets_what_goes_of_the_prior() -> None:
    """As if it had one of zero for each op group."""
    trainer = taught(40)
    weights = {name: np.asarray(weight) for name, weight in trainer.state.weights.items()}
    zero = {**weights, "group_bias": np.zeros_like(weights["group_bias"])}
    without = {name: weight for name, weight in weights.items() if name != "group_bias"}
    wide, same = (
        widen(network, given, trainer.inputs, 5.5, np.random.default_rng(0))
        for given in (zero, without)
    )
    for name, weight in wide.items():
        np.testing.assert_array_equal(same[name], weight)


def test_learning_goes_on_with_another_evaluator(tmp_path) -> None:
    """First the best choices, then samples of the wider policy; it stops and goes on the same."""
    teacher = taught()
    teacher.save(tmp_path / "teacher.npz")
    best = teacher.result().choices
    problem = dataclasses.replace(PROBLEM, evaluator=Slower())

    def begin() -> Trainer:
        return Trainer.with_policy_of(
            tmp_path / "teacher.npz", problem, evaluations=48, seed=3, first=best
        )

    whole = begin()
    first = whole.step()
    assert first.best_step_time_seconds <= 2 * teacher.result().step_time_seconds
    assert first.num_distinct > 2, "it looks around"
    whole.run()
    stopped = begin()
    stopped.save(tmp_path / "early.npz")
    stopped = Trainer.restore(tmp_path / "early.npz", problem)
    stopped.step()
    stopped.save(tmp_path / "later.npz")
    again = Trainer.restore(tmp_path / "later.npz", problem).run()
    np.testing.assert_array_equal(again.best_so_far, whole.result().best_so_far)
    assert again.best_so_far[0] == 2 * teacher.result().step_time_seconds


def test_what_cannot_be_gone_on_from(tmp_path) -> None:
    taught(16).save(tmp_path / "t.npz")
    begin = {"evaluations": 8, "seed": 0}
    with pytest.raises(UsageError, match="choices have shape"):
        Trainer.with_policy_of(tmp_path / "t.npz", PROBLEM, **begin, first=np.zeros(1, np.int32))
    other = Problem.build(graph(), cluster(), num_groups=3)
    with pytest.raises(FormatError, match="made for"):
        Trainer.with_policy_of(tmp_path / "t.npz", other, **begin, first=np.zeros(3, np.int32))
