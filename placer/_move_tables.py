"""Records for trying moves from a base schedule; see ``placer._kernels.base``.

What is known of an op lies together in memory. Python passes the addresses of all arrays in one, as
passing them takes longer than most moves (``_kernels.addresses``). A stamp says in which trial, or
since which cut, an entry was last written. Indices are unsigned: compiled code then need not look
whether one is negative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from placer._tables import Bools, Floats, Tables, max_slots

Indices = NDArray[np.uint32]
Records = NDArray[np.void]

NONE = np.uint32(2**32 - 1)
"""In place of an op."""

_OPS_PER_SPAN = 8  # more take longer to look through, fewer longer to put off
_LINE_BYTES = 64
_OP = np.dtype(
    [
        # the first line of the processor's cache: what is asked of those that wait for an op
        ("device", "u4"),  # in the base, as are the next three
        ("span", "u4"),  # in which it starts; its start, finish and effect are relative to that
        ("start_ns", "f8"),
        ("last_producer_ns", "f8"),  # latest start of a producer, relative to its span
        ("first_input", "u4"),  # by consumer
        ("end_input", "u4"),
        ("moved", "u4"),  # stamp of the trial
        ("started", "u4"),  # stamp of the cut; of a moved op: not 0 if it has started
        ("seen", "u4"),  # stamp of the cut: what follows is valid
        ("missing", "u4"),  # inputs of which it is not known when they are there
        ("arrived_ns", "f8"),  # latest of the other inputs
        ("base_arrived_ns", "f8"),  # the same in the base
        # the second line
        ("ready_ns", "f8"),  # in the base, as are all up to the spans; relative to its span
        ("finish_ns", "f8"),
        ("effect_ns", "f8"),  # when the last of what it causes happens
        ("next", "u4"),  # op on its device, or NONE
        ("previous", "u4"),
        ("ready_span", "u4"),  # in which the producer starts whose tensor comes last
        ("last_span", "u4"),  # in which the last producer starts
        ("first_edge", "u4"),  # by producer
        ("end_edge", "u4"),
        ("first_tensor", "u4"),
        ("end_tensor", "u4"),
        ("disturbed", "u4"),  # stamp of the trial
    ],
    align=True,
)
_NEED = np.dtype(
    [
        ("most_bytes", "f8"),  # what it takes at most on a device that it comes to
        ("lasting_bytes", "f8"),  # what it takes there but for copies of inputs
        ("colocated_with", "u4"),  # first op of its colocation group, or itself
        ("group_size", "u4"),  # of the colocation group that begins with this op
        ("group_count", "u4"),  # how many of it move; zero between trials
    ],
    align=True,
)
_EDGE = np.dtype(
    [
        ("consumer", "u4"),
        ("slot", "u4"),
        ("input", "u4"),  # the same edge by consumer
        ("arrival_ns", "f8"),  # relative to the span of the producer
        ("tried_ns", "f8"),  # arrival in the last trial that started the producer
    ],
    align=True,
)
_INPUT = np.dtype([("producer", "u4"), ("span", "u4"), ("start_ns", "f8"), ("arrival_ns", "f8")])
_LINK = np.dtype([("latency_seconds", "f8"), ("bandwidth", "f8"), ("channel", "i8")])
_DEVICE = np.dtype(
    [
        ("first", "u4"),  # op in the base, or NONE, as are the next three
        ("last", "u4"),
        ("cut", "u4"),  # first that has not started at the cut
        ("expected", "u4"),  # first that has not started now
        ("waiting", "u4"),  # first that was ready at the cut and has not started
        ("candidate", "u4"),  # op that starts next
        ("source", "i4"),  # where it waits
        ("line_head", "u4"),
        ("line_end", "u4"),
        ("speed", "u4"),  # column of the durations
        ("num_ops", "i8"),  # in the base
        ("room", "i8"),  # where its segments of the heaps and of the line begin
        ("heap_size", "i8"),
        ("ready_ns", "f8"),  # of the candidate
        ("next_start_ns", "f8"),  # of the candidate
        ("free_ns", "f8"),
        ("needed_bytes", "f8"),  # in the base, as if nothing were freed
        ("certain_bytes", "f8"),  # infinite if all that is ever made fits
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
_SPAN = np.dtype(
    [
        # relative to the span
        ("begin_ns", "f8"),
        ("effect_ns", "f8"),  # when the last happens that is caused by ops that start in it
        ("carried_ns", "f8"),  # the same for the spans before
    ]
)
_START = np.dtype([("op", "u4"), ("start_ns", "f8")], align=True)
_WINDOW = np.dtype(
    [
        ("cut_ns", "f8"),  # in the base, but for the shifts of the windows before, as is the next
        ("base_ns", "f8"),  # the first op that starts in the base after the window
        ("late_ns", "f8"),  # how much later it starts now
        ("end", "i8"),  # of its op starts
        ("first_span", "u4"),  # that the cut lies in
        ("last_span", "u4"),  # in which that op starts
    ]
)

PROPOSAL = np.dtype(
    [
        ("group", "u4"),  # the op group that moves
        ("towards", "u4"),  # another one, to whose device it goes; or itself
        ("device", "u4"),  # where it goes if it may not go there, or is there
        ("other", "u4"),  # where it goes if it is on that device
    ]
)
"""A move of an op group, whatever device it is on."""

OUTCOME = np.dtype([("seconds", "f8"), ("change", "f8"), ("origin", "u4")], align=True)
"""What a proposal came to: the step time, by how much it differs, and where the group was."""


class PlacedGroups(NamedTuple):
    """Op groups, and where they are."""

    ops: Indices  # [num_ops] by group
    offsets: Indices  # [num_groups + 1] where the ops of each group begin, and the end
    allowed: Bools  # [num_groups, num_devices]
    choices: NDArray[np.int32]  # [num_groups]


def device_of(proposal: Any, allowed: Bools, choices: NDArray[np.int32]) -> int:
    """Where a proposal sends its op group; compiled code calls it, too."""
    group, device = proposal["group"], proposal["device"]
    here, there = choices[group], choices[proposal["towards"]]
    if there != here and allowed[group, there]:
        return int(there)
    return int(proposal["other"] if device == here else device)


class MoveTables(NamedTuple):
    """A base schedule and the working memory for trying moves from it.

    Time is cut into spans. What happens to an op is written down relative to the span in which it
    starts, so that all that comes later is put off by adding to what the spans are late.
    """

    ops: Records  # [num_ops]
    needs: Records  # [num_ops]
    edges: Records  # [num_edges] by producer
    inputs: Records  # [num_edges] by consumer; starts and arrivals relative to their spans
    tensor_bytes: Floats  # [num_tensors]
    duration_ns: Floats  # [num_ops, num_speeds]
    allowed: Bools  # [num_ops, num_devices]
    links: Records  # [num_devices, num_devices]
    devices: Records  # [num_devices]
    late_ns: Floats  # [num_spans + 1] to be added to what is relative to a span; 0 for the first
    spans: Records  # [num_spans + 1] the last has only what is carried
    first_ops: Indices  # [num_spans, num_devices] first that starts in a span or later, or NONE
    channels: Records  # [num_channels]
    sent: Records  # [max_slots * num_devices] from each slot to each device: op start, arrival
    queue_op: Indices  # [2 * num_ops] heaps of what got ready since the cut, a segment per device
    queue_ns: Floats  # [2 * num_ops] when, as in the heaps that follow
    copy_op: Indices  # [2 * num_ops] heap to look through a device's queue in order
    copy_ns: Floats  # [2 * num_ops]
    disturbed_op: Indices  # [2 * num_ops] heap of what makes a difference, by start in the base
    disturbed_ns: Floats  # [2 * num_ops]
    line: Indices  # [2 * num_ops] what got ready at home, by time, a segment per device
    seen: Indices  # [num_ops] ops with an input since the cut
    starts: Records  # [num_ops] op starts of the last trial
    windows: Records  # [num_ops] of the last trial: from each cut to where the rest is the base's
    counters: NDArray[np.int64]  # [6] see ``placer._kernels.base``

    @classmethod
    def zeros(
        cls,
        num_ops: int = 1,
        num_edges: int = 1,
        num_devices: int = 1,
        num_channels: int = 1,
        num_slots: int = 1,
    ) -> MoveTables:
        """Room for a graph and a cluster; what trials only read is yet to be put in place."""
        num_spans = 1 + num_ops // _OPS_PER_SPAN
        return cls(
            ops=_aligned_zeros(num_ops, _OP),
            needs=np.zeros(num_ops, _NEED),
            edges=np.zeros(num_edges, _EDGE),
            inputs=np.zeros(num_edges, _INPUT),
            tensor_bytes=np.zeros(1),
            duration_ns=np.zeros((1, 1)),
            allowed=np.zeros((1, 1), bool),
            links=np.zeros((num_devices, num_devices), _LINK),
            devices=np.zeros(num_devices, _DEVICE),
            late_ns=np.zeros(num_spans + 1),
            spans=np.zeros(num_spans + 1, _SPAN),
            first_ops=np.zeros((num_spans, num_devices), np.uint32),
            channels=np.zeros(num_channels, _CHANNEL),
            sent=np.zeros(num_slots * num_devices, _SENT),
            queue_op=np.zeros(2 * num_ops, np.uint32),
            queue_ns=np.zeros(2 * num_ops),
            copy_op=np.zeros(2 * num_ops, np.uint32),
            copy_ns=np.zeros(2 * num_ops),
            disturbed_op=np.zeros(2 * num_ops, np.uint32),
            disturbed_ns=np.zeros(2 * num_ops),
            line=np.zeros(2 * num_ops, np.uint32),
            seen=np.zeros(num_ops, np.uint32),
            starts=np.zeros(num_ops, _START),
            windows=np.zeros(num_ops, _WINDOW),
            counters=np.zeros(6, np.int64),
        )


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
    room = MoveTables.zeros(num_ops, num_edges, num_devices, num_channels, max_slots(tables))
    ops, needs, edges = room.ops, room.needs, room.edges
    ops["first_edge"], ops["end_edge"] = tables.edge_offsets[:-1], tables.edge_offsets[1:]
    ops["end_input"] = tables.num_inputs.cumsum()
    ops["first_input"] = ops["end_input"] - tables.num_inputs
    ops["first_tensor"] = tables.output_offsets[:-1]
    ops["end_tensor"] = tables.output_offsets[1:]
    needs["most_bytes"] = tables.lasting_bytes + input_bytes
    needs["lasting_bytes"] = tables.lasting_bytes
    needs["colocated_with"] = tables.colocated_with
    needs["group_size"] = np.bincount(tables.colocated_with, minlength=num_ops)
    by_consumer = np.argsort(tables.edge_consumer, kind="stable")
    edges["consumer"] = tables.edge_consumer
    edges["slot"] = tables.edge_slot
    edges["input"][by_consumer] = np.arange(num_edges)
    room.inputs["producer"] = producers[by_consumer]
    room.links["latency_seconds"] = tables.latency_seconds
    room.links["bandwidth"] = tables.bandwidth
    room.links["channel"] = tables.channel_ids
    room.devices["speed"] = tables.speed_of
    room.devices["certain_bytes"] = np.inf if tables.always_fits else tables.certain_bytes
    return room._replace(
        tensor_bytes=tables.tensor_bytes, duration_ns=tables.duration_ns, allowed=tables.allowed
    )


def _aligned_zeros(size: int, dtype: np.dtype[np.void]) -> Records:
    """Zeros that begin with a line of the processor's cache."""
    room = np.zeros(size * dtype.itemsize + _LINE_BYTES, np.uint8)
    first = -room.ctypes.data % _LINE_BYTES
    return room[first : first + size * dtype.itemsize].view(dtype)
