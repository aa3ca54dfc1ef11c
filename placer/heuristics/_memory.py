"""Memory of op groups, estimated from the graph and a placement, and placements that keep to it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer._units import least_bytes
from placer.graph import OpGraph
from placer.heuristics._figures import group_edges, group_seconds
from placer.problem import Problem

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

_MOST_ROUNDS = 8


def memory_bytes(problem: Problem) -> Floats:
    """Memory of each device, ``[num_devices]``."""
    return np.array([device.memory_bytes for device in problem.cluster.devices], np.float64)


def kept_bytes(problem: Problem) -> Floats:
    """Bytes that each group is taken to need wherever it goes, ``[num_groups]``.

    Its variables, and what it holds when all ops on one device need most memory: in a training
    step, what the forward pass keeps for the backward pass.
    """
    return _estimate(problem, np.zeros(problem.num_groups, np.int32), first_come(problem.graph))[1]


def keep_to_limits(problem: Problem, choices: NDArray[np.integer[Any]]) -> Ints:
    """Moves groups that may not be where they are, then groups off devices that are too full.

    What may not be where it is goes to the allowed device that runs it fastest. Then, for some
    rounds, each device that needs more than its memory gives groups away until it should fit:
    first those that exchange fewest bytes with it for each byte that they hold, each to the fastest
    allowed device with room, among equally fast ones to that with which it exchanges most bytes.
    Memory is estimated as if ops ran first come, first served, one at a time over all devices.

    Args:
        problem: The problem.
        choices: Device per group, ``[num_groups]``.

    Returns:
        Device per group, ``[num_groups]``: of all rounds, those that lack fewest bytes.
    """
    seconds = np.where(problem.allowed, group_seconds(problem), np.inf)
    here = problem.allowed[np.arange(problem.num_groups), choices]
    moved: Ints = np.where(here, choices, seconds.argmin(axis=1)).astype(np.int32)
    position = first_come(problem.graph)
    memory = memory_bytes(problem)
    best, least = moved, np.inf
    for _ in range(_MOST_ROUNDS):
        needed, held = _estimate(problem, moved, position)
        free = memory - needed
        lacking = -free[free < 0].sum()
        if lacking < least:
            best, least = moved, lacking
        if lacking == 0:
            break
        moved = _give_away(problem, moved, free, held, seconds)
    return best


def _give_away(
    problem: Problem, choices: Ints, free: Floats, held: Floats, seconds: Floats
) -> Ints:
    """One round of :func:`keep_to_limits`.

    Args:
        problem: The problem.
        choices: Device per group, ``[num_groups]``.
        free: Bytes that each device has left, below 0 where it lacks some, ``[num_devices]``.
        held: Bytes that each group holds when its device needs most, ``[num_groups]``.
        seconds: Of each group, infinite where it may not go, ``[num_groups, num_devices]``.
    """
    choices, free = choices.copy(), free.copy()
    shared = bytes_exchanged(problem, choices)
    movable = np.flatnonzero(held > 0)
    cost = (least_bytes(problem.graph) + shared[movable, choices[movable]]) / held[movable]
    for group in movable[np.argsort(cost, kind="stable")].tolist():
        source = choices[group]
        room = problem.allowed[group] & (held[group] <= free)
        if free[source] < 0 and room.any():
            target = min(
                np.flatnonzero(room).tolist(),
                key=lambda device: (seconds[group, device], -shared[group, device]),
            )
            choices[group] = target
            free[source] += held[group]
            free[target] -= held[group]
    return choices


def first_come(graph: OpGraph) -> Ints:
    """The position of each op where ops run as they become ready, one at a time, ``[num_ops]``."""
    producers, consumers, _ = graph.edges
    missing = np.bincount(consumers, minlength=graph.num_ops).tolist()
    by_producer = consumers[np.lexsort((consumers, producers))].tolist()
    ends = np.cumsum(np.bincount(producers, minlength=graph.num_ops)).tolist()
    queue = deque(op for op in range(graph.num_ops) if not missing[op])
    position = np.empty(graph.num_ops, np.int32)
    for nth in range(graph.num_ops):
        op = queue.popleft()
        position[op] = nth
        for consumer in by_producer[ends[op - 1] if op else 0 : ends[op]]:
            missing[consumer] -= 1
            if not missing[consumer]:
                queue.append(consumer)
    return position


def _estimate(problem: Problem, choices: Ints, position: Ints) -> tuple[Floats, Floats]:
    """What each device needs at most, and what each group holds at that time.

    A tensor is on its producer's device and on that of each reader from its producer to its last
    reader there. It counts to the group of its producer, a copy to that of the last reader.

    Args:
        problem: The problem.
        choices: Device per group, ``[num_groups]``.
        position: Of each op, as :func:`first_come` gives it, ``[num_ops]``.

    Returns:
        Bytes per device, ``[num_devices]``, and per group, ``[num_groups]``.
    """
    graph, num_devices = problem.graph, problem.num_devices
    groups, devices = problem.groups.group_of_op, problem.expand(choices)
    _, consumers, tensors = graph.edges
    readers = consumers[tensors >= 0]
    makers = graph.tensor_producer
    # a tensor on a device, and an op that makes or reads it there; the last says how long it stays
    users = np.concatenate([makers, readers])
    used = np.concatenate([np.arange(graph.num_tensors), tensors[tensors >= 0]])
    copies = used.astype(np.int64) * num_devices + devices[users]
    by_copy = np.lexsort((position[users], copies))
    copies, users = copies[by_copy], users[by_copy]
    is_last = np.diff(copies, append=-1) != 0
    last = users[is_last]
    tensor, device = np.divmod(copies[is_last], num_devices)
    at_home = devices[makers[tensor]] == device
    holder = groups[np.where(at_home, makers[tensor], last)]
    made, last_used, size = position[makers[tensor]], position[last], graph.tensor_bytes[tensor]
    change = np.zeros((graph.num_ops + 1, num_devices))
    np.add.at(change, (made, device), size)
    np.subtract.at(change, (last_used + 1, device), size)
    in_use = np.cumsum(change, axis=0)
    in_use[position, devices] += graph.temporary_bytes
    peak = in_use.argmax(axis=0)
    held = np.where((made <= peak[device]) & (peak[device] <= last_used), size, 0.0)
    runs = np.where(position == peak[devices], graph.temporary_bytes, 0.0)
    by_group = (
        problem.group_parameter_bytes
        + np.bincount(holder, held, problem.num_groups)
        + np.bincount(groups, runs, problem.num_groups)
    )
    variables = np.bincount(choices, problem.group_parameter_bytes, num_devices)
    return in_use.max(axis=0) + variables, by_group


def bytes_exchanged(problem: Problem, choices: Ints) -> Floats:
    """Bytes that each group exchanges with those on each device, ``[num_groups, num_devices]``.

    Args:
        problem: The problem.
        choices: Device per group, -1 for none, ``[num_groups]``.
    """
    producers, consumers, sizes = group_edges(problem)
    shared = np.zeros((problem.num_groups, problem.num_devices))
    for here, there in ((producers, consumers), (consumers, producers)):
        placed = choices[there] >= 0
        np.add.at(shared, (here[placed], choices[there][placed]), sizes[placed])
    return shared
