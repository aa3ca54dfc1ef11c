"""What is known of a step when only some ops have a device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from placer._kernels.jit import allocating
from placer._tables import Floats, Ints


class PartialTables(NamedTuple):
    """What graph and cluster say; never written to.

    Edges are sorted by the position of their producer in the topological order.
    """

    edge_producer: Ints  # [num_edges]
    edge_consumer: Ints  # [num_edges]
    edge_bytes: Floats  # [num_edges]
    durations: Floats  # [num_ops, num_devices] nanoseconds
    fastest: Floats  # [num_ops] the least duration
    latency_seconds: Floats  # [num_devices, num_devices]
    bandwidth: Floats  # [num_devices, num_devices]
    slots: Ints  # [num_devices]


@allocating
def bound_step(t: PartialTables, devices: Ints) -> float:
    """Nanoseconds that a step takes at least, wherever the ops without a device go.

    The greatest of three: the longest path, with transfers between ops that have a device and
    the least duration of those that have none; for each device, its work and the least time
    before and after it; all work over all slots.

    Args:
        t: The tables.
        devices: Device of each op, or -1, ``[num_ops]``.
    """
    num_ops, num_devices = t.durations.shape
    work, before, after = np.empty(num_ops), np.zeros(num_ops), np.zeros(num_ops)
    for op in range(num_ops):
        work[op] = t.fastest[op] if devices[op] < 0 else t.durations[op, devices[op]]
    transfers = np.zeros(len(t.edge_producer))
    for edge in range(len(t.edge_producer)):
        producer, consumer = t.edge_producer[edge], t.edge_consumer[edge]
        source, target = devices[producer], devices[consumer]
        if source >= 0 and target >= 0 and source != target:
            seconds = (
                t.latency_seconds[source, target] + t.edge_bytes[edge] / t.bandwidth[source, target]
            )
            transfers[edge] = max(1.0, np.rint(seconds * 1e9))
        arrival = before[producer] + work[producer] + transfers[edge]
        before[consumer] = max(before[consumer], arrival)
    for edge in range(len(t.edge_producer) - 1, -1, -1):
        producer, consumer = t.edge_producer[edge], t.edge_consumer[edge]
        rest = transfers[edge] + work[consumer] + after[consumer]
        after[producer] = max(after[producer], rest)

    longest, total = 0.0, 0.0
    load = np.zeros(num_devices)
    least_before, least_after = np.full(num_devices, np.inf), np.full(num_devices, np.inf)
    for op in range(num_ops):
        longest = max(longest, before[op] + work[op] + after[op])
        total += work[op]
        device = devices[op]
        if device >= 0:
            load[device] += work[op]
            least_before[device] = min(least_before[device], before[op])
            least_after[device] = min(least_after[device], after[op])
    longest = max(longest, float(np.ceil(total / t.slots.sum())))
    for device in range(num_devices):
        if load[device] > 0:
            rest = least_before[device] + least_after[device]
            longest = max(longest, rest + float(np.ceil(load[device] / t.slots[device])))
    return longest
