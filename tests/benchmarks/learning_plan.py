"""What the benchmark of learning compares, and how much of it is run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.workloads import WORKLOADS
from placer.placement import Order
from policies.config import COLOCRL, MODERN
from tests.benchmarks.learning_runs import (
    NO_MOVES,
    PRETRAINED_NO_MOVES,
    SAMPLES_ALONE,
    ZERO_SHOT,
    Cell,
    Run,
    Subject,
)

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "from nothing: no start, no prior": {"prior_deviations": 0.0},
    "no moves, only samples": {"move_share": 0.0},
    "no moves, only samples, batch of 16": SAMPLES_ALONE,
    "half moves, half samples": {"move_share": 0.5},
    "moves of single op groups only": {"part_share": 0.0},
    "moves of parts only": {"part_share": 1.0},
    "which moves to try is not learned": {"preference_rate": 0.0},
    "the network does not learn": {"learning_rate": 1e-12},
    "nothing is learned": {"learning_rate": 1e-12, "preference_rate": 0.0},
    "no self-imitation": {"num_elites": 0},
    "moving average as baseline": {"baseline": "moving_average"},
    "no entropy bonus": {"entropy_coef": 0.0},
    "no bias per op group": {"group_bias_rate": 0.0},
    "batch of 32": {"batch_size": 32},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "32 hidden units": {"hidden": 32},
}
"""What differs from `modern`: settings by name."""

MODERN_POLICY = Subject("modern", MODERN)
PAPER = Subject("colocrl", COLOCRL)
FROM_NOTHING = Subject("modern, from nothing", dataclasses.replace(MODERN, prior_deviations=0.0))
ANNEALING = Subject("annealing")
PRETRAINED = Subject("pretrained")
WALK = Subject("walk")
ZERO_SHOT_POLICY = Subject(ZERO_SHOT)
SAMPLES_FROM_NOTHING = Subject(
    NO_MOVES,
    dataclasses.replace(
        MODERN,
        network="graph",
        hidden=32,  # as the bundled policy
        prior_deviations=0.0,
        **SAMPLES_ALONE,
    ),
)
PRETRAINED_SAMPLES = Subject(PRETRAINED_NO_MOVES)
VARIANTS = tuple(
    Subject(name, dataclasses.replace(MODERN, **changes)) for name, changes in ABLATIONS.items()
)

LEARNED = (MODERN_POLICY, PRETRAINED)  # what is judged by annealing
SAMPLES = 48  # evaluations of the bundled policy without training
LEAST_GAIN = 10  # in evaluations, over the paper's recipe
SPEED_BUDGET = 10_000  # evaluations whose time is judged


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        workloads: Names or files of graphs.
        clusters: Names or files of clusters.
        orders: Which ready op a device starts first.
        budgets: Evaluations, heuristics included; each is a run of its own.
        seeds: Seeds are 0 to one less.
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    clusters: tuple[str, ...] = ("p100x4", "v100x8")
    orders: tuple[Order, ...] = ("fifo", "priority")
    budgets: tuple[int, ...] = (300, 1_000, 3_000, 10_000)
    seeds: int = 5

    @property
    def cells(self) -> list[Cell]:
        """Every workload on every cluster in every order."""
        return list(itertools.starmap(Cell, self._product()))

    @property
    def of_seeds(self) -> str:
        """What a figure is of."""
        return "one seed" if self.seeds == 1 else f"medians of {self.seeds} seeds"

    def _product(self) -> Iterable[tuple[str, str, Order]]:
        return itertools.product(self.workloads, self.clusters, self.orders)

    def runs(self, subject: Subject, cell: Cell, budget: int) -> list[Run]:
        """A run for each seed."""
        return [subject.run(cell, budget, seed) for seed in range(self.seeds)]

    def of_all(self, *subjects: Subject, share: int = 1) -> list[Run]:
        """Runs of subjects everywhere, with each budget divided by `share`."""
        return [
            run
            for cell in self.cells
            for budget in self.budgets
            for subject in subjects
            for run in self.runs(subject, cell, budget // share)
        ]


def of_transfer(plan: Plan) -> tuple[tuple[str, Subject, int], ...]:
    """What is compared, as what, with how many evaluations."""
    return (
        (MODERN_POLICY.name, MODERN_POLICY, plan.budgets[-1]),
        (FROM_NOTHING.name, FROM_NOTHING, plan.budgets[-1]),
        ("zero-shot", ZERO_SHOT_POLICY, SAMPLES),
        ("trained on", PRETRAINED, plan.budgets[0]),
        (SAMPLES_FROM_NOTHING.name, SAMPLES_FROM_NOTHING, plan.budgets[-1]),
        ("trained on, no moves", PRETRAINED_SAMPLES, plan.budgets[0]),
    )
