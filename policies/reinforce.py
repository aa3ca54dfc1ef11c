"""REINFORCE over placements: Mirhoseini et al. (2017, arXiv 1706.04972), section 3, on one page.

:meth:`Trainer.step` is the algorithm and reads from top to bottom.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import VectorPlacementEnv
from envs.rewards import GradedReward, Reward, SqrtReward
from placer.errors import FormatError, InfeasibleError, UsageError
from placer.problem import Problem, Progress, SearchResult, check_budget
from policies import checkpoint, learner, losses, metrics
from policies.config import COLOCRL, MODERN, PPO, TrainingConfig
from policies.elites import Elites
from policies.learner import Hyperparameters, LearnerState
from policies.metrics import Batch, Metrics
from policies.networks import load_network
from policies.prior import prior_logits
from policies.walk import Walk
from policies.widening import widen


@dataclasses.dataclass
class _Moves:
    """Moves that were tried.

    Attributes:
        choices: The choices after each, ``[num_moves, num_groups]``.
        rewards: What these are worth, ``[num_moves]``.
        seconds: Their step times, infinite where infeasible, ``[num_moves]``.
        credits: What each decision that it changed is worth, ``[num_moves, num_groups]``.
        num_made: How many were made.
    """

    choices: NDArray[np.int32]
    rewards: NDArray[np.float64]
    seconds: NDArray[np.float64]
    credits: NDArray[np.float64]
    num_made: int = 0

    @classmethod
    def room_for(cls, num_moves: int, num_groups: int) -> _Moves:
        """So many, none of them tried yet."""
        shape = num_moves, num_groups
        rewards, seconds = np.zeros(num_moves), np.full(num_moves, np.inf)
        return cls(np.zeros(shape, np.int32), rewards, seconds, np.zeros(shape))


class _Rows:
    """Rows to learn from; those that are not filled have no weight."""

    def __init__(self, num_rows: int, num_groups: int) -> None:
        self.choices = np.zeros((num_rows, num_groups), np.int32)
        self.coefficients = np.zeros((num_rows, num_groups))
        self._filled = 0

    def add(self, choices: NDArray[np.int32], coefficients: NDArray[np.float64]) -> None:
        """Adds rows: choices ``[rows, num_groups]``, and credit per row or per decision."""
        rows = slice(self._filled, self._filled + len(choices))
        self.choices[rows] = choices
        self.coefficients[rows] = coefficients.reshape(len(choices), -1)
        self._filled = rows.stop


class Trainer:
    """Trains a policy on a problem, a batch at a time, until a budget of evaluations is spent.

    Args:
        problem: The problem.
        config: How to train.
        evaluations: The budget. The last batch is smaller if need be.
        seed: All randomness comes from it.
        start: Choices to start from, ``[num_groups]``: the first that are evaluated, and where
            the policy begins. Without a prior in the config, training starts from nothing.

    Raises:
        UsageError: As :func:`placer.problem.check_budget`, or a start that may not be.
        InfeasibleError: Some op group may go nowhere.
    """

    def __init__(
        self,
        problem: Problem,
        config: TrainingConfig = MODERN,
        *,
        evaluations: int,
        seed: int,
        start: NDArray[np.int32] | None = None,
    ) -> None:
        check_budget(evaluations, seed)
        self.problem, self.config, self.seed = problem, config, seed
        start = None if start is None else problem.check_start(start)
        self.start = start if config.prior_deviations else None
        self.first = self.start  # what is evaluated first
        # no feasible placement may be worth less than one that is not
        failing_reward = min(config.failing_reward, SqrtReward.for_problem(problem).failing_reward)
        self.reward: Reward = SqrtReward(problem.reference_seconds, failing_reward)
        if config.graded_failing:
            self.reward = GradedReward.for_problem(problem, failing_reward)
        self._envs: dict[int, VectorPlacementEnv] = {}  # by how many placements they evaluate
        self.num_samples = config.batch_size - int(config.move_share * config.batch_size)
        self.network = load_network(config.network)
        prior = prior_logits(problem.allowed, self.start, config.prior_deviations)
        self.inputs = self.network.make_inputs(problem, prior)
        weights_seed, sampling_seed = np.random.SeedSequence(seed).spawn(2)
        rng = np.random.default_rng(weights_seed)
        weights = self.network.init_weights(rng, self.inputs, config.hidden)
        if not config.group_bias_rate:  # a weight that stays zero would count in gradient norms
            del weights["group_bias"]
        self.state = LearnerState.fresh(weights)
        self.rng = np.random.default_rng(sampling_seed)
        self.baseline = failing_reward
        self.walk = Walk(problem, config.part_share, config.preference_rate)
        self.elites = Elites(max(config.num_elites, 1), problem.num_groups)
        self.best_so_far = np.full(evaluations, np.inf)  # [evaluations]
        self.evaluations = 0
        self.num_skipped_updates = 0
        self.infeasible_because = ""
        self._evaluation_seconds = 0.0
        self.rows: list[Metrics] = []
        self.batch: Batch | None = None  # the last one

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.evaluations == len(self.best_so_far)

    def out_of_time(self, seconds: float | None) -> bool:
        """Whether so many seconds of training have passed, over all sessions of a resumed run."""
        return seconds is not None and bool(self.rows) and self.rows[-1].wall_seconds >= seconds

    def run(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        seconds: float | None = None,
    ) -> SearchResult:
        """Steps until the budget is spent or the seconds are over; returns :meth:`result`."""
        while not (self.done or self.out_of_time(seconds)):
            self.step()
            if on_progress is not None:
                on_progress(self.progress())
        return self.result()

    def step(self) -> Metrics:
        """Samples a batch, evaluates it, subtracts the baseline, takes the step, logs.

        Raises:
            UsageError: The budget is spent.
        """
        if self.done:
            raise UsageError(f"the budget of {self.evaluations} evaluations is spent")
        config, began = self.config, time.perf_counter()

        # sample a batch; what exceeds the budget is not evaluated, and only its entropy counts
        sampled = self._sample()  # [num_samples, num_groups]
        if self.first is not None and not self.rows:
            sampled[0] = self.first
        choices = sampled[: len(self.best_so_far) - self.evaluations]

        # evaluate it
        rewards, seconds = self._evaluate(choices)  # [num_rows], [num_rows]
        feasible = np.isfinite(seconds)

        # subtract the baseline
        after = config.feasible_only_after
        learned = feasible if after is not None and len(self.rows) >= after else feasible | True
        if config.baseline == "moving_average":
            baseline = self.baseline  # of earlier batches only
            advantages = rewards - baseline
            counted = learned & np.isfinite(rewards)
            if counted.any():
                decay = config.baseline_decay
                self.baseline = losses.moving_average(baseline, rewards[counted], decay)
        else:
            baseline = float(rewards.mean())
            advantages = losses.normalised_advantages(rewards, feasible)
        advantages = np.where(learned, advantages, 0.0)

        # try moves from a good placement, one after another
        tried = self._try_moves(choices, rewards)

        # take the step, on the very choices that were evaluated and on the best so far
        batch = _Rows(config.batch_size + config.num_elites, self.problem.num_groups)
        batch.add(
            sampled, np.append(advantages, np.zeros(len(sampled) - len(choices))) / len(choices)
        )
        if len(tried.choices):
            batch.add(tried.choices, tried.credits / len(tried.choices))
        if config.num_elites and len(self.elites):
            share = config.elite_advantage / len(self.elites)
            batch.add(self.elites.choices, np.full(len(self.elites), share))
        old_log_probs = self._log_probs(batch.choices) if config.epochs > 1 else None
        for _ in range(config.epochs):
            self.state, update = learner.update(
                self.network,
                self.state,
                self.inputs,
                batch.choices,
                batch.coefficients,
                len(sampled),
                Hyperparameters(
                    config.learning_rate,
                    config.group_bias_rate,
                    config.gradient_clip,
                    self._entropy_coef(),
                    config.clip_ratio,
                ),
                old_log_probs,
            )
            self.num_skipped_updates += bool(update.skipped)

        # log
        all_rewards = np.concatenate([rewards, tried.rewards])
        all_seconds = np.concatenate([seconds, tried.seconds])
        of_feasible = all_seconds[np.isfinite(all_seconds)]
        before = self.rows[-1] if self.rows else None
        row = Metrics(
            step=len(self.rows) + 1,
            evaluations=self.evaluations,
            best_step_time_seconds=float(self.best_so_far[self.evaluations - 1]),
            mean_step_time_seconds=float(of_feasible.mean()) if len(of_feasible) else np.nan,
            mean_reward=float(all_rewards.mean()),
            baseline=baseline,
            policy_loss=float(update.policy_loss),
            entropy_bonus=float(update.entropy_bonus),
            gradient_norm=float(update.gradient_norm),
            num_feasible=len(of_feasible),
            num_distinct=len(np.unique(np.concatenate([choices, tried.choices]), axis=0)),
            num_moves=tried.num_made,
            num_skipped_updates=self.num_skipped_updates,
            wall_seconds=(before.wall_seconds if before else 0.0) + time.perf_counter() - began,
            wall_evaluation_seconds=self._evaluation_seconds,
        )
        self.batch = Batch(
            step_time_seconds=all_seconds,
            advantages=advantages,
            credits=tried.credits[tried.credits != 0],
            entropies=np.asarray(update.entropies),
        )
        self.rows.append(row)
        return row

    def progress(self) -> Progress:
        """Where the training stands after its last step."""
        last = self.rows[-1]
        return Progress(
            evaluations=last.evaluations,
            best_seconds=last.best_step_time_seconds,
            mean_seconds=last.mean_step_time_seconds,
            choices=self.elites.choices[0] if np.isfinite(last.best_step_time_seconds) else None,
        )

    def result(self) -> SearchResult:
        """The best placement that was evaluated.

        Raises:
            InfeasibleError: None was feasible.
        """
        if not np.isfinite(self.best_so_far).any():
            raise InfeasibleError.after(
                self.evaluations,
                f"none of {self.evaluations} sampled placements was feasible; "
                f"the last was not because {self.infeasible_because}",
            )
        return SearchResult(
            method=self.config.method,
            choices=self.elites.choices[0],
            step_time_seconds=float(self.elites.step_time_seconds[0]),
            evaluations=self.evaluations,
            seconds=self.rows[-1].wall_seconds,
            best_so_far=self.best_so_far[: self.evaluations],
            seconds_so_far=np.repeat(
                [row.wall_seconds for row in self.rows],
                np.diff([row.evaluations for row in self.rows], prepend=0),
            ),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a checkpoint, ``.npz``, from which :meth:`restore` goes on bit for bit.

        Raises:
            PlacerError: The file cannot be written.
        """
        arrays = {
            **self.state.to_arrays(),
            "elite_choices": self.elites.choices,
            "elite_rewards": self.elites.rewards,
            "elite_step_time_seconds": self.elites.step_time_seconds,
            "best_so_far": self.best_so_far,
            "rows": metrics.to_array(self.rows),
            **self.walk.to_arrays(),
        }
        if self.start is not None:
            arrays["start"] = self.start
        if self.first is not None:
            arrays["first"] = self.first
        facts = {
            "problem": checkpoint.identity(self.problem),
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "evaluations": self.evaluations,
            "baseline": self.baseline,
            "num_skipped_updates": self.num_skipped_updates,
            "infeasible_because": self.infeasible_because,
            "rng": self.rng.bit_generator.state,
        }
        checkpoint.save(path, arrays, facts)

    @classmethod
    def restore(cls, path: str | os.PathLike[str], problem: Problem) -> Trainer:
        """A trainer that goes on where the one that wrote a checkpoint stood.

        Raises:
            FormatError: The file is missing, no checkpoint, or of another problem.
        """
        arrays, facts = checkpoint.load(path)
        checkpoint.check_made_for(path, facts, problem)
        try:
            return cls._restored(problem, arrays, facts)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"{path}: not a whole checkpoint ({error!r})") from None

    @classmethod
    def with_policy_of(
        cls,
        path: str | os.PathLike[str],
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        first: NDArray[np.int32],
        batch_size: int | None = None,
    ) -> Trainer:
        """A trainer that begins with the policy of a checkpoint, and with nothing else of it.

        So what was learned from one evaluator is where learning from another one starts. At the end
        of training a policy has made up its mind; it is widened until samples deviate from what
        it likes best as they do from a prior.

        Args:
            path: The checkpoint.
            problem: The problem, but for the evaluator the one that the checkpoint was made for.
            evaluations: The budget.
            seed: All randomness comes from it.
            first: The choices to evaluate first, ``[num_groups]``.
            batch_size: How many placements to evaluate per step; None for as many as before.

        Raises:
            FormatError: As :meth:`restore`.
            UsageError: As the constructor.
        """
        taught = cls.restore(path, problem)
        config = dataclasses.replace(
            taught.config, batch_size=batch_size or taught.config.batch_size
        )
        trainer = cls(problem, config, evaluations=evaluations, seed=seed, start=taught.start)
        trainer.first = problem.check_start(first)
        rng, deviations = trainer.rng.spawn(1)[0], trainer.config.prior_deviations
        weights = widen(trainer.network, taught.state.weights, trainer.inputs, deviations, rng)
        trainer.state = LearnerState.fresh(weights)
        return trainer

    @classmethod
    def _restored(
        cls, problem: Problem, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]
    ) -> Trainer:
        trainer = cls(
            problem,
            TrainingConfig(**facts["config"]),
            evaluations=len(arrays["best_so_far"]),
            seed=facts["seed"],
            start=arrays.get("start"),
        )
        trainer.first = arrays.get("first", trainer.start)
        state = LearnerState.from_arrays(arrays)
        shapes = {name: np.shape(weight) for name, weight in trainer.state.weights.items()}
        if "group_bias" in state.weights:  # a policy that was widened has one in any case
            shapes["group_bias"] = problem.allowed.shape
        state.check_shapes(shapes)
        trainer.state = state
        trainer.elites.choices = arrays["elite_choices"]
        trainer.elites.rewards = arrays["elite_rewards"]
        trainer.elites.step_time_seconds = arrays["elite_step_time_seconds"]
        trainer.best_so_far = arrays["best_so_far"]
        trainer.rows = metrics.from_array(arrays["rows"])
        if trainer.rows:
            trainer._evaluation_seconds = trainer.rows[-1].wall_evaluation_seconds
        trainer.walk.restore(arrays)
        trainer.evaluations = facts["evaluations"]
        trainer.baseline = facts["baseline"]
        trainer.num_skipped_updates = facts["num_skipped_updates"]
        trainer.infeasible_because = facts["infeasible_because"]
        trainer.rng.bit_generator.state = facts["rng"]
        return trainer

    def _sample(self) -> NDArray[np.int32]:
        """Choices from the policy, ``[num_samples, num_groups]``."""
        shape = self.problem.num_groups, self.num_samples, self.problem.num_devices
        noise = self.rng.gumbel(size=shape).astype(np.float32)
        return np.array(
            learner.sample(self.network, self.state.weights, self.inputs, noise).choices
        )

    def _try_moves(self, sampled: NDArray[np.int32], rewards: NDArray[np.float64]) -> _Moves:
        """Moves on from the best of what was sampled and of where the walk is.

        Args:
            sampled: Choices that were evaluated, ``[num_rows, num_groups]``.
            rewards: What they are worth, ``[num_rows]``.
        """
        budget = len(self.best_so_far) - self.evaluations
        num_moves = min(self.config.batch_size - self.num_samples, budget)
        ordered = np.argsort(rewards, kind="stable")  # the best is last
        # nothing can be compared with nan, as of a measurement
        beginnings = ordered[np.isfinite(rewards[ordered])].tolist()
        begun = self.walk.choices is not None
        can_move = self.walk.can_move and (begun or bool(beginnings))
        moves = _Moves.room_for(num_moves if can_move else 0, self.problem.num_groups)
        if not len(moves.choices):
            return moves
        if beginnings and rewards[beginnings[-1]] > self.walk.reward:
            self._begin_walk(sampled, rewards, beginnings)
        for row in range(num_moves):
            if self.walk.is_stuck and beginnings:
                self._begin_walk(sampled, rewards, beginnings)
            moved = self.walk.propose(self.rng)
            found, seconds = self._evaluate(moved[None])
            moves.choices[row], moves.rewards[row], moves.seconds[row] = moved, found[0], seconds[0]
            reward, chance = float(found[0]), self.rng.random()
            if not np.isfinite(reward):  # as where a measurement says nan: nothing is learned
                continue
            changed = moved != self.walk.choices
            spent = self.evaluations / len(self.best_so_far)
            made, credit = self.walk.take(moved, reward, spent, chance)
            moves.credits[row] = changed * credit
            moves.num_made += made
        return moves

    def _begin_walk(
        self, sampled: NDArray[np.int32], rewards: NDArray[np.float64], beginnings: list[int]
    ) -> None:
        """Sends the walk to the best of the samples where it has not begun yet."""
        best = beginnings.pop()
        self.walk.begin(sampled[best], float(rewards[best]))

    def _log_probs(self, choices: NDArray[np.int32]) -> NDArray[np.float32]:
        """What the policy says of each decision, ``[rows, num_groups]``."""
        decisions = learner.decisions(self.network, self.state.weights, self.inputs, choices)
        return np.take_along_axis(decisions, choices[:, :, None], axis=2)[:, :, 0]

    def _evaluate(
        self, choices: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Evaluates choices and keeps the best; rewards and step times, ``[num_rows]`` each."""
        began = time.perf_counter()
        if len(choices) not in self._envs:
            self._envs[len(choices)] = VectorPlacementEnv(
                self.problem, len(choices), reward=self.reward
            )
            self._envs[len(choices)].reset()
        _, rewards, _, _, infos = self._envs[len(choices)].step(choices.astype(np.int64))
        reasons = [reason for reason in infos["infeasible_because"] if reason is not None]
        self.infeasible_because = reasons[-1] if reasons else self.infeasible_because
        seconds = infos["step_time_seconds"]
        seconds = np.where(infos["feasible"] & np.isfinite(seconds), seconds, np.inf)
        self.elites.add(choices, rewards, seconds)
        self._count(seconds)
        self._evaluation_seconds += time.perf_counter() - began
        return rewards, seconds

    def _count(self, seconds: NDArray[np.float64]) -> None:
        """Enters step times ``[num_rows]`` into the curve of the best so far."""
        best = self.best_so_far[self.evaluations - 1] if self.evaluations else np.inf
        now = slice(self.evaluations, self.evaluations + len(seconds))
        self.best_so_far[now] = np.minimum(np.minimum.accumulate(seconds), best)
        self.evaluations += len(seconds)

    def _entropy_coef(self) -> float:
        spent = self.evaluations / len(self.best_so_far)
        return (1 - spent) * self.config.entropy_coef + spent * self.config.final_entropy_coef


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    config: TrainingConfig = MODERN,
) -> SearchResult:
    """Searches by training a policy; a :class:`placer.problem.Search`.

    Args:
        problem: The problem.
        evaluations: The budget; `start` is evaluated within it.
        seed: All randomness comes from it.
        seconds: Where given, no batch is begun after so many seconds.
        start: Choices to start from, ``[num_groups]``.
        on_progress: Called after each batch.
        config: How to train.

    Raises:
        UsageError: As :class:`Trainer`.
        InfeasibleError: No feasible placement was found.
    """
    trainer = Trainer(problem, config, evaluations=evaluations, seed=seed, start=start)
    return trainer.run(on_progress, seconds=seconds)


search_colocrl = functools.partial(search, config=COLOCRL)
""":func:`search` as in the paper, which starts from nothing whatever `start` is."""

search_ppo = functools.partial(search, config=PPO)
""":func:`search` by PPO instead of REINFORCE."""
