"""Flat arrays that the simulator's compiled code works on.

Numbers are kept as the compiled code wants them: int32 indices, float64 times in whole
nanoseconds, float64 bytes. Ops keep the user's numbers, so comparing two is the tie rule.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster, Device
from placer.costs import allowed_devices, op_seconds
from placer.errors import ClusterError, GraphError
from placer.graph import Op, OpGraph
from placer.placement import Order

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Indices = NDArray[np.uint32]  # compiled code need not look whether one is negative
Keys = NDArray[np.int64]
Addresses = NDArray[np.int64]  # see addresses_of

_MOST_NS = 2.0**53
MOST_SECONDS = _MOST_NS / 1e9
"""About 104 days: up to here, sums of nanoseconds are exact."""

_KEY_BITS = 62
NEVER = 1 << _KEY_BITS
"""The key of what does not happen; the time in it is later than all."""

NUM_SUMS = 4
"""Sums that the start-order engine keeps apart, as one would wait for its last addition."""

FEASIBLE, WRONG_KIND, SPLIT_COLOCATION, TOO_MUCH_MEMORY = range(4)


class Tables(NamedTuple):
    """What graph, cluster and order say; never written to.

    An edge is a (producer, slot, consumer) without repetition; the slot is the output port, or the
    number of ports for a control edge. Edges are sorted by producer, consumer, slot: the first
    edge of each transfer then comes in the order in which the transfers enter their channels.
    """

    edge_offsets: Indices  # [num_ops + 1] first edge from each op
    edge_consumer: Indices  # [num_edges]
    edge_slot: Indices  # [num_edges]
    input_offsets: Indices  # [num_ops + 1] into input_edges
    input_edges: Indices  # [num_data_edges] edges that bring each op a tensor
    num_inputs: Ints  # [num_ops] edges into each op, control edges included
    output_offsets: Indices  # [num_ops + 1] into tensor_bytes
    tensor_bytes: Floats  # [num_tensors]
    parameter_bytes: Floats  # [num_ops]
    temporary_bytes: Floats  # [num_ops]
    start_bytes: Floats  # [num_ops] taken at the start: temporary and all outputs
    lasting_bytes: Floats  # [num_ops] parameters and all outputs
    duration_ns: Floats  # [num_ops, num_speeds]
    speed_of: Ints  # [num_devices] column of the durations; many devices share one
    bandwidth: Floats  # [num_devices, num_devices]
    latency_seconds: Floats  # [num_devices, num_devices]
    channel_ids: Ints  # [num_devices, num_devices] -1: none
    slots: Ints  # [num_devices]
    lookahead_ns: float  # least time from the start of an op to its effect on another device
    memory_bytes: Floats  # [num_devices]
    certain_bytes: Floats  # [num_devices] what may last so that the peak surely fits
    always_fits: bool  # whether any device has room for everything, if nothing is ever freed
    constrained_ops: Ints  # ops that may not run on every device or are colocated
    allowed: Bools  # [num_ops, num_devices]
    colocated_with: Ints  # [num_ops] first op of its colocation group, or itself
    op_of_rank: Indices  # [num_ops] ops by priority, then index; empty for fifo
    rank_of_op: Indices  # [num_ops] the inverse; empty for fifo
    id_bits: int  # bits that an op or a device takes at the end of a key


class StartOrderScratch(NamedTuple):
    """Working memory of the engine that handles ops in order of start.

    A key is a time in nanoseconds, and in its last ``id_bits`` an op or a device.
    """

    waiting: Keys  # [num_ops] 2^32 for each input yet to be known, and the device
    ready_ns: Keys  # [num_ops] when the last known input is there
    queue: Indices  # [num_ops] ops ready at home, a segment per device; only for fifo
    queue_head: NDArray[np.uint64]  # [num_devices]
    queue_tail: NDArray[np.uint64]  # [num_devices]
    ready_ranks: NDArray[np.uint64]  # [num_devices, words] for priority; see ``_kernels.ranks``
    least_ready: Keys  # [num_devices] the least of the ready ranks, which is not in the set
    num_ready: Keys  # [num_devices]
    arrivals: Keys  # [num_ops] keys of ops made ready by arrivals, a heap per device
    arrivals_head: NDArray[np.uint64]  # [num_devices]
    num_arrivals: Keys  # [num_devices]
    free_ns: Keys  # [num_devices] when its last op finishes
    next_start: Keys  # [2 * leaves] keys of devices: a tree, each node the less of its two
    channel_free_ns: Keys  # [num_channels] when its last transfer finishes
    sent_by: Keys  # [max_slots * num_devices] last op that sent from each slot to each device
    sent_ns: Keys  # [max_slots * num_devices] when that arrives
    needed: Floats  # [num_devices] bytes taken, as if none were freed
    counts: Ints  # [NUM_SUMS * num_devices] ops on each device, in independent sums
    sums: Floats  # [NUM_SUMS * num_devices] bytes that ops there take
    is_recorded: Bools  # [1] whether there is room for the schedule


class Recording(NamedTuple):
    """A schedule as found by the engine that handles ops in order of start; may have no room."""

    start_ns: Floats  # [num_ops]
    arrival_ns: Floats  # [num_edges] when each edge's tensor is where its consumer is
    sequence: Ints  # [num_ops] ops by start, a segment per device
    sequence_head: Ints  # [num_devices]
    sequence_end: Ints  # [num_devices]


class Scratch(NamedTuple):
    """Working memory of the engine that handles events in order of completion.

    It holds the schedule afterwards.

    A buffer is a tensor at home (its index) or a received copy (``num_tensors`` + transfer).
    """

    num_transfers: Ints  # [1]
    missing: Ints  # [num_ops] inputs not yet there
    start_ns: Floats  # [num_ops]
    finish_ns: Floats  # [num_ops]
    event_ns: Floats  # [num_ops + num_edges] heap
    event_id: Indices  # [num_ops + num_edges] heap
    queue: Indices  # [num_ops] ready ops, a segment per device; ranks in a heap for priority
    queue_head: Ints  # [num_devices]
    queue_tail: Ints  # [num_devices]
    idle_slots: Ints  # [num_devices]
    newly_ready: Indices  # [num_ops] ops that got their last input at this instant
    starting: Ints  # [num_edges] transfers that start at this instant
    touched: Indices  # [num_devices] devices with something new at this instant
    is_touched: Bools  # [num_devices]
    transfer_op: Indices  # [num_edges] producer
    transfer_slot: Ints  # [num_edges]
    transfer_target: Indices  # [num_edges]
    transfer_start_ns: Floats  # [num_edges]
    transfer_finish_ns: Floats  # [num_edges]
    transfer_first: Ints  # [num_edges] first edge that it serves
    transfer_last: Ints  # [num_edges] last edge so far
    transfer_next: Ints  # [num_edges] the one behind it on its channel
    channel_last: Ints  # [num_channels] last transfer on the channel, or -1 if it is idle
    edge_next: Ints  # [num_edges] next edge of the same transfer, or -1
    edge_buffer: Indices  # [num_edges] where its consumer finds the tensor
    latest_transfer: Ints  # [max_slots * num_devices] of each slot of an op to each device
    users: Ints  # [num_tensors + num_edges] who still needs each buffer
    memory: Floats  # [num_devices] bytes in use
    peak: Floats  # [num_devices]
    first_overflow: Ints  # [num_devices] op that first took more than there is, or -1


def new_recording(num_ops: int, num_edges: int, num_devices: int) -> Recording:
    """Room for a schedule, or none."""
    return Recording(
        start_ns=np.zeros(num_ops),
        arrival_ns=np.zeros(num_edges),
        sequence=_ints(num_ops),
        sequence_head=_ints(num_devices),
        sequence_end=_ints(num_devices),
    )


def new_start_order_scratch(tables: Tables, num_channels: int) -> StartOrderScratch:
    """Working memory for simulations with these tables."""
    num_ops, num_devices = tables.allowed.shape
    num_sent = max_slots(tables) * num_devices
    num_leaves = 1 << (num_devices - 1).bit_length()
    num_ranked = len(tables.op_of_rank)
    return StartOrderScratch(
        waiting=_keys(num_ops),
        ready_ns=_keys(num_ops),
        queue=_indices(num_ops - num_ranked),
        queue_head=np.zeros(num_devices, np.uint64),
        queue_tail=np.zeros(num_devices, np.uint64),
        ready_ranks=np.zeros((num_devices, num_words(num_ranked)), np.uint64),
        least_ready=_keys(num_devices),
        num_ready=_keys(num_devices),
        arrivals=_keys(num_ops),
        arrivals_head=np.zeros(num_devices, np.uint64),
        num_arrivals=_keys(num_devices),
        free_ns=_keys(num_devices),
        next_start=_keys(2 * num_leaves),
        channel_free_ns=_keys(num_channels),
        sent_by=_keys(num_sent),
        sent_ns=_keys(num_sent),
        needed=np.zeros(num_devices),
        counts=_ints(NUM_SUMS * num_devices),
        sums=np.zeros(NUM_SUMS * num_devices),
        is_recorded=np.zeros(1, bool),
    )


def num_words(num_ranks: int) -> int:
    """Words of 64 bits of a set of ranks: a bit for each, and two levels above."""
    words = -(-num_ranks // 64)
    groups = -(-words // 64)
    return words + groups + -(-groups // 64)


def new_scratch(tables: Tables, num_channels: int) -> Scratch:
    """Working memory for simulations with these tables."""
    num_ops, num_devices = tables.allowed.shape
    num_edges = len(tables.edge_consumer)
    return Scratch(
        num_transfers=_ints(1),
        missing=_ints(num_ops),
        start_ns=np.zeros(num_ops),
        finish_ns=np.zeros(num_ops),
        event_ns=np.zeros(num_ops + num_edges),
        event_id=_indices(num_ops + num_edges),
        queue=_indices(num_ops),
        queue_head=_ints(num_devices),
        queue_tail=_ints(num_devices),
        newly_ready=_indices(num_ops),
        idle_slots=_ints(num_devices),
        starting=_ints(num_edges),
        touched=_indices(num_devices),
        is_touched=np.zeros(num_devices, bool),
        transfer_op=_indices(num_edges),
        transfer_slot=_ints(num_edges),
        transfer_target=_indices(num_edges),
        transfer_start_ns=np.zeros(num_edges),
        transfer_finish_ns=np.zeros(num_edges),
        transfer_first=_ints(num_edges),
        transfer_last=_ints(num_edges),
        transfer_next=_ints(num_edges),
        channel_last=_ints(num_channels),
        edge_next=_ints(num_edges),
        edge_buffer=_indices(num_edges),
        latest_transfer=_ints(max_slots(tables) * num_devices),
        users=_ints(len(tables.tensor_bytes) + num_edges),
        memory=np.zeros(num_devices),
        peak=np.zeros(num_devices),
        first_overflow=_ints(num_devices),
    )


def addresses_of(fields: tuple[Any, ...]) -> Addresses:
    """What compiled code finds arrays and numbers by, if they stay: see ``_kernels.addresses``.

    For each array where it lies and its shape, and each number as it is.

    Args:
        fields: A named tuple of contiguous arrays and of numbers.
    """
    words: list[int] = []
    for field in fields:
        if isinstance(field, np.ndarray):
            if not field.flags.c_contiguous:
                raise ValueError("compiled code expects contiguous arrays")
            words += field.ctypes.data, *field.shape
        else:
            word = np.array(field, np.float64 if isinstance(field, float) else np.int64)
            words.append(int(word.view(np.int64)))
    return np.array(words, np.int64)


def max_slots(tables: Tables) -> int:
    """The most output ports of an op, and one for its control edges."""
    return int(np.diff(tables.output_offsets).max()) + 1


def _ints(size: int) -> Ints:
    return np.zeros(size, np.int32)


def _indices(size: int) -> Indices:
    return np.zeros(size, np.uint32)


def _keys(size: int) -> Keys:
    return np.zeros(size, np.int64)


class Results(NamedTuple):
    """What simulating a batch of placements gave."""

    step_ns: Floats  # [batch] step times, feasible or not
    status: Ints  # [batch] FEASIBLE or what is broken
    op_at_fault: Ints  # [batch] the op that breaks a constraint
    peaks: Floats  # [batch, num_devices] most bytes in use at once, 0 if that surely fits
    first_overflow: Ints  # [batch, num_devices] op that first took more than there is, or -1

    @classmethod
    def empty(cls, batch: int, num_devices: int) -> Results:
        """Room for the results of a batch."""
        return cls(
            np.zeros(batch),
            np.zeros(batch, np.int32),
            np.zeros(batch, np.int32),
            np.zeros((batch, num_devices)),
            np.full((batch, num_devices), -1, np.int32),
        )


def build_tables(
    graph: OpGraph,
    cluster: Cluster,
    order: Order,
    priorities: NDArray[np.float64] | None,
) -> Tables:
    """What the compiled code needs to know, as flat writable arrays."""
    producers, consumers, tensors = graph.edges
    num_ports = np.diff(graph.output_offsets)
    slots = np.where(tensors < 0, num_ports[producers], tensors - graph.output_offsets[producers])
    # each edge once, by producer, consumer, slot: as the transfers of an op enter their channels
    edges = np.unique(np.column_stack([producers, consumers, slots]), axis=0).reshape(-1, 3)
    edge_producer, edge_consumer, edge_slot = edges.astype(np.uint32).T
    data_edges = np.flatnonzero(edge_slot < num_ports[edge_producer])
    data_edges = data_edges[np.argsort(edge_consumer[data_edges], kind="stable")]
    output_bytes = np.bincount(graph.tensor_producer, graph.tensor_bytes, minlength=graph.num_ops)
    seconds = op_seconds(graph, cluster)
    _check_seconds(graph, cluster, seconds)
    duration_ns = np.maximum(1.0, np.rint(seconds * 1e9))
    speeds, speed_of = _distinct_columns(duration_ns)
    memory_bytes = np.array([device.memory_bytes for device in cluster.devices], np.float64)
    # a little less, as sums of bytes that are no whole numbers are rounded
    certain_bytes = memory_bytes * (1 - 1e-9) - graph.temporary_bytes.max()
    most_bytes = graph.parameter_bytes.sum() + graph.tensor_bytes.sum()
    allowed = allowed_devices(graph, cluster)
    tables = Tables(
        edge_offsets=_offsets(edge_producer, graph.num_ops),
        edge_consumer=edge_consumer.copy(),
        edge_slot=edge_slot.copy(),
        input_offsets=_offsets(edge_consumer[data_edges], graph.num_ops),
        input_edges=data_edges.astype(np.uint32),
        num_inputs=np.bincount(edge_consumer, minlength=graph.num_ops).astype(np.int32),
        output_offsets=graph.output_offsets.astype(np.uint32),
        tensor_bytes=graph.tensor_bytes.copy(),
        parameter_bytes=graph.parameter_bytes.copy(),
        temporary_bytes=graph.temporary_bytes.copy(),
        start_bytes=graph.temporary_bytes + output_bytes,
        lasting_bytes=graph.parameter_bytes + output_bytes,
        duration_ns=speeds,
        speed_of=speed_of,
        bandwidth=cluster.bandwidth.copy(),
        latency_seconds=cluster.latency_seconds.copy(),
        channel_ids=cluster.channel_ids.copy(),
        slots=cluster.num_slots(graph.num_ops),
        lookahead_ns=duration_ns.min() + _least_transfer_ns(cluster),
        memory_bytes=memory_bytes,
        certain_bytes=certain_bytes,
        # a device may have each tensor, its own or a copy of another's
        always_fits=bool((most_bytes <= certain_bytes).all()),
        constrained_ops=np.flatnonzero(~allowed.all(axis=1) | (graph.colocation_group >= 0)).astype(
            np.int32
        ),
        allowed=allowed,
        colocated_with=_first_of_group(graph.colocation_group),
        op_of_rank=np.empty(0, np.uint32),
        rank_of_op=np.empty(0, np.uint32),
        id_bits=max(allowed.shape).bit_length(),
    )
    if order == "fifo":
        return tables
    if priorities is None:
        from placer._kernels import graphs

        # the sum over devices orders ops as the mean does, and is a whole number
        priorities = np.empty(graph.num_ops)
        graphs.find_longest_remaining_paths(
            addresses_of(tables),
            graph.topological_order.copy(),
            duration_ns.sum(axis=1),
            priorities,
        )
    op_of_rank = np.argsort(-priorities, kind="stable").astype(np.uint32)
    rank_of_op = np.empty_like(op_of_rank)
    rank_of_op[op_of_rank] = np.arange(graph.num_ops)
    return tables._replace(op_of_rank=op_of_rank, rank_of_op=rank_of_op)


@functools.cache
def smallest_tables() -> Tables:
    """Those of one op on one device, from which compiled code has the types."""
    graph = OpGraph.from_ops("smallest", [Op("op", "NoOp", seconds={"cpu": 1e-6})])
    cluster = Cluster("smallest", (Device("cpu:0", "cpu", memory_bytes=np.inf),), ())
    return build_tables(graph, cluster, "fifo", None)


def each_channel_has_one_source(cluster: Cluster) -> bool:
    """Whether what enters a channel always comes from the same device."""
    sources, targets = np.nonzero(cluster.channel_ids >= 0)
    channels = cluster.channel_ids[sources, targets]
    fed = np.unique(np.column_stack([channels, sources]), axis=0)
    return len(fed) == len(np.unique(channels))


def times_fit_keys(tables: Tables) -> bool:
    """Whether all times are exact and fit keys, even if everything happened one by one."""
    apart = ~np.eye(len(tables.bandwidth), dtype=bool)
    num_slots = np.diff(tables.output_offsets)
    producers = np.repeat(np.arange(len(num_slots)), np.diff(tables.edge_offsets))
    carries_data = tables.edge_slot < num_slots[producers]
    tensors = tables.output_offsets[producers] + tables.edge_slot
    edge_bytes = tables.tensor_bytes[tensors[carries_data]].sum()
    seconds = len(producers) * tables.latency_seconds[apart].max(initial=0.0)
    seconds += (edge_bytes / tables.bandwidth[apart]).max(initial=0.0)
    ns = tables.duration_ns.max(axis=1).sum() + seconds * 1e9 + len(producers)
    return bool(ns < min(_MOST_NS, 1 << (_KEY_BITS - tables.id_bits)))


def _least_transfer_ns(cluster: Cluster) -> float:
    """Nanoseconds of a transfer without bytes on the fastest link."""
    apart = ~np.eye(cluster.num_devices, dtype=bool)
    least_seconds = cluster.latency_seconds[apart].min(initial=MOST_SECONDS)
    return max(1.0, float(np.rint(least_seconds * 1e9)))


def _check_seconds(graph: OpGraph, cluster: Cluster, seconds: Floats) -> None:
    """Refuses durations beyond those whose nanoseconds are whole numbers in float64.

    Raises:
        GraphError: An op takes too long on a device.
        ClusterError: A transfer takes too long on a link.
    """
    limit = f"expected less than {MOST_SECONDS:.3g} s, which is 2^53 ns"
    if seconds.max() >= MOST_SECONDS:
        op, device = np.unravel_index(seconds.argmax(), seconds.shape)
        raise GraphError(
            f"op {graph.op_names[op]!r} takes {seconds[op, device]:.3g} s on "
            f"{cluster.device_names[device]}; {limit}"
        )
    most_bytes = graph.tensor_bytes.max(initial=0.0)
    transfers = cluster.latency_seconds + most_bytes / cluster.bandwidth
    if transfers.max() >= MOST_SECONDS:
        source, target = np.unravel_index(transfers.argmax(), transfers.shape)
        raise ClusterError(
            f"sending {most_bytes:.3g} bytes from {cluster.device_names[source]} to "
            f"{cluster.device_names[target]} takes {transfers.max():.3g} s; {limit}"
        )


def _distinct_columns(table: Floats) -> tuple[Floats, Ints]:
    """The columns without repetition, and which of them each one is."""
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(column.tobytes(), len(numbers)) for column in table.T]
    firsts = [which.index(number) for number in range(len(numbers))]
    return np.ascontiguousarray(table[:, firsts]), np.array(which, np.int32)


def _offsets(sorted_owners: Indices, num_owners: int) -> Indices:
    """Where each owner's entries begin in a sorted list of owners, and the end."""
    return np.searchsorted(sorted_owners, np.arange(num_owners + 1)).astype(np.uint32)


def _first_of_group(group: NDArray[np.int32]) -> NDArray[np.int32]:
    """The first op of each op's colocation group, or the op itself without one, ``[num_ops]``."""
    result = np.arange(len(group), dtype=np.int32)
    grouped = np.flatnonzero(group >= 0)
    _, first, index = np.unique(group[grouped], return_index=True, return_inverse=True)
    result[grouped] = grouped[first[index]]
    return result
