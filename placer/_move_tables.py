"""Records for trying moves from a base schedule; see ``placer._kernels.moves``.

What is known of an op lies together in memory, and few arrays are passed from Python, as that takes
a good part of what a move takes. A stamp says in which trial, or since which cut, an entry was last
written. Indices are unsigned: compiled code then need not look whether one is negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placer._tables import Bools, Floats, Ints, Tables, max_slots

Indices = NDArray[np.uint32]
Records = NDArray[np.void]

_LINE_BYTES = 64
_OP = np.dtype(
    [
        # the first line of the processor's cache: what is asked of those that wait for an op
        ("device", "u4"),  # in the base, as are the next three
        ("position", "u4"),  # in the sequence
        ("start_ns", "f8"),
        ("last_producer_ns", "f8"),  # latest start of a producer
        ("first_input", "u4"),  # by consumer
        ("end_input", "u4"),
        ("moved", "u4"),  # stamp of the trial
        ("started", "u4"),  # stamp of the cut; of a moved op: not 0 if it has started
        ("seen", "u4"),  # stamp of the cut: what follows is valid
        ("missing", "u4"),  # inputs of which it is not known when they are there
        ("arrived_ns", "f8"),  # latest of the other inputs
        ("base_arrived_ns", "f8"),  # the same in the base
        # the second line
        ("ready_ns", "f8"),  # in the base, as are the next two
        ("finish_ns", "f8"),
        ("reach_ns", "f8"),  # latest effect of this op and of those before it on its device
        ("most_bytes", "f8"),  # what it takes at most on a device that it comes to
        ("first_edge", "u4"),  # by producer
        ("end_edge", "u4"),
        ("first_tensor", "u4"),
        ("end_tensor", "u4"),
        ("disturbed", "u4"),  # stamp of the trial
        ("colocated_with", "u4"),  # first op of its colocation group, or itself
        ("group_size", "u4"),  # of the colocation group that begins with this op
        ("group_count", "u4"),  # how many of it move; zero between trials
    ],
    align=True,
)
_EDGE = np.dtype([("consumer", "u4"), ("slot", "u4"), ("arrival_ns", "f8")])
_INPUT = np.dtype([("edge", "u4"), ("producer", "u4"), ("start_ns", "f8"), ("arrival_ns", "f8")])
_LINK = np.dtype([("latency_seconds", "f8"), ("bandwidth", "f8"), ("channel", "i8")])
_DEVICE = np.dtype(
    [
        ("head", "i4"),  # of its segment of the sequence
        ("end", "i4"),
        ("cut", "i4"),  # first position that has not started at the cut
        ("expected", "i4"),  # first position that has not started now
        ("waiting", "i4"),  # first position that was ready at the cut and has not started
        ("candidate", "u4"),  # op that starts next
        ("source", "i4"),  # where it waits
        ("heap_head", "i8"),
        ("heap_size", "i8"),
        ("line_head", "i4"),
        ("line_end", "i4"),
        ("speed", "u4"),  # column of the durations
        ("ready_ns", "f8"),  # of the candidate
        ("next_start_ns", "f8"),  # of the candidate
        ("free_ns", "f8"),
        ("needed_bytes", "f8"),  # in the base, as if nothing were freed
        ("certain_bytes", "f8"),
    ],
    align=True,
)
_CHANNEL = np.dtype(
    [
        ("stamp", "u4"),  # of the cut
        ("used", "u4"),  # not of this channel: the list of those in use
        ("free_ns", "f8"),
        ("base_free_ns", "f8"),
    ]
)
_SENT = np.dtype([("by", "i8"), ("arrival_ns", "f8")])


class MoveTables(NamedTuple):
    """A base schedule and the working memory for trying moves from it."""

    ops: Records  # [num_ops]
    sequence: Indices  # [num_ops] ops by start, a segment per device
    edges: Records  # [num_edges] by producer; arrivals of the base
    inputs: Records  # [num_edges] by consumer; starts and arrivals of the base
    tensor_bytes: Floats  # [num_tensors]
    duration_ns: Floats  # [num_ops, num_speeds]
    allowed: Bools  # [num_ops, num_devices]
    links: Records  # [num_devices, num_devices]
    devices: Records  # [num_devices]
    spans: Ints  # [num_devices, num_spans + 1] where in the sequence each span of time begins
    spans_per_ns: Floats  # [1]
    channels: Records  # [num_channels]
    sent: Records  # [max_slots * num_devices] from each slot to each device: op start, arrival
    heap_op: Indices  # [3, 2 * num_ops]
    heap_ns: Floats  # [3, 2 * num_ops]
    line: Indices  # [2 * num_ops] what got ready at home, by time, a segment per device
    seen: Indices  # [num_ops] ops with an input since the cut
    counters: NDArray[np.int64]  # [3] trials, cuts, op starts so far


def new_move_tables(tables: Tables, num_channels: int) -> MoveTables:
    """Room for a base, and for trying moves from it."""
    num_ops, num_devices = tables.allowed.shape
    num_edges = len(tables.edge_consumer)
    producers = np.repeat(np.arange(num_ops), np.diff(tables.edge_offsets))
    data_edges = tables.input_edges
    tensors = tables.output_offsets[producers[data_edges]] + tables.edge_slot[data_edges]
    input_bytes = np.bincount(
        tables.edge_consumer[data_edges], tables.tensor_bytes[tensors], num_ops
    )
    ops = _aligned_zeros(num_ops, _OP)
    ops["first_edge"], ops["end_edge"] = tables.edge_offsets[:-1], tables.edge_offsets[1:]
    ops["end_input"] = tables.num_inputs.cumsum()
    ops["first_input"] = ops["end_input"] - tables.num_inputs
    ops["first_tensor"] = tables.output_offsets[:-1]
    ops["end_tensor"] = tables.output_offsets[1:]
    ops["colocated_with"] = tables.colocated_with
    ops["group_size"] = np.bincount(tables.colocated_with, minlength=num_ops)
    ops["most_bytes"] = tables.lasting_bytes + input_bytes
    edges = np.zeros(num_edges, _EDGE)
    edges["consumer"] = tables.edge_consumer
    edges["slot"] = tables.edge_slot
    inputs = np.zeros(num_edges, _INPUT)
    inputs["edge"] = np.argsort(tables.edge_consumer, kind="stable")
    inputs["producer"] = producers[inputs["edge"]]
    links = np.zeros((num_devices, num_devices), _LINK)
    links["latency_seconds"] = tables.latency_seconds
    links["bandwidth"] = tables.bandwidth
    links["channel"] = tables.channel_ids
    devices = np.zeros(num_devices, _DEVICE)
    devices["speed"] = tables.speed_of
    devices["certain_bytes"] = tables.certain_bytes
    return MoveTables(
        ops=ops,
        sequence=np.zeros(num_ops, np.uint32),
        edges=edges,
        inputs=inputs,
        tensor_bytes=tables.tensor_bytes,
        duration_ns=tables.duration_ns,
        allowed=tables.allowed,
        links=links,
        devices=devices,
        spans=np.zeros((num_devices, 2 + num_ops // num_devices), np.int32),
        spans_per_ns=np.zeros(1),
        channels=np.zeros(num_channels, _CHANNEL),
        sent=np.zeros(max_slots(tables) * num_devices, _SENT),
        heap_op=np.zeros((3, 2 * num_ops), np.uint32),
        heap_ns=np.zeros((3, 2 * num_ops)),
        line=np.zeros(2 * num_ops, np.uint32),
        seen=np.zeros(num_ops, np.uint32),
        counters=np.zeros(3, np.int64),
    )


def _aligned_zeros(size: int, dtype: np.dtype[np.void]) -> Records:
    """Zeros that begin with a line of the processor's cache."""
    room = np.zeros(size * dtype.itemsize + _LINE_BYTES, np.uint8)
    first = -room.ctypes.data % _LINE_BYTES
    return room[first : first + size * dtype.itemsize].view(dtype)
