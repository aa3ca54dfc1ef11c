"""Placements near another one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from placer._units import label_edges
from placer.problem import Problem

_BLOCK = 1024  # draws at a time: a call of the generator takes as long as trying a move
_NEAR = 0.7  # part of the moves that go to where a tensor comes from or goes to
_DEVIATIONS = 4.0  # op groups whose devices a draw near the start takes anew, on average


class Neighbours:
    """Moves of one op group to another device.

    Attributes:
        movable: Op groups that may go to several devices.
        devices: Where each op group may go, ``[num_groups]`` lists.
        adjacent: Op groups that each exchanges tensors or signals with, ``[num_groups]`` lists.
    """

    def __init__(self, problem: Problem) -> None:
        rows, row_of_group = np.unique(problem.allowed, axis=0, return_inverse=True)
        devices: list[list[int]] = [np.flatnonzero(row).tolist() for row in rows]
        self.devices = [devices[row] for row in row_of_group.ravel().tolist()]
        self.movable = [group for group, found in enumerate(self.devices) if len(found) > 1]
        self.adjacent: list[list[int]] = [[] for _ in self.devices]
        producers, consumers, _ = label_edges(problem.graph, problem.groups.group_of_op)
        for producer, consumer in zip(producers.tolist(), consumers.tolist(), strict=True):
            self.adjacent[producer].append(consumer)
            self.adjacent[consumer].append(producer)

    def pick(self, choices: NDArray[np.int32], u: float, v: float) -> tuple[int, int]:
        """Draws a move by two numbers in [0, 1).

        An op group goes where one goes that it exchanges tensors with, which saves a transfer; or
        else, as in 30% of all draws, to any other device that it may go to.

        Returns:
            The op group and its new device.
        """
        group = self.movable[int(u * len(self.movable))]
        devices, adjacent, here = self.devices[group], self.adjacent[group], choices[group]
        near, v = v < _NEAR, v / _NEAR if v < _NEAR else (v - _NEAR) / (1 - _NEAR)
        if near and adjacent:
            which, v = divmod(v * len(adjacent), 1)
            device = int(choices[adjacent[int(which)]])
            if device != here and device in devices:
                return group, device
        device = devices[int(v * (len(devices) - 1))]
        return group, devices[-1] if device == here else device

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


def uniforms(rng: np.random.Generator, count: int) -> Iterator[list[float]]:
    """Draws `count` numbers in [0, 1) at a time, without end."""
    while True:
        yield from rng.random((_BLOCK, count)).tolist()


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
