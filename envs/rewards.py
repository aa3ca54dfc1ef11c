"""Rewards: what an evaluation is worth to an agent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from placer.errors import UsageError
from placer.placement import Evaluations
from placer.problem import Problem


class Reward(Protocol):
    """Anything that can tell what evaluations are worth."""

    def __call__(self, evaluations: Evaluations) -> NDArray[np.float64]:
        """Finite rewards, ``[batch]``."""
        ...


@dataclass(frozen=True)
class SqrtReward:
    """``-sqrt(step_time / reference)``, and a constant for what is infeasible.

    The square root is that of Mirhoseini, Pham et al. (ICML 2017, section 3.1), as is a constant
    for placements that fail; the reference makes rewards of graphs of any size alike.

    Attributes:
        reference_seconds: The step time that is worth -1.
        failing_reward: What an infeasible placement is worth.

    Raises:
        UsageError: A reference not above 0, or a failing reward that is not a finite number
            below 0.
    """

    reference_seconds: float
    failing_reward: float

    def __post_init__(self) -> None:
        if not 0 < self.reference_seconds < math.inf:
            raise UsageError(
                f"reference_seconds is {self.reference_seconds}; expected a finite number > 0"
            )
        if not -math.inf < self.failing_reward < 0:
            raise UsageError(
                f"failing_reward is {self.failing_reward}; expected a finite number < 0"
            )

    @classmethod
    def for_problem(cls, problem: Problem) -> SqrtReward:
        """The default: the problem's reference, and a failing reward that no placement undercuts.

        It is the reward of :func:`longest_step_seconds`, so that under simulation even the worst
        feasible placement is worth more than an infeasible one.
        """
        reference = problem.reference_seconds
        return cls(reference, -math.sqrt(longest_step_seconds(problem) / reference))

    def __call__(self, evaluations: Evaluations) -> NDArray[np.float64]:
        """Rewards of a batch, ``[batch]``."""
        feasible = evaluations.feasible
        seconds = np.where(feasible, evaluations.step_time_seconds, 0.0)
        return np.where(feasible, -np.sqrt(seconds / self.reference_seconds), self.failing_reward)


@dataclass(frozen=True)
class GradedReward:
    """:class:`SqrtReward`, less what an infeasible placement lacks in memory.

    Where no sample fits, a constant teaches nothing; this says which of them is nearer to fitting.

    Attributes:
        base: The reward to start from.
        scale_bytes: So much lacking memory costs 1.

    Raises:
        UsageError: A scale not above 0.
    """

    base: SqrtReward
    scale_bytes: float

    def __post_init__(self) -> None:
        if not 0 < self.scale_bytes < math.inf:
            raise UsageError(f"scale_bytes is {self.scale_bytes}; expected a finite number > 0")

    @classmethod
    def for_problem(cls, problem: Problem, failing_reward: float) -> GradedReward:
        """The scale is all that there is to hold: variables and tensors."""
        held = problem.graph.parameter_bytes.sum() + problem.graph.tensor_bytes.sum()
        base = SqrtReward(problem.reference_seconds, failing_reward)
        return cls(base, max(float(held), 1.0))

    def __call__(self, evaluations: Evaluations) -> NDArray[np.float64]:
        """Rewards of a batch, ``[batch]``."""
        rewards = self.base(evaluations)
        if evaluations.excess_bytes is None:
            return rewards
        lacking = np.where(evaluations.feasible, 0.0, evaluations.excess_bytes)
        return rewards - lacking / self.scale_bytes


def longest_step_seconds(problem: Problem) -> float:
    """A step time that no simulated placement exceeds.

    A simulated cluster is never idle: until the end some op runs or some transfer is under way. So
    no step takes longer than all ops one after another, each on its slowest device, and all
    transfers one after another, each to as many devices as it can have and over the slowest link.
    """
    cluster, graph = problem.cluster, problem.graph
    rounding = 1e-9  # durations are rounded to nanoseconds and last at least one
    ops = np.maximum(problem.op_seconds.max(axis=1), rounding) + rounding
    others = cluster.num_devices - 1
    if not others:
        return float(ops.sum())
    producers, consumers, tensors = graph.edges
    # a producer's control edges are sent as one more tensor, of no bytes
    keys = np.where(tensors >= 0, tensors, graph.num_tensors + producers)
    sent, _ = np.unique(np.column_stack([keys, consumers]), axis=0).T
    num_transfers = np.minimum(np.bincount(sent, minlength=graph.num_tensors), others)
    sizes = np.zeros(len(num_transfers))
    sizes[: graph.num_tensors] = graph.tensor_bytes
    apart = ~np.eye(cluster.num_devices, dtype=bool)
    transfers = cluster.latency_seconds[apart].max() + sizes / cluster.bandwidth[apart].min()
    return float(ops.sum() + (num_transfers * (np.maximum(transfers, rounding) + rounding)).sum())
