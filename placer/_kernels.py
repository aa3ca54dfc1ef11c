"""Compiled code of the simulator: one engine that handles events in order of completion.

Imported on first use only, since it brings numba. All times are whole nanoseconds held in float64,
all sizes bytes. Ops keep the user's numbers, so comparing two indices is the tie rule.

An event is the finish of an op (its index) or of a transfer (``num_ops`` + its index): a binary
heap orders events by time, then by that number, so that ops which finish together come in the
user's order and before transfers. All events of one instant are handled before any op starts.
A transfer that waits is chained to the one before it on its channel. An instant's frees precede
its allocations, and all durations are positive, so the peak is the most that a device holds at the
end of an instant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
F = TypeVar("F", bound=Callable[..., Any])

FEASIBLE, WRONG_KIND, SPLIT_COLOCATION, TOO_MUCH_MEMORY = range(4)


class Tables(NamedTuple):
    """What graph, cluster and order say; never written to.

    An edge is a (producer, slot, consumer) without repetition; the slot is the output port, or the
    number of ports for a control edge. Edges are sorted by producer, consumer, slot: the first
    edge of each transfer then comes in the order in which the transfers enter their channels.
    """

    edge_offsets: Ints  # [num_ops + 1] first edge from each op
    edge_consumer: Ints  # [num_edges]
    edge_slot: Ints  # [num_edges]
    input_offsets: Ints  # [num_ops + 1] into input_edges
    input_edges: Ints  # [num_data_edges] edges that bring each op a tensor
    num_inputs: Ints  # [num_ops] edges into each op, control edges included
    output_offsets: Ints  # [num_ops + 1] into tensor_bytes
    tensor_bytes: Floats  # [num_tensors]
    parameter_bytes: Floats  # [num_ops]
    temporary_bytes: Floats  # [num_ops]
    start_bytes: Floats  # [num_ops] taken at the start: temporary and all outputs
    duration_ns: Floats  # [num_ops, num_devices]
    bandwidth: Floats  # [num_devices, num_devices]
    latency_seconds: Floats  # [num_devices, num_devices]
    channel_ids: Ints  # [num_devices, num_devices] -1: none
    slots: Ints  # [num_devices]
    memory_bytes: Floats  # [num_devices]
    allowed: Bools  # [num_ops, num_devices]
    colocated_with: Ints  # [num_ops] first op of its colocation group, or itself
    op_of_rank: Ints  # [num_ops] ops by priority, then index; empty for fifo
    rank_of_op: Ints  # [num_ops] the inverse; empty for fifo


class Scratch(NamedTuple):
    """Working memory of one simulation at a time; holds its schedule afterwards.

    A buffer is a tensor at home (its index) or a received copy (``num_tensors`` + transfer).
    """

    num_transfers: Ints  # [1]
    missing: Ints  # [num_ops] inputs not yet there
    start_ns: Floats  # [num_ops]
    finish_ns: Floats  # [num_ops]
    event_ns: Floats  # [num_ops + num_edges] heap
    event_id: Ints  # [num_ops + num_edges] heap
    queue: Ints  # [num_ops] ready ops, a segment per device; ranks in a heap for priority
    queue_head: Ints  # [num_devices]
    queue_tail: Ints  # [num_devices]
    idle_slots: Ints  # [num_devices]
    newly_ready: Ints  # [num_ops] ops that got their last input at this instant
    starting: Ints  # [num_edges] transfers that start at this instant
    touched: Ints  # [num_devices] devices with something new at this instant
    is_touched: Bools  # [num_devices]
    transfer_op: Ints  # [num_edges] producer
    transfer_slot: Ints  # [num_edges]
    transfer_target: Ints  # [num_edges]
    transfer_start_ns: Floats  # [num_edges]
    transfer_finish_ns: Floats  # [num_edges]
    transfer_first: Ints  # [num_edges] first edge that it serves
    transfer_last: Ints  # [num_edges] last edge so far
    transfer_next: Ints  # [num_edges] the one behind it on its channel
    channel_last: Ints  # [num_channels] last transfer on the channel, or -1 if it is idle
    edge_next: Ints  # [num_edges] next edge of the same transfer, or -1
    edge_buffer: Ints  # [num_edges] where its consumer finds the tensor
    latest_transfer: Ints  # [max_slots * num_devices] of each slot of an op to each device
    users: Ints  # [num_tensors + num_edges] who still needs each buffer
    memory: Floats  # [num_devices] bytes in use
    peak: Floats  # [num_devices]


def new_scratch(tables: Tables, num_channels: int) -> Scratch:
    """Working memory for simulations with these tables."""
    num_ops, num_devices = tables.duration_ns.shape
    num_edges = len(tables.edge_consumer)
    max_slots = int(np.diff(tables.output_offsets).max()) + 1
    sizes = {
        "num_transfers": 1,
        "starting": num_edges,
        "channel_last": num_channels,
        "latest_transfer": max_slots * num_devices,
        "users": len(tables.tensor_bytes) + num_edges,
    }
    sizes |= dict.fromkeys(("missing", "start_ns", "finish_ns", "queue", "newly_ready"), num_ops)
    sizes |= dict.fromkeys(("event_ns", "event_id"), num_ops + num_edges)
    floats = ("start_ns", "finish_ns", "event_ns", "memory", "peak")
    arrays = {}
    for name in Scratch._fields:
        per_edge = name.startswith(("transfer_", "edge_"))
        size = sizes.get(name, num_edges if per_edge else num_devices)
        if name in floats or (per_edge and name.endswith("_ns")):
            arrays[name] = np.zeros(size, np.float64)
        else:
            arrays[name] = np.zeros(size, bool if name == "is_touched" else np.int32)
    return Scratch(**arrays)


def _jit(**options: Any) -> Callable[[F], F]:
    """numba.njit that caches where it can and works where it cannot."""

    def decorate(function: F) -> F:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # numba found no directory that it may write its cache to
            return numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]

    return decorate


@_jit(forceinline=True)
def _push_event(event_ns: Floats, event_id: Ints, size: int, ns: float, event: int) -> None:
    """Adds an event to a heap of `size` events."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        parent_ns = event_ns[parent]
        if parent_ns < ns or (parent_ns == ns and event_id[parent] < event):
            break
        event_ns[child] = parent_ns
        event_id[child] = event_id[parent]
        child = parent
    event_ns[child] = ns
    event_id[child] = event


