"""The order in which devices run their ops, held by control edges."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from placer.errors import PlacementError
from placer.graph import OpGraph, split_input
from placer.placement import Placement
from placer.simulator import Simulator
from placer.tf._costs import op_types

_UNORDERED = op_types(
    "Const Placeholder PlaceholderV2 PlaceholderWithDefault VarHandleOp Variable VariableV2"
)
"""What these give is there before the step, so they wait for nothing."""


_SWITCHES = op_types("Switch RefSwitch _SwitchN")


def check_order(graph: OpGraph) -> None:
    """Checks that devices can run the ops of a graph in an order.

    Raises:
        PlacementError: Some ops are on the side of a branch and run only if it is taken. Whatever
            followed one of them would not run either.
    """
    for name, kind in zip(graph.op_names, graph.op_types, strict=True):
        if kind in _SWITCHES:
            raise PlacementError(
                f"op {name!r} ({kind}) is a branch in the form of TensorFlow 1, of which one side "
                "does not run; expected order 'fifo', or a program without such branches"
            )


def order_simulator(placement: Placement) -> Simulator | None:
    """What simulates the order of a placement; None where that is TensorFlow's own.

    Raises:
        PlacementError: As :func:`check_order`.
    """
    if placement.order == "fifo":
        return None
    check_order(placement.graph)
    return Simulator(
        placement.graph, placement.cluster, order=placement.order, priorities=placement.priorities
    )


def previous_ops(simulator: Simulator, devices: Sequence[int]) -> list[int]:
    """For each op the one that it follows, so that devices run their ops as in the schedule.

    Each op follows the one that had its slot before. Together with the graph's own edges that
    makes no cycle, so it cannot deadlock: along an edge of either kind, the first op has finished
    in the schedule when the second one starts, and as every op takes time, starts grow along
    every path.

    Args:
        simulator: Simulates the order.
        devices: Index of the device of each op, ``[num_ops]``.

    Returns:
        Index of the op that each op follows, -1 for none, ``[num_ops]``.
    """
    schedule = simulator.schedule(np.asarray(devices, np.int32))
    cluster = simulator.cluster
    # when each slot is free next, and the op that it is free after
    slots = {
        device.name: [(0.0, -1 - slot) for slot in range(num_slots)]
        for device, num_slots in zip(
            cluster.devices, cluster.num_slots(simulator.graph.num_ops).tolist(), strict=True
        )
    }
    types = simulator.graph.op_types
    previous = [-1] * len(types)
    for index, op in sorted(enumerate(schedule.ops), key=lambda pair: pair[1].start_seconds):
        if types[index] not in _UNORDERED:
            _, before = heapq.heapreplace(slots[op.device], (op.finish_seconds, index))
            previous[index] = max(before, -1)
    return previous


def hold_order(graph_def: Any, previous: Sequence[int]) -> None:
    """Has each node start after the one that it follows.

    Args:
        graph_def: The graph; its nodes get control edges.
        previous: What :func:`previous_ops` gave, ``[num_ops]``.
    """
    for node, before in zip(graph_def.node, previous, strict=True):
        name = graph_def.node[before].name
        if before >= 0 and name not in {split_input(ref)[0] for ref in node.input}:
            node.input.append(f"^{name}")
