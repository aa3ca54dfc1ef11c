"""Flat arrays for trying moves from a base schedule; see ``placer._kernels.moves``.

There are few arrays with many columns, as passing an array from Python takes a good part of what a
move takes, and what is known of an op then lies together in memory. Columns are plain integers, as
enumerations take seconds to compile. A stamp says in which trial, or since which cut, an entry was
last written.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placer._tables import Bools, Floats, Ints, Recording, Tables, max_slots

# columns of MoveTables.op_ints
EDGES = 0  # first edge from the op; that of the next op is the end
INPUTS = 1  # first edge into the op, by consumer
OUTPUTS = 2  # first tensor
COLOCATED_WITH = 3  # first op of its colocation group, or itself
GROUP_SIZE = 4  # of the colocation group that begins with this op
GROUP_COUNT = 5  # how many of it move; zero between trials
DEVICE = 6  # in the base
POSITION = 7  # in the sequence
MOVED = 8  # stamp of the trial
DISTURBED = 9  # stamp of the trial
STARTED = 10  # stamp of the cut; of a moved op: whether it has started
SEEN = 11  # stamp of the cut: what follows is valid
MISSING = 12  # inputs of which it is not known when they are there
_NUM_OP_INTS = 13

# columns of MoveTables.op_floats; all but the last two and the bytes are of the base
START = 0
FINISH = 1
READY = 2
LAST_PRODUCER = 3  # latest start of a producer
REACH = 4  # latest finish or arrival that this op or one before it on its device causes
BYTES = 5  # what the op takes at most on a device that it comes to
ARRIVED = 6  # latest input so far, now
ARRIVED_BASE = 7  # the same inputs in the base
_NUM_OP_FLOATS = 8

# columns of MoveTables.device_ints
HEAD = 0  # of its segment of the sequence
END = 1
CUT = 2  # first position not started at the cut
EXPECTED = 3  # first position not started now
WAITING = 4  # first position of an op that was ready at the cut and has not started
CANDIDATE = 5  # op that starts next
SOURCE = 6  # where it waits
HEAP_HEAD = 7
HEAP_SIZE = 8
LINE_HEAD = 9
LINE_END = 10
_NUM_DEVICE_INTS = 11

# columns of MoveTables.device_floats
FREE = 0
CANDIDATE_READY = 1  # of the candidate
NEXT_START = 2  # of the candidate
NEEDED_BYTES = 3  # in the base, as if nothing were freed
CERTAIN_BYTES = 4
_NUM_DEVICE_FLOATS = 5


Indices = NDArray[np.uint32]
"""Compiled code need not look whether one is negative, which saves a fifth of the time."""


class MoveTables(NamedTuple):
    """A base schedule and the working memory for trying moves from it."""

    op_ints: Indices  # [num_ops + 1, 13]
    op_floats: Floats  # [num_ops, 8]
    sequence: Indices  # [num_ops] ops by start, a segment per device
    edge_ints: Indices  # [num_edges, 2] consumer, slot; by producer
    arrival_ns: Floats  # [num_edges]
    input_ints: Indices  # [num_edges, 2] edge, producer; by consumer
    input_floats: Floats  # [num_edges, 2] start of the producer, arrival; by consumer
    tensor_bytes: Floats  # [num_tensors]
    duration_ns: Floats  # [num_ops, num_speeds]
    speed_of: Ints  # [num_devices]
    allowed: Bools  # [num_ops, num_devices]
    links: Floats  # [num_devices, num_devices, 2] latency in seconds, bandwidth
    channel_ids: Ints  # [num_devices, num_devices]
    device_ints: Ints  # [num_devices, 11]
    device_floats: Floats  # [num_devices, 5]
    channel_ints: Indices  # [num_channels, 2] stamp of the cut; list of the channels in use
    channel_floats: Floats  # [num_channels, 2] when it gets free, now and in the base
    sent_by: NDArray[np.int64]  # [max_slots * num_devices] the op start that last sent
    sent_ns: Floats  # [max_slots * num_devices] when that arrives
    heap_op: Indices  # [3, 2 * num_ops] heaps: of each device's arrivals; for comparing; of cuts
    heap_ns: Floats  # [3, 2 * num_ops]
    line: Indices  # [2 * num_ops] what got ready at home, by time, a segment per device
    seen: Indices  # [num_ops] ops with an input since the cut
    counters: NDArray[np.int64]  # [3] trials, cuts, op starts so far


def new_move_tables(tables: Tables, recording: Recording, num_channels: int) -> MoveTables:
    """Room for a base, its schedule being recorded there, and for trying moves from it."""
    num_ops, num_devices = tables.allowed.shape
    num_edges = len(tables.edge_consumer)
    producers = np.repeat(np.arange(num_ops, dtype=np.int32), np.diff(tables.edge_offsets))
    by_consumer = np.argsort(tables.edge_consumer, kind="stable")
    op_ints = np.zeros((num_ops + 1, _NUM_OP_INTS), np.uint32)
    op_ints[:, EDGES] = tables.edge_offsets
    op_ints[1:, INPUTS] = tables.num_inputs.cumsum()
    op_ints[:, OUTPUTS] = tables.output_offsets
    op_ints[:-1, COLOCATED_WITH] = tables.colocated_with
    op_ints[:-1, GROUP_SIZE] = np.bincount(tables.colocated_with, minlength=num_ops)
    data_edges = tables.input_edges
    tensors = tables.output_offsets[producers[data_edges]] + tables.edge_slot[data_edges]
    input_bytes = np.bincount(
        tables.edge_consumer[data_edges], tables.tensor_bytes[tensors], num_ops
    )
    op_floats = np.zeros((num_ops, _NUM_OP_FLOATS))
    op_floats[:, BYTES] = tables.lasting_bytes + input_bytes
    device_floats = np.zeros((num_devices, _NUM_DEVICE_FLOATS))
    device_floats[:, CERTAIN_BYTES] = tables.certain_bytes
    num_sent = max_slots(tables) * num_devices
    return MoveTables(
        op_ints=op_ints,
        op_floats=op_floats,
        sequence=recording.sequence.view(np.uint32),
        edge_ints=np.column_stack([tables.edge_consumer, tables.edge_slot]).astype(np.uint32),
        arrival_ns=recording.arrival_ns,
        input_ints=np.column_stack([by_consumer, producers[by_consumer]]).astype(np.uint32),
        input_floats=np.zeros((num_edges, 2)),
        tensor_bytes=tables.tensor_bytes,
        duration_ns=tables.duration_ns,
        speed_of=tables.speed_of,
        allowed=tables.allowed,
        links=np.stack([tables.latency_seconds, tables.bandwidth], axis=2),
        channel_ids=tables.channel_ids,
        device_ints=np.zeros((num_devices, _NUM_DEVICE_INTS), np.int32),
        device_floats=device_floats,
        channel_ints=np.zeros((num_channels, 2), np.uint32),
        channel_floats=np.zeros((num_channels, 2)),
        sent_by=np.zeros(num_sent, np.int64),
        sent_ns=np.zeros(num_sent),
        heap_op=np.zeros((3, 2 * num_ops), np.uint32),
        heap_ns=np.zeros((3, 2 * num_ops)),
        line=np.zeros(2 * num_ops, np.uint32),
        seen=np.zeros(num_ops, np.uint32),
        counters=np.zeros(3, np.int64),
    )