@_jit(forceinline=True)
def _pop_event(event_ns: Floats, event_id: Ints, size: int) -> int:
    """Removes the first event of a heap of `size` events and returns its id."""
    first = event_id[0]
    size -= 1
    ns, event = event_ns[size], event_id[size]
    hole = 0
    child = 1
    while child < size:
        child_ns = event_ns[child]
        right = child + 1
        if right < size:
            right_ns = event_ns[right]
            if right_ns < child_ns or (right_ns == child_ns and event_id[right] < event_id[child]):
                child, child_ns = right, right_ns
        if ns < child_ns or (ns == child_ns and event < event_id[child]):
            break
        event_ns[hole] = child_ns
        event_id[hole] = event_id[child]
        hole = child
        child = 2 * hole + 1
    event_ns[hole] = ns
    event_id[hole] = event
    return first


@_jit(forceinline=True)
def _push_rank(queue: Ints, head: int, size: int, rank: int) -> None:
    """Adds a rank to a heap of `size` ranks that begins at ``queue[head]``."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if queue[head + parent] < rank:
            break
        queue[head + child] = queue[head + parent]
        child = parent
    queue[head + child] = rank


@_jit(forceinline=True)
def _pop_rank(queue: Ints, head: int, size: int) -> int:
    """Removes the least of a heap of `size` ranks that begins at ``queue[head]``."""
    first = queue[head]
    size -= 1
    rank = queue[head + size]
    hole = 0
    child = 1
    while child < size:
        if child + 1 < size and queue[head + child + 1] < queue[head + child]:
            child += 1
        if rank < queue[head + child]:
            break
        queue[head + hole] = queue[head + child]
        hole = child
        child = 2 * hole + 1
    queue[head + hole] = rank
    return first


@_jit()
def _reset(t: Tables, s: Scratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_ops, num_devices = t.duration_ns.shape
    s.channel_last[:] = -1
    s.latest_transfer[:] = -1
    s.is_touched[:] = False
    s.memory[:] = 0.0
    s.idle_slots[:] = t.slots
    s.queue_tail[:] = 0
    for op in range(num_ops):
        device = placement[op]
        s.missing[op] = t.num_inputs[op]
        s.memory[device] += t.parameter_bytes[op]
        s.queue_tail[device] += 1
    first = 0
    for device in range(num_devices):
        num_here = s.queue_tail[device]
        s.queue_head[device] = first
        s.queue_tail[device] = first
        first += num_here
        s.peak[device] = s.memory[device]


@_jit()
def simulate(t: Tables, s: Scratch, placement: Ints) -> float:
    """Runs one placement ``[num_ops]``; the schedule is in the scratch afterwards.

    One function on local names: passing this many arrays on costs more than the work itself.

    Returns:
        The step time in nanoseconds.
    """
    _reset(t, s, placement)
    edge_offsets, edge_consumer, edge_slot = t.edge_offsets, t.edge_consumer, t.edge_slot
    input_offsets, input_edges, num_inputs = t.input_offsets, t.input_edges, t.num_inputs
    output_offsets, tensor_bytes = t.output_offsets, t.tensor_bytes
    temporary_bytes, start_bytes, duration_ns = t.temporary_bytes, t.start_bytes, t.duration_ns
    bandwidth, latency_seconds, channel_ids = t.bandwidth, t.latency_seconds, t.channel_ids
    op_of_rank, rank_of_op = t.op_of_rank, t.rank_of_op
    missing, start_ns, finish_ns, newly_ready = s.missing, s.start_ns, s.finish_ns, s.newly_ready
    event_ns, event_id = s.event_ns, s.event_id
    queue, queue_head, queue_tail = s.queue, s.queue_head, s.queue_tail
    idle_slots, touched, is_touched = s.idle_slots, s.touched, s.is_touched
    transfer_op, transfer_slot, transfer_target = s.transfer_op, s.transfer_slot, s.transfer_target
    transfer_start_ns, transfer_finish_ns = s.transfer_start_ns, s.transfer_finish_ns
    transfer_first, transfer_last = s.transfer_first, s.transfer_last
    transfer_next, channel_last, starting = s.transfer_next, s.channel_last, s.starting
    edge_next, edge_buffer, users = s.edge_next, s.edge_buffer, s.users
    latest_transfer, memory, peak = s.latest_transfer, s.memory, s.peak
    num_ops, num_devices = duration_ns.shape
    num_tensors = len(tensor_bytes)
    is_fifo = len(op_of_rank) == 0

    now = 0.0
    num_events = num_transfers = num_starting = num_touched = num_newly_ready = 0
    for op in range(num_ops):
        if num_inputs[op] == 0:
            newly_ready[num_newly_ready] = op
            num_newly_ready += 1
    is_sorted = True  # the newly ready ops, by index

    while True:
        # transfer starts
        for i in range(num_starting):
            transfer = starting[i]
            op, target = transfer_op[transfer], transfer_target[transfer]
            source = placement[op]
            tensor = output_offsets[op] + transfer_slot[transfer]
            num_bytes = tensor_bytes[tensor] if tensor < output_offsets[op + 1] else 0.0
            seconds = latency_seconds[source, target] + num_bytes / bandwidth[source, target]
            finish = now + max(1.0, np.rint(seconds * 1e9))
            transfer_start_ns[transfer] = now
            transfer_finish_ns[transfer] = finish
            _push_event(event_ns, event_id, num_events, finish, num_ops + transfer)
            num_events += 1
            memory[target] += num_bytes
            if not is_touched[target]:
                is_touched[target] = True
                touched[num_touched] = target
                num_touched += 1
        num_starting = 0

        # newly ready ops queue on their devices
        if is_fifo and not is_sorted:
            newly_ready[:num_newly_ready].sort()
        for i in range(num_newly_ready):
            op = newly_ready[i]
            device = placement[op]
            if is_fifo:
                queue[queue_tail[device]] = op
            else:
                head = queue_head[device]
                _push_rank(queue, head, queue_tail[device] - head, rank_of_op[op])
            queue_tail[device] += 1
            if not is_touched[device]:
                is_touched[device] = True
                touched[num_touched] = device
                num_touched += 1
        num_newly_ready = 0
        is_sorted = True

        # op starts; then no more happens at this instant
        for i in range(num_touched):
            device = touched[i]
            is_touched[device] = False
            while idle_slots[device] > 0 and queue_head[device] < queue_tail[device]:
                head = queue_head[device]
                if is_fifo:
                    op = queue[head]
                    queue_head[device] = head + 1
                else:
                    op = op_of_rank[_pop_rank(queue, head, queue_tail[device] - head)]
                    queue_tail[device] -= 1
                finish = now + duration_ns[op, device]
                start_ns[op] = now
                finish_ns[op] = finish
                _push_event(event_ns, event_id, num_events, finish, op)
                num_events += 1
                idle_slots[device] -= 1
                memory[device] += start_bytes[op]
            peak[device] = max(peak[device], memory[device])
        num_touched = 0

        # completions of the next instant
        if num_events == 0:
            s.num_transfers[0] = num_transfers
            return now
        now = event_ns[0]
        while num_events > 0 and event_ns[0] == now:
            event = _pop_event(event_ns, event_id, num_events)
            num_events -= 1
            if event >= num_ops:
                transfer = event - num_ops
                op = transfer_op[transfer]
                device = placement[op]
                tensor = output_offsets[op] + transfer_slot[transfer]
                if tensor < output_offsets[op + 1]:
                    users[tensor] -= 1
                    if users[tensor] == 0:
                        memory[device] -= tensor_bytes[tensor]
                edge = transfer_first[transfer]
                while edge >= 0:
                    consumer = edge_consumer[edge]
                    missing[consumer] -= 1
                    if missing[consumer] == 0:
                        if num_newly_ready > 0 and newly_ready[num_newly_ready - 1] > consumer:
                            is_sorted = False
                        newly_ready[num_newly_ready] = consumer
                        num_newly_ready += 1
                    edge = edge_next[edge]
                channel = channel_ids[device, transfer_target[transfer]]
                if channel >= 0:
                    if channel_last[channel] == transfer:
                        channel_last[channel] = -1
                    else:
                        starting[num_starting] = transfer_next[transfer]
                        num_starting += 1
                continue

            op = event
            device = placement[op]
            idle_slots[device] += 1
            if not is_touched[device]:
                is_touched[device] = True
                touched[num_touched] = device
                num_touched += 1
            # what it used is free if it was the last user
            memory[device] -= temporary_bytes[op]
            for i in range(input_offsets[op], input_offsets[op + 1]):
                buffer = edge_buffer[input_edges[i]]
                users[buffer] -= 1
                if users[buffer] == 0:
                    tensor = buffer
                    if buffer >= num_tensors:
                        transfer = buffer - num_tensors
                        tensor = output_offsets[transfer_op[transfer]] + transfer_slot[transfer]
                    memory[device] -= tensor_bytes[tensor]
            # what it made goes to its consumers
            first_tensor, end_tensor = output_offsets[op], output_offsets[op + 1]
            for tensor in range(first_tensor, end_tensor):
                users[tensor] = 0
            transfers_before = num_transfers
            for edge in range(edge_offsets[op], edge_offsets[op + 1]):
                consumer, slot = edge_consumer[edge], edge_slot[edge]
                target = placement[consumer]
                buffer = first_tensor + slot
                is_data = buffer < end_tensor
                if target == device:
                    missing[consumer] -= 1
                    if missing[consumer] == 0:
                        if num_newly_ready > 0 and newly_ready[num_newly_ready - 1] > consumer:
                            is_sorted = False
                        newly_ready[num_newly_ready] = consumer
                        num_newly_ready += 1
                else:
                    latest = slot * num_devices + target
                    transfer = latest_transfer[latest]
                    if transfer >= transfers_before:
                        edge_next[transfer_last[transfer]] = edge
                    else:  # of another op, so this is the first consumer there
                        transfer = num_transfers
                        num_transfers += 1
                        latest_transfer[latest] = transfer
                        transfer_op[transfer] = op
                        transfer_slot[transfer] = slot
                        transfer_target[transfer] = target
                        transfer_first[transfer] = edge
                        users[num_tensors + transfer] = 0
                        if is_data:
                            users[buffer] += 1
                        channel = channel_ids[device, target]
                        ahead = -1
                        if channel >= 0:
                            ahead = channel_last[channel]
                            channel_last[channel] = transfer
                        if ahead >= 0:
                            transfer_next[ahead] = transfer
                        else:
                            starting[num_starting] = transfer
                            num_starting += 1
                    transfer_last[transfer] = edge
                    edge_next[edge] = -1
                    buffer = num_tensors + transfer
                if is_data:
                    users[buffer] += 1
                    edge_buffer[edge] = buffer
            for tensor in range(first_tensor, end_tensor):
                if users[tensor] == 0:  # nobody needs it
                    memory[device] -= tensor_bytes[tensor]


@_jit()
def find_broken_constraint(t: Tables, placement: Ints) -> tuple[int, int]:
    """The first op that is on a device of a wrong kind or off its colocation group.

    Returns:
        What is broken, or ``FEASIBLE``, and the op.
    """
    for op in range(len(placement)):
        if not t.allowed[op, placement[op]]:
            return WRONG_KIND, op
        if placement[op] != placement[t.colocated_with[op]]:
            return SPLIT_COLOCATION, op
    return FEASIBLE, 0


@_jit()
def simulate_rows(
    t: Tables,
    s: Scratch,
    placements: Ints,
    step_ns: Floats,
    status: Ints,
    op_at_fault: Ints,
    peaks: Floats,
) -> None:
    """Runs each row of placements ``[batch, num_ops]`` that breaks no constraint.

    Args:
        t: The tables.
        s: Working memory.
        placements: Device of each op, ``[batch, num_ops]``.
        step_ns: Gets the step times, ``[batch]``.
        status: Gets ``FEASIBLE`` or what is broken, ``[batch]``.
        op_at_fault: Gets the op that breaks a constraint, ``[batch]``.
        peaks: Gets the peak memory, ``[batch, num_devices]``.
    """
    for row in range(len(placements)):
        status[row], op_at_fault[row] = find_broken_constraint(t, placements[row])
        if status[row] != FEASIBLE:
            continue
        step_ns[row] = simulate(t, s, placements[row])
        peaks[row] = s.peak
        if (s.peak > t.memory_bytes).any():
            status[row] = TOO_MUCH_MEMORY


@_jit()
def longest_remaining_path(t: Tables, topological_order: Ints, work: Floats) -> Floats:
    """Most work from each op to the end, the op included and transfers not, ``[num_ops]``."""
    longest = work.copy()
    for op in topological_order[::-1]:
        for edge in range(t.edge_offsets[op], t.edge_offsets[op + 1]):
            longest[op] = max(longest[op], work[op] + longest[t.edge_consumer[edge]])
    return longest
