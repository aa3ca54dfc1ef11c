"""What training logs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metrics:
    """One row of the training curve; ``docs/training.md`` explains each column."""

    step: int
    evaluations: int
    best_step_time_seconds: float
    mean_step_time_seconds: float
    mean_reward: float
    baseline: float
    policy_loss: float
    entropy_bonus: float
    gradient_norm: float
    num_feasible: int
    num_distinct: int
    num_moves: int
    num_skipped_updates: int
    wall_seconds: float
    wall_evaluation_seconds: float


class Batch(NamedTuple):
    """What the last batch looked like beyond its row; for pictures.

    Attributes:
        step_time_seconds: Of samples and moves, infinite where infeasible, ``[num_rows]``.
        advantages: What the rewards of the samples were turned into, ``[num_samples]``.
        credits: Of the decisions that moves changed, ``[num_decisions]``.
        entropies: Of the decision of each op group, in nats, mean over the samples,
            ``[num_groups]``.
    """

    step_time_seconds: NDArray[np.float64]
    advantages: NDArray[np.float64]
    credits: NDArray[np.float64]
    entropies: NDArray[np.float32]


COLUMNS = tuple(field.name for field in dataclasses.fields(Metrics))

WALL_CLOCK_COLUMNS = ("wall_seconds", "wall_evaluation_seconds")
"""The columns that differ from run to run; all others are the same for the same seed."""


def to_array(rows: Sequence[Metrics]) -> NDArray[np.float64]:
    """Rows as an array, ``[num_rows, num_columns]``."""
    return np.array([dataclasses.astuple(row) for row in rows], float).reshape(-1, len(COLUMNS))


def from_array(array: NDArray[np.float64]) -> list[Metrics]:
    """The inverse of :func:`to_array`; counts are whole numbers again."""
    counts = {field.name for field in dataclasses.fields(Metrics) if field.type == "int"}
    rows: list[Metrics] = []
    for row in array.tolist():
        named: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
        named.update({name: int(named[name]) for name in counts})
        rows.append(Metrics(**named))
    return rows
