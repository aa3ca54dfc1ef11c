"""Figures of op groups that several heuristics use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._units import label_edges
from placer.problem import Problem


def group_seconds(problem: Problem) -> NDArray[np.float64]:
    """Seconds of all ops of each group in sequence, ``[num_groups, num_devices]``."""
    seconds = np.zeros((problem.num_groups, problem.num_devices))
    np.add.at(seconds, problem.groups.group_of_op, np.maximum(problem.op_seconds, 1e-9))
    return seconds


def group_edges(
    problem: Problem,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Edges between groups: producer, consumer, bytes, ``[num_edges]`` each.

    A tensor counts once for each group that reads it; so that every edge weighs something, there
    is a little more per tensor or control edge, :func:`placer._units.least_bytes`.
    """
    return label_edges(problem.graph, problem.groups.group_of_op)


def accelerators(problem: Problem) -> NDArray[np.int64]:
    """Devices of the fastest kind: that of the device with the least seconds for all ops."""
    kinds = [device.kind for device in problem.cluster.devices]
    fastest = kinds[int(problem.op_seconds.sum(axis=0).argmin())]
    return np.flatnonzero([kind == fastest for kind in kinds])


def on_accelerators(problem: Problem) -> NDArray[np.bool_]:
    """Where each group may go, accelerators only if it may go to one of them.

    Returns:
        ``[num_groups, num_devices]``.
    """
    accelerated = np.zeros(problem.num_devices, bool)
    accelerated[accelerators(problem)] = True
    narrowed = problem.allowed & accelerated
    return np.where(narrowed.any(axis=1, keepdims=True), narrowed, problem.allowed)
