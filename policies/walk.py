"""A walk from placement to placement; its moves tell what single decisions are worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.problem import Problem
from placer.search.neighbours import Neighbours

_NEAR = 0.7  # part of the moves that go to where a tensor comes from or goes to
_CONNECTED, _INTERVAL = 0.2, 0.2  # parts of the moves that take other op groups along
_CONNECTED_SIZE, _INTERVAL_SIZE = 4, 12  # how many, on average
_TOGETHER = 0.7  # part of these that take along only op groups of the same device
_SAMPLES = 50  # moves downhill that tell the first temperature
_ACCEPTED = 1e-3  # chance at first of the median of the moves downhill
_COLDEST = 1e-2  # the last temperature over the first


class Walk:
    """A placement, the moves that are tried from it, and which of them are made.

    A move sends an op group to where one of its neighbours is or, by the policy's own chances,
    elsewhere; some take along op groups that are connected with it, or that are beside it in
    topological order, as a whole stage is often better off elsewhere where each part is not. What
    is worse is accepted by Metropolis's chance, as in :mod:`placer.search.annealing`. Where the
    walk is stuck, the trainer lets it begin anew at a sample of the policy.

    Args:
        problem: The problem.

    Attributes:
        choices: Where the walk is, ``[num_groups]``; None before it begins.
        reward: What that is worth.
    """

    def __init__(self, problem: Problem) -> None:
        self._neighbours = Neighbours(problem)
        self._allowed = problem.allowed
        # as many moves as there are of single op groups
        self._patience = sum(len(devices) - 1 for devices in self._neighbours.devices)
        self.choices: NDArray[np.int32] | None = None
        self.reward = -math.inf
        self._best_reward = -math.inf  # since it was sent somewhere
        self._idle_moves = 0  # tried since then
        self._losses: list[float] = []

    @property
    def can_move(self) -> bool:
        """Whether some op group may go to several devices."""
        return bool(self._neighbours.movable)

    @property
    def is_stuck(self) -> bool:
        """Whether so many moves in a row found nothing better that it should begin elsewhere."""
        return self._idle_moves >= self._patience

    def begin(self, choices: NDArray[np.int32], reward: float) -> None:
        """Begins anew at choices, ``[num_groups]``."""
        self.choices, self.reward = choices.copy(), reward
        self._best_reward, self._idle_moves = reward, 0

    def propose(
        self, rng: np.random.Generator, chances: NDArray[np.floating[Any]]
    ) -> NDArray[np.int32]:
        """Draws a move.

        Args:
            rng: All randomness comes from it.
            chances: What the policy would choose here, ``[num_groups, num_devices]``.

        Returns:
            The choices after the move, ``[num_groups]``, which differ from those before.
        """
        assert self.choices is not None  # noqa: S101  (for the type checker)
        near, kind, together = rng.random(3)
        group = int(rng.choice(self._neighbours.movable))
        device = self._device(rng, group, near < _NEAR, chances[group])
        moved = self.choices.copy()
        moved[group] = device
        others = np.zeros(0, np.intp)
        if kind < _CONNECTED:
            others = self._connected(rng, group, device, together < _TOGETHER)
        elif kind < _CONNECTED + _INTERVAL:
            length = int(rng.geometric(1 / _INTERVAL_SIZE))
            first = max(group - int(rng.integers(length + 1)), 0)
            others = np.arange(first, min(first + length + 1, len(moved)))
            if together < _TOGETHER:
                others = others[self.choices[others] == self.choices[group]]
        moved[others[self._allowed[others, device]]] = device
        return moved

    def take(self, moved: NDArray[np.int32], reward: float, spent: float, chance: float) -> bool:
        """Makes a move that was tried, or does not; returns whether it did.

        Args:
            moved: The choices after it, ``[num_groups]``.
            reward: What they are worth.
            spent: The part of the budget that is spent, from 0 to 1.
            chance: A random number in [0, 1).
        """
        self._idle_moves += 1
        if not self._accepts(self.reward - reward, spent, chance):
            return False
        self.choices, self.reward = moved.copy(), reward
        if reward > self._best_reward:
            self._best_reward, self._idle_moves = reward, 0
        return True

    def _accepts(self, loss: float, spent: float, chance: float) -> bool:
        """Metropolis's chance; the first losses tell the temperature."""
        if loss <= 0:
            return True
        if len(self._losses) < _SAMPLES:
            self._losses.append(loss)
            return False
        hottest = float(np.median(self._losses)) / -math.log(_ACCEPTED)
        return chance < math.exp(-loss / (hottest * _COLDEST**spent))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that changes, by name."""
        if self.choices is None:
            return {}
        return {
            "walk_choices": self.choices,
            "walk_rewards": np.array([self.reward, self._best_reward]),
            "walk_idle_moves": np.array(self._idle_moves),
            "walk_losses": np.array(self._losses),
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of :meth:`to_arrays`; other arrays are ignored."""
        if "walk_choices" in arrays:
            self.choices = arrays["walk_choices"]
            self.reward, self._best_reward = arrays["walk_rewards"].tolist()
            self._idle_moves = int(arrays["walk_idle_moves"])
            self._losses = arrays["walk_losses"].tolist()

    def _device(
        self,
        rng: np.random.Generator,
        group: int,
        near: bool,
        chances: NDArray[np.floating[Any]],
    ) -> int:
        """Draws another device for an op group."""
        assert self.choices is not None  # noqa: S101
        here, neighbours = self.choices[group], self._neighbours.adjacent[group]
        if near and neighbours:
            device = int(self.choices[neighbours[int(rng.integers(len(neighbours)))]])
            if device != here and self._allowed[group, device]:
                return device
        others = [device for device in self._neighbours.devices[group] if device != here]
        weights = chances[others].astype(np.float64) + 1e-3  # none is given up for good
        return int(rng.choice(others, p=weights / weights.sum()))

    def _connected(
        self, rng: np.random.Generator, group: int, device: int, together: bool
    ) -> NDArray[np.intp]:
        """Draws op groups that hang together with one, which are not on the device yet."""
        assert self.choices is not None  # noqa: S101
        found, seen = [group], {group}
        border = list(self._neighbours.adjacent[group])
        size = 1 + int(rng.geometric(1 / _CONNECTED_SIZE))
        while border and len(found) < size:
            other = border.pop(int(rng.integers(len(border))))
            if other in seen:
                continue
            seen.add(other)
            there = self.choices[other]
            if there == device or (together and there != self.choices[group]):
                continue
            found.append(other)
            border += self._neighbours.adjacent[other]
        return np.array(found)
