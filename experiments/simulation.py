"""Simulates a placement for ``placer simulate``."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import msgspec
import numpy as np

from placer import files
from placer.cluster import Cluster
from placer.errors import UnknownNameError
from placer.graph import OpGraph
from placer.placement import Order, Placement, Schedule
from placer.simulator import Simulator


def everything_on(device: str, graph: OpGraph, cluster: Cluster) -> Placement:
    """The placement of every op on one device.

    Raises:
        UnknownNameError: The cluster has no such device.
    """
    if device not in cluster.device_index:
        raise UnknownNameError("device", device, cluster.device_index)
    index = cluster.device_index[device]
    return Placement(graph, cluster, np.full(graph.num_ops, index, np.int32))


def in_order(placement: Placement, order: Order | None) -> Placement:
    """The placement in another order than its own, if one is given."""
    if order is None or order == placement.order:
        return placement
    return dataclasses.replace(placement, order=order, priorities=None)


def simulate(placement: Placement) -> Schedule:
    """Simulates a placement."""
    simulator = Simulator(
        placement.graph,
        placement.cluster,
        order=placement.order,
        priorities=placement.priorities,
    )
    return simulator.schedule(placement.devices)


def summarize(schedule: Schedule) -> dict[str, Any]:
    """A schedule without its ops and transfers."""
    return {
        "step_time_seconds": schedule.step_time_seconds,
        "feasible": schedule.feasible,
        "peak_memory_bytes": dict(schedule.peak_memory_bytes),
        "busy_seconds": dict(schedule.busy_seconds),
        "transfer_bytes": schedule.transfer_bytes,
        "num_transfers": schedule.num_transfers,
        "infeasible_because": schedule.infeasible_because,
    }


def write_schedule(schedule: Schedule, path: str | os.PathLike[str]) -> None:
    """Writes when every op and transfer starts and finishes, as JSON.

    Raises:
        PlacerError: The file cannot be written.
    """
    content = msgspec.json.encode({"ops": schedule.ops, "transfers": schedule.transfers})
    files.write_bytes(path, msgspec.json.format(content, indent=1) + b"\n")
