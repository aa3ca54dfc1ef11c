"""The best few distinct placements so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Elites:
    """Keeps the best distinct choices seen, best first; infeasible ones only while all are.

    Of equal rewards the one seen first is kept before the others.

    Args:
        capacity: How many to keep.
        num_groups: Length of the choices.
    """

    def __init__(self, capacity: int, num_groups: int) -> None:
        self.capacity = capacity
        self.choices = np.zeros((0, num_groups), np.int32)  # [num_kept, num_groups]
        self.rewards = np.zeros(0)  # [num_kept]
        self.step_time_seconds = np.zeros(0)  # [num_kept], infinite where infeasible

    def __len__(self) -> int:
        return len(self.choices)

    def add(
        self,
        choices: NDArray[np.int32],
        rewards: NDArray[np.float64],
        step_time_seconds: NDArray[np.float64],
    ) -> None:
        """Takes in a batch: choices ``[batch, num_groups]``, rewards and step times ``[batch]``.

        Rewards that are not finite are left out.
        """
        good = np.isfinite(rewards)
        if len(self) == self.capacity and np.isfinite(self.step_time_seconds).all():
            good &= rewards > self.rewards[-1]  # the last that is kept goes before its equals
        if not good.any():
            return
        choices = np.concatenate([self.choices, choices[good]])
        rewards = np.concatenate([self.rewards, rewards[good]])
        seconds = np.concatenate([self.step_time_seconds, step_time_seconds[good]])
        _, first_seen = np.unique(choices, axis=0, return_index=True)
        distinct = np.sort(first_seen)
        if np.isfinite(seconds).any():  # those that do not fit showed the way and have served
            distinct = distinct[np.isfinite(seconds[distinct])]
        best = distinct[np.argsort(-rewards[distinct], kind="stable")][: self.capacity]
        self.choices, self.rewards = choices[best], rewards[best]
        self.step_time_seconds = seconds[best]
