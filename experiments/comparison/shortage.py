"""What makes a problem infeasible whatever is tried."""

from __future__ import annotations

import numpy as np

from placer.cluster import Cluster
from placer.costs import allowed_devices
from placer.errors import ClusterError
from placer.graph import OpGraph
from placer.grouping import group_ops

_NUM_NAMED = 3


def find_shortage(graph: OpGraph, cluster: Cluster, groups: int | None = None) -> str | None:
    """Says which ops have no device, or more bytes of variables than their devices have memory.

    It looks at each op group, which shares a device, and at all op groups that may only run on some
    devices, against the sum of their memory. That no more than this is lacking does not mean that
    a placement fits: groups are no liquid, and tensors take memory, too.

    Args:
        graph: The graph.
        cluster: The cluster.
        groups: At most so many op groups; None for the grouping's own choice.

    Returns:
        The reason, or None.
    """
    try:
        allowed = allowed_devices(graph, cluster)
    except ClusterError as error:  # an op that no device can run
        return f"{graph.name} does not fit {cluster.name}: {error}"
    op_groups = group_ops(graph, groups)
    by_group = np.ones((op_groups.num_groups, cluster.num_devices), bool)
    np.logical_and.at(by_group, op_groups.group_of_op, allowed)
    memory = np.array([device.memory_bytes for device in cluster.devices])
    needs = np.bincount(op_groups.group_of_op, graph.parameter_bytes, op_groups.num_groups)
    largest = np.where(by_group, memory, 0).max(axis=1)
    for group in np.flatnonzero(~by_group.any(axis=1)):
        return (
            f"{graph.name} does not fit {cluster.name}: no device has a kind that all ops of op "
            f"group {op_groups.names[group]!r} can run on"
        )
    for group in np.flatnonzero(needs > largest):
        ops = np.flatnonzero(op_groups.group_of_op == group)
        what = f"op group {op_groups.names[group]!r} has"
        where = "the largest device that may hold it"
        return _message(graph, cluster, ops, what, largest[group], where)
    for devices in np.unique(by_group, axis=0):
        confined = ~(by_group & ~devices).any(axis=1)
        capacity = memory[devices].sum()
        if needs[confined].sum() > capacity:
            ops = np.flatnonzero(confined[op_groups.group_of_op])
            names = ", ".join(np.array(cluster.device_names)[devices].tolist())
            what, where = f"ops that may go to {names} have", "all of that"
            return _message(graph, cluster, ops, what, capacity, where)
    return None


def _message(
    graph: OpGraph,
    cluster: Cluster,
    ops: np.typing.NDArray[np.int64],
    what: str,
    capacity: float,
    where: str,
) -> str:
    needed = graph.parameter_bytes[ops].sum()
    ops = ops[graph.parameter_bytes[ops] > 0]
    heaviest = ops[np.argsort(-graph.parameter_bytes[ops], kind="stable")][:_NUM_NAMED]
    named = ", ".join(
        f"{graph.op_names[op]!r} ({graph.parameter_bytes[op]:,.0f})" for op in heaviest
    )
    rest = f" and {len(ops) - len(heaviest)} more" if len(ops) > len(heaviest) else ""
    return (
        f"{graph.name} does not fit {cluster.name}: {what} {needed:,.0f} bytes of variables, "
        f"{where} {capacity:,.0f} of memory: {needed - capacity:,.0f} too many; by op: "
        f"{named}{rest}"
    )
