"""REINFORCE for a grouper and a placer: *A Hierarchical Model for Device Placement* on one page.

Mirhoseini, Goldie, Pham, Steiner, Le and Dean (ICLR 2018), section 3. :func:`search` draws
groupings, and a placement of each, evaluates them and trains both networks on the same step times.

From nothing, both levels uniform, the placer settles on one device before the grouper has learned
anything, and from then on no grouping matters. Two things prevent that. The grouper begins near a
partition by METIS, so that what the placer decides has an effect from the first batch on; and the
best rows so far join every batch, so that groupings that went well with a placement stay with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.rewards import GradedReward, SqrtReward
from placer.errors import UsageError
from placer.heuristics._figures import group_seconds
from placer.placement import Evaluations
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import INFEASIBLE_COST, Ledger
from policies import hierarchical_network as network
from policies import learner, losses
from policies.elites import Elites
from policies.learner import Hyperparameters, LearnerState
from policies.parts import partitions
from policies.prior import prior_logits

_GROUP_BIAS_RATE = 10.0
_GRADIENT_CLIP = 1.0
_FAILING_REWARD = -10.0


@dataclass(frozen=True)
class HierarchicalConfig:
    """Settings of :func:`search`; those named alike are as :class:`policies.config.TrainingConfig`.

    Attributes:
        num_supergroups: How many supergroups there may be without a start. With one there are more,
            as none begins on two devices.
        hidden: Units of the grouper's layer, and of each LSTM and embedding of the placer.
        batch_size: Placements evaluated per step, each of a grouping of its own.
        learning_rate: Of Adam.
        prior_deviations: In so many op groups a first sample's grouping deviates from the partition
            by METIS, on average. 0: it is uniform.
        num_elites: So many of the best rows so far join every batch.
        entropy_coef: Weight of the entropy bonus at first; falls linearly to 0.
    """

    num_supergroups: int = 8
    hidden: int = 64
    batch_size: int = 16
    learning_rate: float = 1e-2
    prior_deviations: float = 4.0
    num_elites: int = 4
    entropy_coef: float = 0.01

    def __post_init__(self) -> None:
        for name in ("num_supergroups", "hidden", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected more than 0")
        for name in ("prior_deviations", "num_elites", "entropy_coef"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected at least 0")


HIERARCHICAL = HierarchicalConfig()


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    config: HierarchicalConfig = HIERARCHICAL,
) -> SearchResult:
    """Searches by training the two-level policy; a :class:`placer.problem.Search`.

    A `start` is the first row that is evaluated and the first that is imitated. The placer begins
    uniform all the same: a start on one device must not keep it there.

    Args:
        problem: The problem.
        evaluations: The budget; `start` is evaluated within it.
        seed: All randomness comes from it.
        seconds: Where given, no batch is begun after so many seconds.
        start: Choices to start from, ``[num_groups]``.
        on_progress: Called after 64 evaluations or more.
        config: How to train.

    Raises:
        UsageError: A budget or seed outside its range, or a start that may not be.
        InfeasibleError: No feasible placement was found.
    """
    ledger = Ledger(
        "hierarchical",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    first, prior = _beginning(problem, start, config)
    inputs = network.make_inputs(problem, prior)
    weights_rng, rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
    state = LearnerState.fresh(network.init_weights(weights_rng, inputs, config.hidden))
    # no feasible placement may be worth less than one that is not
    failing_reward = min(_FAILING_REWARD, SqrtReward.for_problem(problem).failing_reward)
    reward = GradedReward.for_problem(problem, failing_reward)
    fallback = fastest_devices(problem)
    elites = Elites(max(config.num_elites, 1), len(prior))
    while True:
        # sample groupings, and a placement of each
        noise = rng.gumbel(size=(len(prior), config.batch_size, prior.shape[1]))
        sampled = learner.sample(network, state.weights, inputs, noise.astype(np.float32))
        rows = np.array(sampled.choices)  # [batch_size, num_groups + num_supergroups]
        if start is not None and not ledger.count:
            rows[0] = first

        # evaluate them, as far as the budget goes; the last batch has no one to teach
        costs = ledger.evaluate(expand(rows, problem.allowed, fallback))
        if not ledger.left:
            return ledger.result()
        feasible = costs < INFEASIBLE_COST
        times = np.where(feasible, costs, np.inf)
        lacking = np.where(feasible, 0.0, costs - INFEASIBLE_COST)
        rewards = reward(Evaluations(times, feasible, (None,) * len(costs), lacking))
        elites.add(rows, rewards, times)

        # take the step, on the very rows that were evaluated and on the best so far
        advantages = losses.normalised_advantages(rewards, feasible)
        choices = np.zeros((len(rows) + config.num_elites, len(prior)), np.int32)
        coefficients = np.zeros(choices.shape)
        choices[: len(rows)] = rows
        coefficients[: len(rows)] = advantages[:, None] / len(rows)
        if config.num_elites and len(elites):
            imitated = slice(len(rows), len(rows) + len(elites))
            choices[imitated], coefficients[imitated] = elites.choices, 1 / len(elites)
        hyperparameters = Hyperparameters(
            config.learning_rate,
            _GROUP_BIAS_RATE,
            _GRADIENT_CLIP,
            (1 - ledger.count / evaluations) * config.entropy_coef,
        )
        state, _ = learner.update(
            network, state, inputs, choices, coefficients, len(rows), hyperparameters
        )


def expand(
    rows: NDArray[np.int32], allowed: NDArray[np.bool_], fallback: NDArray[np.int32]
) -> NDArray[np.int32]:
    """The choices that rows stand for, ``[batch, num_groups]``.

    An op group goes where its supergroup goes or, where it may not, to its fallback.

    Args:
        rows: Supergroup per op group, then device per supergroup,
            ``[batch, num_groups + num_supergroups]``.
        allowed: Where each op group may go, ``[num_groups, num_devices]``.
        fallback: Device per op group, ``[num_groups]``.
    """
    num_groups = len(fallback)
    devices = np.take_along_axis(rows[:, num_groups:], rows[:, :num_groups], axis=1)
    may_go = allowed[np.arange(num_groups), devices]
    choices: NDArray[np.int32] = np.where(may_go, devices, fallback).astype(np.int32)
    return choices


def fastest_devices(problem: Problem) -> NDArray[np.int32]:
    """Of the devices allowed, the one where each op group takes least time, ``[num_groups]``."""
    seconds = np.where(problem.allowed, group_seconds(problem), np.inf)
    fastest: NDArray[np.int32] = seconds.argmin(axis=1).astype(np.int32)
    return fastest


def _beginning(
    problem: Problem, start: NDArray[np.int32] | None, config: HierarchicalConfig
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The row that the policy begins near, and its prior logits.

    The grouping is METIS' partition into parts of as many op groups, few bytes between them. With
    a start, each part is split by device, so that the row stands for the start.

    Returns:
        ``[num_groups + num_supergroups]``, and as in
        :class:`policies.hierarchical_network.HierarchyInputs`.
    """
    num_groups, num_devices = problem.num_groups, problem.num_devices
    (parts,) = partitions(problem, (config.num_supergroups,))
    devices = np.zeros(num_groups, np.int32) if start is None else problem.check_start(start)
    _, members, labels = np.unique(
        parts * num_devices + devices, return_index=True, return_inverse=True
    )
    order = np.argsort(members)  # supergroups are numbered by their first op group
    grouping = np.argsort(order)[labels].astype(np.int32)
    num_supergroups = len(order)
    anywhere = np.ones((num_groups, num_supergroups), bool)
    logits = prior_logits(anywhere, grouping, config.prior_deviations)
    prior = np.zeros((num_groups + num_supergroups, max(num_supergroups, num_devices)), np.float32)
    prior[:num_groups, :num_supergroups] = logits
    return np.concatenate([grouping, devices[members[order]]]), prior
