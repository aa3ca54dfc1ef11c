"""Rewards: literal values, and a failing reward that nothing feasible undercuts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs.rewards import GradedReward, SqrtReward, longest_step_seconds
from placer.errors import UsageError
from placer.placement import Evaluations
from placer.problem import Problem


def test_values() -> None:
    """-sqrt(step time / reference), and the constant for what is infeasible."""
    evaluations = Evaluations(
        np.array([4.0, np.inf, 1.0]), np.array([True, False, True]), (None, "no memory", None)
    )
    rewards = SqrtReward(reference_seconds=4.0, failing_reward=-3.0)(evaluations)
    assert rewards.tolist() == [-1.0, -3.0, -0.5]
    assert rewards.dtype == np.float64


def test_graded_values() -> None:
    """Lacking memory costs its share of the scale, and what is feasible nothing."""
    feasible, reasons = np.array([True, False, False]), (None, "no memory", "no memory")
    evaluations = Evaluations(
        np.array([4.0, np.inf, np.inf]), feasible, reasons, np.array([0.0, 50.0, 0.0])
    )
    reward = GradedReward(SqrtReward(reference_seconds=4.0, failing_reward=-3.0), 100.0)
    assert reward(evaluations).tolist() == [-1.0, -3.5, -3.0]
    unknown = Evaluations(evaluations.step_time_seconds, feasible, reasons)
    assert reward(unknown).tolist() == [-1.0, -3.0, -3.0]
    with pytest.raises(UsageError, match="scale_bytes is 0; expected a finite number > 0"):
        GradedReward(reward.base, 0)


@pytest.mark.parametrize(
    ("reference", "failing", "message"),
    [
        (0.0, -1.0, "reference_seconds is 0.0; expected a finite number > 0"),
        (float("nan"), -1.0, "reference_seconds is nan"),
        (1.0, 1.0, "failing_reward is 1.0; expected a finite number < 0"),
        (1.0, float("-inf"), "failing_reward is -inf"),
    ],
)
def test_impossible_figures(reference: float, failing: float, message: str) -> None:
    """A reference that cannot divide, or a failure that is worth something, is an error."""
    with pytest.raises(UsageError, match=message):
        SqrtReward(reference, failing)


@pytest.mark.parametrize("seed", range(30))
def test_failing_is_the_worst(seed: int, random_problem) -> None:
    """No feasible placement of a small problem is worth as little as an infeasible one."""
    problem = random_problem(seed)
    every = np.array(
        list(itertools.product(range(problem.num_devices), repeat=problem.num_groups)), np.int32
    )
    evaluations = problem.evaluate(every)
    reward = SqrtReward.for_problem(problem)
    feasible = reward(evaluations)[evaluations.feasible]
    assert (feasible > reward.failing_reward).all()
    assert (
        evaluations.step_time_seconds[evaluations.feasible] < longest_step_seconds(problem)
    ).all()


def test_longest_step(problem: Problem) -> None:
    """The bound is the slowest device for every op and every transfer that can be."""
    ops = 4 * 1e-3 + 1e-5 + 1e-9  # four layers and a sum on the CPU; the source lasts 1 ns
    # x to two devices; the four layers to one each; x's control edge to one
    transfers = 6 * (1e-6 + 100 / 1e10) + 1e-6
    # every event is rounded up by at most 1 ns
    assert longest_step_seconds(problem) == pytest.approx(ops + transfers, abs=20e-9)
