"""Two floors: bare longest-path passes, which are less work than any simulation.

For each op they look at where the op and its producers are, add the time of a transfer where these
differ, take the latest, and add the op's duration on its device. There are no queues: devices and
channels serve any number at once. So what they give is a bound, too: no step is shorter.

:class:`Floor` knows as little as the simulator does before it sees a placement: links of any speed
between any devices. It comes with a branch for transfers and without: the branch saves work that
most edges do not need, but is mispredicted where every other edge needs it. :class:`TunedFloor`
makes use of what is special about the benchmark, that all links are equal. All are written to be
fast: ops in topological order, flat arrays. Indices are unsigned, as compiled code then need not
look for negative ones; that alone makes them 1.3 to 1.9 times as fast.
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
    """The longest path over any links; an edge is a tensor or a control signal.

    A pair of devices is ``producer's * num_devices + consumer's``.
    """

    edge_offsets: NDArray[np.uint32]  # [num_ops + 1] first edge into each op
    edge_producer: NDArray[np.uint32]  # [num_edges]
    edge_bytes: NDArray[np.float64]  # [num_edges]
    duration_ns: NDArray[np.float64]  # [num_ops * num_speeds]
    speed_of: NDArray[np.uint32]  # [num_devices] column of the durations
    bandwidth: NDArray[np.float64]  # [num_devices * num_devices]
    latency_seconds: NDArray[np.float64]  # [num_devices * num_devices]
    least_ns: NDArray[np.float64]  # [num_devices * num_devices] of a transfer; 0 to itself

    @classmethod
    def build(cls, graph: OpGraph, cluster: Cluster) -> Floor:
        """Prepares the pass for a graph numbered in a topological order."""
        producers, consumers, tensors = graph.edges
        if not (producers < consumers).all():
            raise ValueError(f"{graph.name}: ops are not numbered in a topological order")
        order = np.argsort(consumers, kind="stable")
        duration_ns = _whole_ns(op_seconds(graph, cluster))
        firsts: dict[bytes, int] = {}  # durations -> first device that has them
        first = [firsts.setdefault(column.tobytes(), d) for d, column in enumerate(duration_ns.T)]
        speeds, speed_of = np.unique(first, return_inverse=True)
        return cls(
            np.searchsorted(consumers[order], np.arange(graph.num_ops + 1)).astype(np.uint32),
            producers[order].astype(np.uint32),
            np.append(graph.tensor_bytes, 0.0)[tensors[order]],  # -1 stands for a control signal
            duration_ns[:, speeds].ravel(),
            speed_of.astype(np.uint32),
            cluster.bandwidth.ravel().copy(),
            cluster.latency_seconds.ravel().copy(),
            1.0 - np.eye(cluster.num_devices).ravel(),
        )

    def seconds(self, placements: NDArray[np.int32]) -> NDArray[np.float64]:
        """The longest path under each placement ``[batch, num_ops]``, ``[batch]``."""
        return _longest_paths(*self, placements) / 1e9

    def seconds_without_branches(self, placements: NDArray[np.int32]) -> NDArray[np.float64]:
        """The same; a transfer from a device to itself is worked out, too, and takes no time."""
        return _longest_paths_without_branches(*self, placements) / 1e9


class TunedFloor(NamedTuple):
    """The longest path over equal links, whose transfer times are known before any placement."""

    edge_offsets: NDArray[np.uint32]  # [num_ops + 1] first edge into each op
    edge_producer: NDArray[np.uint32]  # [num_edges]
    transfer_ns: NDArray[np.float64]  # [num_edges] if producer and consumer are on two devices
    duration_ns: NDArray[np.float64]  # [num_ops * num_speeds]
    speed_of: NDArray[np.uint32]  # [num_devices] column of the durations

    @classmethod
    def build(cls, floor: Floor) -> TunedFloor:
        """Prepares the pass for what a floor was made for, if all its links are equal."""
        apart = floor.least_ns > 0
        (bandwidth,) = set(floor.bandwidth[apart].tolist())
        (latency,) = set(floor.latency_seconds[apart].tolist())
        return cls(
            floor.edge_offsets,
            floor.edge_producer,
            _whole_ns(latency + floor.edge_bytes / bandwidth),
            floor.duration_ns,
            floor.speed_of,
        )

    def seconds(self, placements: NDArray[np.int32]) -> NDArray[np.float64]:
        """The longest path under each placement ``[batch, num_ops]``, ``[batch]``."""
        return _longest_paths_over_equal_links(*self, placements) / 1e9


def _whole_ns(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0, np.rint(seconds * 1e9))


@numba.njit(cache=True)
def _longest_paths(
    edge_offsets,
    edge_producer,
    edge_bytes,
    duration_ns,
    speed_of,
    bandwidth,
    latency_seconds,
    _least_ns,
    placements,
):
    batch, num_ops = placements.shape
    num_devices = np.uint64(len(speed_of))
    num_speeds = np.uint64(len(duration_ns) // num_ops)
    longest = np.zeros(batch)
    finish = np.empty(num_ops)
    for row in range(batch):
        placement = placements[row].view(np.uint32)
        last = 0.0
        edge = np.uint64(0)
        for op in range(num_ops):
            device = placement[op]
            ready = 0.0
            while edge < edge_offsets[op + 1]:
                producer = edge_producer[edge]
                source = placement[producer]
                arrival = finish[producer]
                if source != device:
                    pair = source * num_devices + device
                    seconds = latency_seconds[pair] + edge_bytes[edge] / bandwidth[pair]
                    arrival += max(1.0, np.rint(seconds * 1e9))
                ready = arrival if arrival > ready else ready
                edge += np.uint64(1)
            finish[op] = ready + duration_ns[np.uint64(op) * num_speeds + speed_of[device]]
            last = finish[op] if finish[op] > last else last
        longest[row] = last
    return longest


@numba.njit(cache=True)
def _longest_paths_without_branches(
    edge_offsets,
    edge_producer,
    edge_bytes,
    duration_ns,
    speed_of,
    bandwidth,
    latency_seconds,
    least_ns,
    placements,
):
    batch, num_ops = placements.shape
    num_devices = np.uint64(len(speed_of))
    num_speeds = np.uint64(len(duration_ns) // num_ops)
    longest = np.zeros(batch)
    finish = np.empty(num_ops)
    for row in range(batch):
        placement = placements[row].view(np.uint32)
        last = 0.0
        edge = np.uint64(0)
        for op in range(num_ops):
            device = placement[op]
            ready = 0.0
            while edge < edge_offsets[op + 1]:
                producer = edge_producer[edge]
                pair = placement[producer] * num_devices + device
                seconds = latency_seconds[pair] + edge_bytes[edge] / bandwidth[pair]
                arrival = finish[producer] + max(least_ns[pair], np.rint(seconds * 1e9))
                ready = arrival if arrival > ready else ready
                edge += np.uint64(1)
            finish[op] = ready + duration_ns[np.uint64(op) * num_speeds + speed_of[device]]
            last = finish[op] if finish[op] > last else last
        longest[row] = last
    return longest


@numba.njit(cache=True)
def _longest_paths_over_equal_links(
    edge_offsets, edge_producer, transfer_ns, duration_ns, speed_of, placements
):
    batch, num_ops = placements.shape
    num_speeds = np.uint64(len(duration_ns) // num_ops)
    longest = np.zeros(batch)
    finish = np.empty(num_ops)
    for row in range(batch):
        placement = placements[row].view(np.uint32)
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
            finish[op] = ready + duration_ns[np.uint64(op) * num_speeds + speed_of[device]]
            last = finish[op] if finish[op] > last else last
        longest[row] = last
    return longest
