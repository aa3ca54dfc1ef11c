"""A replay: simulating a schedule whose order of starts is known beforehand.

In that order it works out when each op starts and finishes and when each tensor arrives, with
queues on devices and channels and one transfer per tensor and device: no more than what makes the
schedule what it is. What it leaves out is finding the order: which op of which device is next, what
is ready and since when, and what waits where. So a simulator that takes one placement at a time does
at least this much, where ops are started first come first served, one at a time, and a channel has
one source.

As with the floor there are two ways, and the faster counts. One looks all up by the numbers of the
graph, and is told nothing but the order. The other is given the graph with ops, edges and durations
numbered anew in that order, so that it goes through memory from one end to the other; it then reads
more that no other placement shares.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from placer._kernels import start_order
from placer._tables import (
    Indices,
    addresses_of,
    build_tables,
    max_slots,
    new_recording,
    new_start_order_scratch,
)
from placer.cluster import Cluster
from placer.graph import OpGraph


class Numbered(NamedTuple):
    """A graph in one numbering of its ops, or in one for each placement of a batch."""

    edge_offsets: Indices  # [1 or batch, num_ops + 1] first edge from each op
    edge_consumer: Indices  # [1 or batch, num_edges]
    edge_slot: Indices  # [1 or batch, num_edges]
    edge_bytes: NDArray[np.float64]  # [1 or batch, num_edges]
    duration_ns: NDArray[np.float64]  # [1 or batch, num_ops * num_speeds]


class Links(NamedTuple):
    """A pair of devices is ``producer's * num_devices + consumer's``."""

    speed_of: Indices  # [num_devices] column of the durations
    bandwidth: NDArray[np.float64]  # [num_devices * num_devices]
    latency_seconds: NDArray[np.float64]  # [num_devices * num_devices]
    channel_ids: Indices  # [num_devices * num_devices]; num_channels for none
    num_channels: int
    num_slots: int


class Ordered(NamedTuple):
    """Placements in order of start."""

    graph: Numbered
    orders: Indices | None  # [batch, num_ops] ops by start; None if they are numbered so
    devices: Indices  # [batch, num_ops] of each op


class Replay:
    """Replays what a simulator does with placements."""

    def __init__(self, graph: OpGraph, cluster: Cluster) -> None:
        """Prepares for a graph and a cluster that the start-order engine can simulate."""
        tables = build_tables(graph, cluster, "fifo", None)
        num_channels = len(cluster.channel_names)
        self._tables = tables
        self._scratch = new_start_order_scratch(tables, num_channels)
        self._recording = new_recording(
            graph.num_ops, len(tables.edge_consumer), cluster.num_devices
        )
        producers = np.repeat(np.arange(graph.num_ops), np.diff(tables.edge_offsets))
        is_data = tables.edge_slot < np.diff(tables.output_offsets)[producers]
        tensors = np.where(is_data, tables.output_offsets[producers] + tables.edge_slot, -1)
        self._graph = Numbered(
            tables.edge_offsets[None],
            tables.edge_consumer[None],
            tables.edge_slot[None],
            np.append(tables.tensor_bytes, 0.0)[tensors][None],
            tables.duration_ns.reshape(1, -1),
        )
        channel_ids = np.where(tables.channel_ids < 0, num_channels, tables.channel_ids)
        self._links = Links(
            tables.speed_of.astype(np.uint32),
            tables.bandwidth.ravel(),
            tables.latency_seconds.ravel(),
            channel_ids.ravel().astype(np.uint32),
            num_channels,
            max_slots(tables),
        )

    def order(self, placements: NDArray[np.int32]) -> Ordered:
        """Finds the orders of starts under placements ``[batch, num_ops]``."""
        orders = np.empty(placements.shape, np.uint32)
        step_ns, settled = np.zeros(1), np.zeros(1, bool)
        given = addresses_of(self._tables), addresses_of(self._scratch)
        record = addresses_of(self._recording)
        for order, placement in zip(orders, placements, strict=True):
            start_order.simulate_rows(*given, placement[None], step_ns, settled, record)
            if not settled[0]:
                raise ValueError("a placement does not surely fit into memory")
            order[:] = np.argsort(self._recording.start_ns, kind="stable")
        return Ordered(self._graph, orders, placements.view(np.uint32))

    def renumber(self, placements: NDArray[np.int32]) -> Ordered:
        """Numbers the graph by the orders of starts under placements ``[batch, num_ops]``."""
        _, orders, devices = self.order(placements)
        offsets, *of_edges, durations = (table[0] for table in self._graph)
        first, counts = offsets[:-1].astype(np.int64), np.diff(offsets.astype(np.int64))
        graphs = []
        for order in orders:
            new_offsets = np.append(0, counts[order].cumsum())
            edges = np.arange(len(of_edges[0]))
            edges += np.repeat(first[order] - new_offsets[:-1], counts[order])
            position = np.empty_like(order)
            position[order] = np.arange(len(order))
            consumer, slot, size = (table[edges] for table in of_edges)
            duration = durations.reshape(len(order), -1)[order].ravel()
            graphs.append((new_offsets.astype(np.uint32), position[consumer], slot, size, duration))
        graph = Numbered(*map(np.stack, zip(*graphs, strict=True)))
        return Ordered(graph, None, np.take_along_axis(devices, orders, axis=1))

    def seconds(self, ordered: Ordered) -> NDArray[np.float64]:
        """The step times ``[batch]``."""
        return _replay(*ordered.graph, *self._links, ordered.orders, ordered.devices) / 1e9


@numba.njit(cache=True, error_model="numpy")
def _replay(
    edge_offsets,
    edge_consumer,
    edge_slot,
    edge_bytes,
    duration_ns,
    speed_of,
    bandwidth,
    latency_seconds,
    channel_ids,
    num_channels,
    num_slots,
    orders,
    devices,
):
    batch, num_ops = devices.shape
    one, num_devices = np.uint64(1), np.uint64(len(speed_of))
    num_speeds = np.uint64(duration_ns.shape[1] // num_ops)
    step_ns = np.zeros(batch)
    ready_ns = np.empty(num_ops)  # when the last tensor arrives so far
    free_ns = np.empty(num_devices)
    channel_free_ns = np.empty(num_channels + 1)
    sent_by = np.empty(num_slots * num_devices, np.uint32)
    sent_ns = np.empty(num_slots * num_devices)
    for row in range(batch):
        table = row % len(edge_offsets)
        offsets, consumers, slots = edge_offsets[table], edge_consumer[table], edge_slot[table]
        sizes, durations, device_of = edge_bytes[table], duration_ns[table], devices[row]
        ready_ns.fill(0.0)
        free_ns.fill(0.0)
        channel_free_ns.fill(0.0)
        sent_by.fill(num_ops)
        edge = np.uint64(0)
        for position in range(np.uint64(num_ops)):
            op = position if orders is None else np.uint64(orders[row, position])
            device = np.uint64(device_of[op])
            start = ready_ns[op] if ready_ns[op] > free_ns[device] else free_ns[device]
            finish = start + durations[op * num_speeds + speed_of[device]]
            free_ns[device] = finish
            if orders is not None:
                edge = np.uint64(offsets[op])
            while edge < offsets[op + one]:
                consumer = consumers[edge]
                target = device_of[consumer]
                arrival = finish
                if target != device:
                    sent = slots[edge] * num_devices + target
                    if sent_by[sent] == op:
                        arrival = sent_ns[sent]
                    else:
                        pair = device * num_devices + target
                        seconds = latency_seconds[pair] + sizes[edge] / bandwidth[pair]
                        channel = channel_ids[pair]
                        if channel < num_channels:
                            arrival = max(arrival, channel_free_ns[channel])
                        arrival += max(1.0, np.rint(seconds * 1e9))
                        channel_free_ns[channel] = arrival
                        sent_by[sent] = op
                        sent_ns[sent] = arrival
                ready_ns[consumer] = arrival if arrival > ready_ns[consumer] else ready_ns[consumer]
                edge += one
        step_ns[row] = free_ns.max()
    return step_ns
