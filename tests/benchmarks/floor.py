"""The floor: a bare longest-path pass, which is less work than any simulation.

For each op it looks at where the op and its producers are, adds the time of a transfer where these
differ, takes the latest, and adds the op's duration on its device. There are no queues: devices and
channels serve any number at once. So what it gives is a bound, too: no step is shorter.

It is written to be as fast as it can be: ops in topological order, flat arrays, transfer times per
edge, no branch but the loops. Indices are unsigned, as compiled code then need not look for
negative ones; that alone makes it 1.3 to 1.9 times as fast. Integer times were slower: the choice
between transfer and none becomes a branch.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster
from placer.costs import op_seconds
from placer.graph import OpGraph


class Floor(NamedTuple):
    """What the pass reads; an edge is a tensor or a control signal that an op waits for.

    Times are whole nanoseconds.
    """

    edge_offsets: NDArray[np.uint32]  # [num_ops + 1] first edge into each op
    edge_producer: NDArray[np.uint32]  # [num_edges]
    transfer_ns: NDArray[np.float64]  # [num_edges] if producer and consumer are on two devices
    duration_ns: NDArray[np.float64]  # [num_ops * num_devices]

    @classmethod
    def build(cls, graph: OpGraph, cluster: Cluster) -> Floor:
        """Prepares the pass for a graph numbered in a topological order, and for equal links."""
        producers, consumers, tensors = graph.edges
        if not (producers < consumers).all():
            raise ValueError(f"{graph.name}: ops are not numbered in a topological order")
        apart = ~np.eye(cluster.num_devices, dtype=bool)
        (bandwidth,) = set(cluster.bandwidth[apart].tolist())
        (latency,) = set(cluster.latency_seconds[apart].tolist())
        order = np.argsort(consumers, kind="stable")
        sizes = np.append(graph.tensor_bytes, 0.0)[tensors[order]]  # -1 stands for a control signal
        return cls(
            np.searchsorted(consumers[order], np.arange(graph.num_ops + 1)).astype(np.uint32),
            producers[order].astype(np.uint32),
            _whole_ns(latency + sizes / bandwidth),
            _whole_ns(op_seconds(graph, cluster)).ravel(),
        )

    def seconds(self, placements: NDArray[np.int32]) -> NDArray[np.float64]:
        """The longest path under each placement ``[batch, num_ops]``, ``[batch]``."""
        return _longest_paths(*self, placements) / 1e9

    def seconds_without_transfers(self, placements: NDArray[np.int32]) -> NDArray[np.float64]:
        """The same where transfers take no time."""
        return _longest_paths_without_transfers(*self, placements) / 1e9


def _whole_ns(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0, np.rint(seconds * 1e9))


@numba.njit(cache=True)
def _longest_paths(edge_offsets, edge_producer, transfer_ns, duration_ns, placements):
    batch, num_ops = placements.shape
    num_devices = np.uint64(len(duration_ns) // num_ops)
    longest = np.zeros(batch)
    finish = np.empty(num_ops)
    for row in range(batch):
        placement = placements[row]
        last = 0.0
        edge = np.uint64(0)
        for op in range(num_ops):
            device = placement[op]
            ready = 0.0
            while edge < edge_offsets[op + 1]:
                producer = edge_producer[edge]
                arrival = finish[producer] + transfer_ns[edge] * (placement[producer] != device)
                ready = arrival if arrival > ready else ready
                edge += np.uint64(1)
            finish[op] = ready + duration_ns[np.uint64(op) * num_devices + np.uint64(device)]
            last = finish[op] if finish[op] > last else last
        longest[row] = last
    return longest


@numba.njit(cache=True)
def _longest_paths_without_transfers(
    edge_offsets, edge_producer, _transfer_ns, duration_ns, placements
):
    batch, num_ops = placements.shape
    num_devices = np.uint64(len(duration_ns) // num_ops)
    longest = np.zeros(batch)
    finish = np.empty(num_ops)
    for row in range(batch):
        placement = placements[row]
        last = 0.0
        edge = np.uint64(0)
        for op in range(num_ops):
            ready = 0.0
            while edge < edge_offsets[op + 1]:
                arrival = finish[edge_producer[edge]]
                ready = arrival if arrival > ready else ready
                edge += np.uint64(1)
            device = np.uint64(placement[op])
            finish[op] = ready + duration_ns[np.uint64(op) * num_devices + device]
            last = finish[op] if finish[op] > last else last
        longest[row] = last
    return longest
