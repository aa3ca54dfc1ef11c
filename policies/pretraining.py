"""Trains one graph policy on many problems, so that it can place graphs that it has never seen.

:meth:`Pretrainer.step` is the algorithm: take a problem, sample a batch from the policy, evaluate
it, improve the best of the batch by hill climbing, and step along the policy gradient towards what
was better than the batch's mean and towards the improved placement. The last is expert iteration
(Anthony, Tian and Barber, NeurIPS 2017, arXiv 1705.08439): the searcher starts from what the policy
does, so that what it finds is near enough to be learned, and better.

A step is a pure function of the seed, its number and the state of learning: a checkpoint holds no
more than these.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from envs.rewards import GradedReward, SqrtReward
from placer.errors import FormatError, InfeasibleError, UsageError
from placer.heuristics import evaluate_heuristics
from placer.problem import Problem
from placer.search import hill_climbing
from policies import checkpoint, graph_network, learner, losses
from policies.generating import generate_problem
from policies.graph_inputs import GraphInputs, graph_inputs, rounded
from policies.learner import Hyperparameters, LearnerState
from policies.networks import load_network
from policies.pretrained import (
    FEATURES,
    KIND,
    NETWORK,
    ZERO_SHOT_EVALUATIONS,
    PretrainedPolicy,
)

HIDDEN = 32
BATCH_SIZE = 16
LEARNING_RATES = 1e-3, 1e-4
"""At first and at the end; it falls linearly."""
GRADIENT_CLIP = 1.0
ENTROPY_COEF = 0.01
IMITATION = 1.0
"""Weight of the improved placement, where the samples' advantages are over their number."""
CLIMB_EVALUATIONS = 400
"""What hill climbing may spend on the best of a batch."""
NUM_BLOCKS = 24, 128
"""The least and the most op groups of a generated problem."""
NUM_HELD_OUT = 24

_NETWORK = load_network(NETWORK)
_SLOTS, _VISITS = 16, 4  # so many problems are visited in turn, so often, before others come
_GENERATED, _SAMPLED, _HELD_OUT = range(3)  # streams of a seed


@dataclass(frozen=True)
class Row:
    """What a step of pretraining did.

    Attributes:
        step: Steps so far.
        evaluations: Placements evaluated so far, those of hill climbing included.
        graph: Name of the problem's graph.
        mean_gap: Mean step time of the feasible samples over that of the improved placement, less
            1; nan if nothing was feasible.
        entropy_bonus: Mean entropy of a decision, in nats; groups that pad the problem count as
            certain.
        gradient_norm: Before clipping.
    """

    step: int
    evaluations: int
    graph: str
    mean_gap: float
    entropy_bonus: float
    gradient_norm: float


@dataclass(frozen=True, eq=False)
class _Task:
    """A problem as a step needs it."""

    problem: Problem
    inputs: GraphInputs  # padded
    reward: GradedReward

    @classmethod
    def of(cls, problem: Problem) -> _Task:
        nothing = np.zeros((problem.num_groups, problem.num_devices), np.float32)
        failing_reward = SqrtReward.for_problem(problem).failing_reward
        return cls(
            problem,
            rounded(graph_inputs(problem, nothing)),
            GradedReward.for_problem(problem, failing_reward),
        )


