"""A walk from placement to placement; its moves tell what single decisions are worth.

:func:`search` is the walk alone, without a policy that samples and learns from it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.rewards import GradedReward, SqrtReward
from placer._draw import draw_choices
from placer.heuristics._figures import group_edges
from placer.placement import Evaluations
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.search.neighbours import Neighbours
from policies.config import MODERN
from policies.parts import partitions

_NEAR = 0.85  # weight of the devices of neighbours; the rest is that of all others alike
_NUM_PARTS = 2, 3, 4, 6, 8, 12, 16, 24, 32, 48  # of the graph
_TOGETHER = 0.7  # share of the moves of parts that leave op groups of other devices where they are
_FORGETTING = 1e-3  # part of all preferences that each move takes away
_MOST = 4.0  # of a preference of one device over another: e^4 times as often
_MOST_CREDIT = 3.0
_RECENT = 200  # losses whose median is the unit of credit
_SAMPLES = 50  # losses that tell the first temperature
_ACCEPTED = 1e-3  # chance at first of the median of these
_COLDEST = 1e-2  # the last temperature over the first


class Walk:
    """A placement, the moves that are tried from it, and which of them are made.

    A move sends an op group to another device, mostly to where its neighbours are, by their number
    and by the bytes that it exchanges with each. Most moves take along the part of the graph that
    it is in, as a whole stage may be better off elsewhere where none of its op groups alone is.
    Parts are those of ten partitions by METIS, from halves of the graph to pieces of a few op
    groups.

    Which move comes next is learned from all moves before, as by a gradient bandit (Sutton and
    Barto, *Reinforcement Learning*, 2nd edition, section 2.8): each op group has preferences for
    devices, and the credit of a move, what it gained in reward, is added to those that it follows.
    The reward of the placement that it starts from is the baseline: that of the counterfactual in
    which only these decisions differ (as COMA's; Foerster et al. 2018, section 4).

    What is worse is accepted by Metropolis's chance, as in :mod:`placer.search.annealing`. Where
    the walk is stuck, the trainer lets it begin anew at a sample of the policy.

    Args:
        problem: The problem.
        part_share: Share of the moves that take along the part of the graph.
        preference_rate: Of learning preferences.

    Attributes:
        neighbours: Moves of single op groups.
        choices: Where the walk is, ``[num_groups]``; None before it begins.
        reward: What that is worth.
        preferences: For each decision, ``[num_groups, num_devices]``.
    """

    def __init__(self, problem: Problem, part_share: float, preference_rate: float) -> None:
        self._problem, self._part_share, self._rate = problem, part_share, preference_rate
        self.neighbours = neighbours = Neighbours(problem)
        self.can_move = bool(neighbours.movable)
        self._allowed = problem.allowed
        sources, targets, num_bytes = group_edges(problem)
        edges, traffic = np.zeros((2, problem.num_groups, problem.num_groups))
        edges[sources, targets], traffic[sources, targets] = 1.0, num_bytes
        self._near = _NEAR * (_shares(edges) + _shares(traffic)) / 2
        num_others = np.maximum(problem.allowed.sum(axis=1, keepdims=True) - 1, 1)
        self._elsewhere = (1 - _NEAR) / num_others  # [num_groups, 1]
        self._one_hot = np.eye(problem.num_devices)
        # as many moves as there are of single op groups
        self._patience = sum(len(devices) - 1 for devices in neighbours.devices)
        self.choices: NDArray[np.int32] | None = None
        self.reward = -math.inf
        self.preferences = np.zeros(problem.allowed.shape)
        self._best_reward = -math.inf  # since it began
        self._idle_moves = 0  # tried since then
        self._first_losses: list[float] = []
        self._losses: list[float] = []

    @functools.cached_property
    def _partitions(self) -> list[NDArray[np.int32]]:
        """The part of each op group, ``[num_groups]`` each; not all trainers need them."""
        return partitions(self._problem, _NUM_PARTS)

    @property
    def is_stuck(self) -> bool:
        """Whether so many moves in a row found nothing better that it should begin elsewhere."""
        return self._idle_moves >= self._patience

    def begin(self, choices: NDArray[np.int32], reward: float) -> None:
        """Begins anew at choices, ``[num_groups]``."""
        self.choices, self.reward = choices.copy(), reward
        self._best_reward, self._idle_moves = reward, 0

    def propose(self, rng: np.random.Generator) -> NDArray[np.int32]:
        """Draws a move.

        Args:
            rng: All randomness comes from it.

        Returns:
            The choices after the move, ``[num_groups]``, which differ from those before.
        """
        assert self.choices is not None  # noqa: S101  (for the type checker)
        kind, together = rng.random(2)
        weights = self._weights().ravel()
        picked = int(rng.choice(len(weights), p=weights / weights.sum()))
        group, device = divmod(picked, self._allowed.shape[1])
        moved = self.choices.copy()
        moved[group] = device
        if kind < self._part_share:
            part_of_group = self._partitions[int(rng.integers(len(self._partitions)))]
            others = np.flatnonzero(part_of_group == part_of_group[group])
            if together < _TOGETHER:
                others = others[self.choices[others] == self.choices[group]]
            moved[others[self._allowed[others, device]]] = device
        return moved

    def take(
        self, moved: NDArray[np.int32], reward: float, spent: float, chance: float
    ) -> tuple[bool, float]:
        """Learns from a move that was tried, and makes it or does not.

        Args:
            moved: The choices after it, ``[num_groups]``.
            reward: What they are worth.
            spent: The part of the budget that is spent, from 0 to 1.
            chance: A random number in [0, 1).

        Returns:
            Whether the move was made, and the credit of each decision that it changed.
        """
        loss = self.reward - reward
        unit = float(np.median(self._losses)) if self._losses else abs(loss)
        credit = float(np.clip(-loss / unit, -_MOST_CREDIT, _MOST_CREDIT)) if unit else 0.0
        changed = np.flatnonzero(moved != self.choices)
        self.preferences *= 1 - _FORGETTING
        self.preferences[changed, moved[changed]] += self._rate * credit / len(changed)
        np.clip(self.preferences, -_MOST, _MOST, out=self.preferences)
        accepted = self._accepts(loss, spent, chance)
        if loss > 0:
            self._losses = [*self._losses[1 - _RECENT :], loss]
        self._idle_moves += 1
        if accepted:
            self.choices, self.reward = moved.copy(), reward
            if reward > self._best_reward:
                self._best_reward, self._idle_moves = reward, 0
        return accepted, credit

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that changes, by name."""
        if self.choices is None:
            return {}
        return {
            "walk_choices": self.choices,
            "walk_rewards": np.array([self.reward, self._best_reward]),
            "walk_preferences": self.preferences,
            "walk_idle_moves": np.array(self._idle_moves),
            "walk_first_losses": np.array(self._first_losses),
            "walk_losses": np.array(self._losses),
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of :meth:`to_arrays`; other arrays are ignored."""
        if "walk_choices" in arrays:
            self.choices = arrays["walk_choices"]
            self.reward, self._best_reward = arrays["walk_rewards"].tolist()
            self.preferences = arrays["walk_preferences"]
            self._idle_moves = int(arrays["walk_idle_moves"])
            self._first_losses = arrays["walk_first_losses"].tolist()
            self._losses = arrays["walk_losses"].tolist()

    def _weights(self) -> NDArray[np.float64]:
        """How often to send each op group to each device, ``[num_groups, num_devices]``."""
        assert self.choices is not None  # noqa: S101
        rows = np.arange(len(self.choices))
        weights: NDArray[np.float64] = self._near @ self._one_hot[self.choices]
        weights += self._elsewhere
        over_here = self.preferences - self.preferences[rows, self.choices][:, None]
        weights *= np.exp(np.clip(over_here, -_MOST, _MOST)) * self._allowed
        weights[rows, self.choices] = 0.0
        return weights

    def _accepts(self, loss: float, spent: float, chance: float) -> bool:
        """Metropolis's chance; the first losses tell the temperature."""
        if loss <= 0:
            return True
        if len(self._first_losses) < _SAMPLES:
            self._first_losses.append(loss)
            return False
        hottest = float(np.median(self._first_losses)) / -math.log(_ACCEPTED)
        return chance < math.exp(-loss / (hottest * _COLDEST**spent))


def _shares(sent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of what each op group sends and gets, the share of each other one.

    Args:
        sent: From each op group to each, ``[num_groups, num_groups]``.

    Returns:
        ``[num_groups, num_groups]``; rows sum to 1, or to 0 where a group exchanges nothing.
    """
    exchanged = sent + sent.T
    totals = exchanged.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = exchanged / np.where(totals > 0, totals, 1.0)
    return shares


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Walks from `start`, or from a random placement; where it is stuck, begins near the best.

    This is simulated annealing that also moves parts of the graph, and that learns which moves to
    try: most of what :data:`policies.config.MODERN` does, without the network. It begins anew as
    :mod:`placer.search.hill_climbing` does.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "walk",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    here = draw_choices(problem, rng, 1)[0] if start is None else problem.check_start(start)
    walk = Walk(problem, MODERN.part_share, MODERN.preference_rate)
    reward = GradedReward.for_problem(problem, SqrtReward.for_problem(problem).failing_reward)
    while ledger.left:
        costs = ledger.evaluate(here[None])  # none where it has just got late
        if not (len(costs) and walk.can_move):
            break
        walk.begin(here, _worth(reward, costs))
        while len(costs) and not walk.is_stuck:
            moved, spent = walk.propose(rng), float(ledger.spent(1)[0])
            costs = ledger.evaluate(moved[None])
            if len(costs):
                walk.take(moved, _worth(reward, costs), spent, rng.random())
        assert walk.choices is not None  # noqa: S101  (for the type checker)
        here = walk.neighbours.near(
            rng, walk.choices if ledger.best_choices is None else ledger.best_choices
        )
    return ledger.result()


def _worth(reward: GradedReward, costs: NDArray[np.float64]) -> float:
    """What a placement is worth whose cost, ``[1]``, is as :meth:`Ledger.evaluate` has it."""
    feasible = costs < INFEASIBLE_COST
    excess = np.where(feasible, 0.0, costs - INFEASIBLE_COST)
    return float(reward(Evaluations(costs, feasible, (None,), excess))[0])
