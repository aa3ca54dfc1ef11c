"""Placements near another one."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

from placer._move_tables import PROPOSAL, Records
from placer.problem import Problem

_NEAR = 0.7  # part of the moves that go to where a tensor comes from or goes to
_DEVIATIONS = 4  # op groups whose devices a draw near the start takes anew


class Neighbours:
    """Moves of one op group to another device.

    Attributes:
        movable: Op groups that may go to several devices.
    """

    def __init__(self, problem: Problem) -> None:
        num_groups = problem.num_groups
        num_allowed = problem.allowed.sum(axis=1)
        self._movable = np.flatnonzero(num_allowed > 1)
        self.movable: list[int] = self._movable.tolist()
        # devices by op group, where those of each begin, and the end
        devices = np.broadcast_to(np.arange(problem.num_devices), problem.allowed.shape)
        self._devices = devices[problem.allowed]
        self._first_device = np.append(0, num_allowed.cumsum())
        # likewise the op groups that each exchanges tensors with
        group_of_op = problem.groups.group_of_op.astype(np.int64)
        producers, consumers = (group_of_op[ops] for ops in problem.graph.edges[:2])
        pairs = (producers * num_groups + consumers)[producers != consumers]
        pairs.sort(kind="stable")  # they are nearly in order, for which this is fast
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        ends = np.column_stack(np.divmod(pairs, num_groups))
        by_group = np.argsort(ends.ravel(), kind="stable")
        self._adjacent = ends[:, ::-1].ravel()[by_group]
        self._first_adjacent = np.append(
            0, np.bincount(ends.ravel(), minlength=num_groups).cumsum()
        )

    @functools.cached_property
    def devices(self) -> list[list[int]]:
        """Where each op group may go, ``[num_groups]`` lists."""
        return _lists(self._devices, self._first_device)

    @functools.cached_property
    def adjacent(self) -> list[list[int]]:
        """Op groups that each exchanges tensors or signals with, ``[num_groups]`` lists."""
        return _lists(self._adjacent, self._first_adjacent)

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws moves.

        An op group goes where one goes that it exchanges tensors with, which saves a transfer; or
        else, as in 30% of all draws, to any other device that it may go to.

        Args:
            rng: All randomness comes from it.
            count: How many.

        Returns:
            The moves, as ``placer._move_tables.PROPOSAL``, ``[count]``.
        """
        which, near, towards, device = rng.random((4, count))
        groups = self._movable[(which * len(self._movable)).astype(np.intp)]
        first, end = self._first_device[groups], self._first_device[groups + 1]
        first_adjacent = self._first_adjacent[groups]
        num_adjacent = self._first_adjacent[groups + 1] - first_adjacent
        is_near = (near < _NEAR) & (num_adjacent > 0)
        drawn = np.empty(count, PROPOSAL)
        drawn["group"] = drawn["towards"] = groups
        drawn["towards"][is_near] = self._adjacent[
            (first_adjacent + (towards * num_adjacent).astype(np.intp))[is_near]
        ]
        drawn["device"] = self._devices[first + (device * (end - 1 - first)).astype(np.intp)]
        drawn["other"] = self._devices[end - 1]
        return drawn

    def all(self) -> Records:
        """Each op group to each other device, as ``placer._move_tables.PROPOSAL``."""
        num_others = np.diff(self._first_device) - 1
        groups = np.repeat(np.arange(len(num_others)), num_others)
        found = np.empty(len(groups), PROPOSAL)
        found["group"] = found["towards"] = groups
        is_last = np.zeros(len(self._devices), bool)
        is_last[self._first_device[1:] - 1] = True
        found["device"] = self._devices[~is_last]
        found["other"] = np.repeat(self._devices[is_last], num_others)
        return found

    def near(self, rng: np.random.Generator, choices: NDArray[np.int32]) -> NDArray[np.int32]:
        """Choices ``[num_groups]`` but for four op groups, whose devices are drawn at random."""
        found = choices.copy()
        for group in rng.choice(self.movable, _DEVIATIONS).tolist():
            found[group] = rng.choice(self.devices[group])
        return found

    def related(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draws up to so many movable op groups that hang together, the first at random."""
        found = [int(rng.choice(self.movable))]
        border = list(self.adjacent[found[0]])
        while border and len(found) < count:
            group = border.pop(int(rng.integers(len(border))))
            if group not in found and len(self.devices[group]) > 1:
                found.append(group)
                border += self.adjacent[group]
        return found


def _lists(values: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[list[int]]:
    """Cuts values where each list begins; the end comes last."""
    found: list[int] = values.tolist()
    return [found[first:end] for first, end in itertools.pairwise(offsets.tolist())]


def first_probabilities(problem: Problem, start: NDArray[np.int32] | None) -> NDArray[np.float64]:
    """Chances of each device for each op group to begin with, ``[num_groups, num_devices]``.

    Uniform over the devices that are allowed or, with a start, such that a draw keeps it but for
    about four op groups, whose devices are uniform.
    """
    uniform: NDArray[np.float64] = problem.allowed / problem.allowed.sum(axis=1, keepdims=True)
    if start is None:
        return uniform
    share = min(1.0, _DEVIATIONS / problem.num_groups)
    near: NDArray[np.float64] = (1 - share) * np.eye(problem.num_devices)[start]
    return near + share * uniform


def devices_at(probabilities: NDArray[np.float64], keys: NDArray[np.float64]) -> NDArray[np.int32]:
    """Devices by the inverse of their cumulative chances.

    Args:
        probabilities: Chances, ``[num_groups, num_devices]``.
        keys: Numbers in [0, 1), ``[batch, num_groups]``.

    Returns:
        Choices, ``[batch, num_groups]``, all of positive chance.
    """
    ends = np.cumsum(probabilities, axis=1)
    ends /= ends[:, -1:]  # rounded sums must not leave room for a device beyond the last
    devices: NDArray[np.int32] = (keys[:, :, None] >= ends).sum(axis=2, dtype=np.int32)
    return devices
