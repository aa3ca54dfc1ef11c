"""The best few distinct placements so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Elites:
    """Keeps the best distinct feasible choices seen, best first.

    Of equal step times the one seen first is kept before the others.

    Args:
        capacity: How many to keep.
        num_groups: Length of the choices.
    """

    def __init__(self, capacity: int, num_groups: int) -> None:
        self.capacity = capacity
        self.choices = np.zeros((0, num_groups), np.int32)  # [num_kept, num_groups]
        self.step_time_seconds = np.zeros(0)  # [num_kept]

    def __len__(self) -> int:
        return len(self.choices)

    def add(self, choices: NDArray[np.int32], step_time_seconds: NDArray[np.float64]) -> None:
        """Takes in a batch ``[batch, num_groups]``; infinite step times are infeasible."""
        feasible = np.isfinite(step_time_seconds)
        choices = np.concatenate([self.choices, choices[feasible]])
        seconds = np.concatenate([self.step_time_seconds, step_time_seconds[feasible]])
        _, first_seen = np.unique(choices, axis=0, return_index=True)
        distinct = np.sort(first_seen)
        best = distinct[np.argsort(seconds[distinct], kind="stable")][: self.capacity]
        self.choices, self.step_time_seconds = choices[best], seconds[best]