class Pretrainer:
    """Trains a policy on generated problems and, in turn with them, on given ones.

    Args:
        steps: How many steps to take in all.
        seed: All randomness comes from it.
        problems: Problems to train on besides the generated ones, every other step.

    Raises:
        UsageError: Steps that are no whole number above 0, or a seed that is none from 0 on.
    """

    def __init__(self, *, steps: int, seed: int, problems: Sequence[Problem] = ()) -> None:
        for name, value, least in (("steps", steps, 1), ("seed", seed, 0)):
            if not isinstance(value, int | np.integer) or value < least:
                raise UsageError(f"{name} is {value!r}; expected a whole number >= {least}")
        self.num_steps, self.seed = steps, seed
        self.given = [_Task.of(problem) for problem in problems]
        self.problems = tuple(problems)
        self.step_count = 0
        self.evaluations = 0
        self._round: tuple[int, dict[int, _Task]] = (-1, {})
        self.state = LearnerState.fresh(
            graph_network.list_schedule_weights(np.random.default_rng(seed), HIDDEN)
        )

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.step_count == self.num_steps

    def step(self) -> Row:
        """Takes a problem, samples a batch, evaluates it, improves its best, takes the step.

        Raises:
            UsageError: All steps are taken.
        """
        if self.done:
            raise UsageError(f"all {self.num_steps} steps are taken")
        task, rng = self._task(), self._rng(_SAMPLED, self.step_count)
        problem = task.problem

        # sample a batch
        num_groups, num_devices = task.inputs.allowed.shape
        noise = rng.gumbel(size=(num_groups, BATCH_SIZE, num_devices)).astype(np.float32)
        samples = learner.sample(_NETWORK, self.state.weights, task.inputs, noise)
        padded_choices = np.array(samples.choices)  # [BATCH_SIZE, num_groups]
        choices = padded_choices[:, : problem.num_groups]

        # evaluate it
        found = problem.evaluate(choices)
        rewards = task.reward(found)
        feasible = found.feasible & np.isfinite(found.step_time_seconds)
        self.evaluations += BATCH_SIZE

        # improve its best
        improved, seconds = padded_choices[rewards.argmax()].copy(), np.inf
        try:
            climbed = hill_climbing.search(
                problem,
                evaluations=CLIMB_EVALUATIONS,
                seed=int(rng.integers(2**31)),
                start=improved[: problem.num_groups],
            )
        except InfeasibleError:  # nothing to learn from but the rewards
            self.evaluations += CLIMB_EVALUATIONS
        else:
            self.evaluations += climbed.evaluations
            improved[: problem.num_groups] = climbed.choices
            seconds = climbed.step_time_seconds

        # take the step
        coefficients = np.zeros((BATCH_SIZE + 1, num_groups))
        advantages = losses.normalised_advantages(rewards, feasible)
        imitation = IMITATION if np.isfinite(seconds) else 0.0
        # less what the samples themselves would give, which is nothing on average
        coefficients[:BATCH_SIZE] = (advantages[:, None] - imitation) / BATCH_SIZE
        coefficients[BATCH_SIZE] = imitation
        self.state, update = learner.update(
            _NETWORK,
            self.state,
            task.inputs,
            np.concatenate([padded_choices, improved[None]]),
            coefficients,
            BATCH_SIZE,
            Hyperparameters(self._learning_rate(), 1.0, GRADIENT_CLIP, ENTROPY_COEF),
        )
        self.step_count += 1
        gaps = found.step_time_seconds[feasible] / seconds - 1
        return Row(
            step=self.step_count,
            evaluations=self.evaluations,
            graph=problem.graph.name,
            mean_gap=float(gaps.mean()) if len(gaps) else np.nan,
            entropy_bonus=float(update.entropy_bonus),
            gradient_norm=float(update.gradient_norm),
        )

    def policy(self, held_out: dict[str, float] | None = None) -> PretrainedPolicy:
        """The policy as it stands.

        Args:
            held_out: Figures of :func:`evaluate_held_out` for its card.
        """
        weights = {name: np.asarray(weight) for name, weight in self.state.weights.items()}
        return PretrainedPolicy(weights, self._card() | {"held_out": held_out})

    def save(self, path: str | os.PathLike[str], held_out: dict[str, float] | None = None) -> None:
        """Writes a checkpoint, ``.npz``, to place with and, before the last step, to go on from.

        Args:
            path: The file.
            held_out: Figures of :func:`evaluate_held_out` for its card.

        Raises:
            PlacerError: The file cannot be written.
        """
        policy = self.policy(held_out)
        if self.done:
            policy.save(path)
            return
        facts = {"kind": KIND, "features": FEATURES, "card": policy.card}
        checkpoint.save(path, self.state.to_arrays(), facts)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Goes on where the pretrainer stood that wrote a checkpoint.

        Raises:
            FormatError: As :meth:`PretrainedPolicy.load`, or of other steps, seed or problems.
        """
        policy = PretrainedPolicy.load(path)
        arrays, _ = checkpoint.load(path)
        own = self._card()
        for key in ("steps", "seed", "hidden", "problems"):
            if policy.card.get(key) != own[key]:
                raise FormatError(
                    f"{path}: made with {key} {policy.card.get(key)!r}; asked for {own[key]!r}"
                )
        try:
            step_count = int(policy.card["steps_taken"])
            evaluations = int(policy.card["evaluations"])
            state = (
                LearnerState.fresh(policy.weights)
                if step_count == self.num_steps
                else LearnerState.from_arrays(arrays)
            )
            state.check_shapes(graph_network.weight_shapes(HIDDEN))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: not a whole checkpoint ({error!r})") from None
        self.step_count, self.evaluations, self.state = step_count, evaluations, state

    def _task(self) -> _Task:
        """The problem of the next step."""
        number, visit = divmod(self.step_count, _SLOTS * _VISITS)
        slot = visit % _SLOTS
        if self.given and slot % 2:
            return self.given[(number * _SLOTS + slot) // 2 % len(self.given)]
        if self._round[0] != number:
            self._round = number, {}
        tasks = self._round[1]
        if slot not in tasks:
            rng = self._rng(_GENERATED, number, slot)
            tasks[slot] = _Task.of(_generated(rng))
        return tasks[slot]

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _learning_rate(self) -> float:
        first, last = LEARNING_RATES
        return first + (last - first) * self.step_count / self.num_steps

    def _card(self) -> dict[str, Any]:
        return {
            "steps": self.num_steps,
            "steps_taken": self.step_count,
            "evaluations": self.evaluations,
            "seed": self.seed,
            "hidden": HIDDEN,
            "generated_op_groups": list(NUM_BLOCKS),
            "problems": [
                {
                    "graph": problem.graph.name,
                    "graph_fingerprint": problem.graph.fingerprint,
                    "cluster": problem.cluster.name,
                    "cluster_fingerprint": problem.cluster.fingerprint,
                    "order": problem.order,
                    "op_groups": problem.num_groups,
                }
                for problem in self.problems
            ],
            "versions": {
                name: metadata.version(name) for name in ("placer-rl", "numpy", "tensorflow")
            },
        }


def _generated(rng: np.random.Generator) -> Problem:
    low, high = NUM_BLOCKS
    return generate_problem(rng, int(rng.integers(low, high + 1)))


def evaluate_held_out(
    policy: PretrainedPolicy, evaluations: int = ZERO_SHOT_EVALUATIONS
) -> dict[str, float]:
    """How good a policy is on generated problems on which none is trained.

    Args:
        policy: The policy.
        evaluations: How many placements it may try on each.

    Returns:
        Geometric means over the problems: step time of the likeliest placement, and of the best of
        all that were tried, over that of the best heuristic; and where each was infeasible.
    """
    ratios = np.full((NUM_HELD_OUT, 2), np.inf)
    for nth in range(NUM_HELD_OUT):
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(_HELD_OUT, nth)))
        problem = _generated(rng)
        best = min(row.step_time_seconds for row in evaluate_heuristics(problem, rng))
        try:
            found = policy.search(problem, evaluations=evaluations, seed=0).best_so_far
        except InfeasibleError:
            continue
        ratios[nth] = found[[0, -1]] / best
    fits = np.isfinite(ratios)
    means = [float(np.exp(np.log(ratios[:, i][fits[:, i]]).mean())) for i in range(2)]
    return {
        "problems": NUM_HELD_OUT,
        "evaluations": evaluations,
        "likeliest_over_best_heuristic": means[0],
        "best_over_best_heuristic": means[1],
        "likeliest_infeasible": int((~fits[:, 0]).sum()),
        "best_infeasible": int((~fits[:, 1]).sum()),
    }
