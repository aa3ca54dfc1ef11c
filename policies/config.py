"""How to train: the settings of the trainer, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from placer.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of :class:`policies.reinforce.Trainer`.

    Attributes:
        name: Name of the preset, for records.
        method: Name of the strategy, for results.
        network: Of the policy: ``"lstm"``, that of the paper, or ``"graph"``, for any graph and
            cluster.
        hidden: Units of each layer of the network.
        batch_size: Placements evaluated per step.
        move_share: Part of each batch that is not sampled from the policy, but made of moves, one
            after another; each decision that a move changes gets the credit.
        part_share: Part of the moves that send a part of the graph to another device, and not a
            single op group.
        preference_rate: How fast the walk learns which moves to try. 0: it does not.
        epochs: Steps of gradient descent on each batch. With more than one, the loss is PPO's.
        clip_ratio: How far a step may take the probability of a decision from what it was when
            the batch was sampled, as a ratio; more teaches nothing. For more than one epoch.
        learning_rate: Of Adam.
        group_bias_rate: How much faster the bias that each op group has for itself learns. 0: that
            bias stays zero.
        gradient_clip: Greatest norm of the gradient.
        baseline: What is subtracted from the rewards. ``"moving_average"``: of the mean rewards of
            earlier batches. ``"batch"``: the batch's mean; advantages are then also divided by
            the batch's standard deviation and clipped.
        baseline_decay: Weight of the past in the moving average.
        failing_reward: Reward of an infeasible placement, where no feasible one can be worth less;
            else the least that a feasible one can be worth.
        graded_failing: Whether it is worth less the more memory it lacks.
        feasible_only_after: After so many steps, infeasible samples no longer train the policy.
        prior_deviations: Where a start is given, logits begin so biased towards it that a sample
            deviates from it in so many op groups on average. 0: no bias.
        num_elites: So many of the best distinct placements so far join every batch.
        elite_advantage: Sum of the advantages of these elites.
        entropy_coef: Weight of the entropy bonus at first; falls linearly with the budget spent.
        final_entropy_coef: Its weight at the end.
    """

    name: str
    method: str = "reinforce"
    network: str = "lstm"
    hidden: int = 64
    batch_size: int = 64
    move_share: float = 0.9375
    part_share: float = 0.65
    preference_rate: float = 0.3
    epochs: int = 1
    clip_ratio: float = 0.2
    learning_rate: float = 3e-3
    group_bias_rate: float = 10.0
    gradient_clip: float = 1.0
    baseline: Literal["moving_average", "batch"] = "batch"
    baseline_decay: float = 0.9
    failing_reward: float = -10.0
    graded_failing: bool = True
    feasible_only_after: int | None = None
    prior_deviations: float = 4.0
    num_elites: int = 16
    elite_advantage: float = 1.0
    entropy_coef: float = 0.01
    final_entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "hidden",
            "batch_size",
            "epochs",
            "clip_ratio",
            "learning_rate",
            "gradient_clip",
        ):
            self._check(name, getattr(self, name) > 0, "more than 0")
        for name in (
            "preference_rate",
            "group_bias_rate",
            "prior_deviations",
            "num_elites",
            "elite_advantage",
            "entropy_coef",
            "final_entropy_coef",
        ):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        self._check("move_share", 0 <= self.move_share < 1, "in [0, 1)")
        self._check("part_share", 0 <= self.part_share <= 1, "in [0, 1]")
        self._check("baseline_decay", 0 <= self.baseline_decay < 1, "in [0, 1)")
        self._check("failing_reward", math.isfinite(self.failing_reward), "finite")
        self._check(
            "baseline",
            self.baseline in ("moving_average", "batch"),
            "'moving_average' or 'batch'",
        )

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise UsageError(f"{name} is {getattr(self, name)!r}; expected {expected}")


COLOCRL = TrainingConfig(
    name="colocrl",
    method="colocrl",
    batch_size=16,
    move_share=0.0,
    learning_rate=1e-3,
    group_bias_rate=0.0,
    failing_reward=-5.0,
    graded_failing=False,
    baseline="moving_average",
    feasible_only_after=5_000,
    prior_deviations=0.0,
    num_elites=0,
    entropy_coef=0.0,
)
PPO = TrainingConfig(
    name="ppo", method="ppo", batch_size=16, move_share=0.0, epochs=4, num_elites=0
)
MODERN = TrainingConfig(name="modern")

PRESETS = {config.name: config for config in (MODERN, COLOCRL, PPO)}


def preset(name: str) -> TrainingConfig:
    """The preset of this name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
