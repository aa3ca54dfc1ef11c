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

# indices into Scratch.counts
EVENTS, TRANSFERS, TOUCHED = range(3)


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

    counts: Ints  # [3] events in the heap, transfers so far, devices touched at this instant
    missing: Ints  # [num_ops] inputs not yet there
    start_ns: Floats  # [num_ops]
    finish_ns: Floats  # [num_ops]
    event_ns: Floats  # [num_ops + num_edges] heap
    event_id: Ints  # [num_ops + num_edges] heap
    queue: Ints  # [num_ops] ready ops, a segment per device; ranks in a heap for priority
    queue_head: Ints  # [num_devices]
    queue_tail: Ints  # [num_devices]
    queue_fresh: Ints  # [num_devices] fifo: where the ops made ready at this instant begin
    unsorted: Bools  # [num_devices] fifo: these are out of order
    idle_slots: Ints  # [num_devices]
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
        "counts": 3,
        "channel_last": num_channels,
        "latest_transfer": max_slots * num_devices,
        "users": len(tables.tensor_bytes) + num_edges,
    }
    sizes |= dict.fromkeys(("missing", "start_ns", "finish_ns", "queue"), num_ops)
    sizes |= dict.fromkeys(("event_ns", "event_id"), num_ops + num_edges)
    floats = ("start_ns", "finish_ns", "event_ns", "memory", "peak")
    arrays = {}
    for name in Scratch._fields:
        per_edge = name.startswith(("transfer_", "edge_"))
        size = sizes.get(name, num_edges if per_edge else num_devices)
        if name in floats or (per_edge and name.endswith("_ns")):
            arrays[name] = np.zeros(size, np.float64)
        else:
            arrays[name] = np.zeros(size, bool if name in ("unsorted", "is_touched") else np.int32)
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
def _push_event(s: Scratch, ns: float, event: int) -> None:
    child = s.counts[EVENTS]
    s.counts[EVENTS] = child + 1
    while child > 0:
        parent = (child - 1) >> 1
        parent_ns = s.event_ns[parent]
        if parent_ns < ns or (parent_ns == ns and s.event_id[parent] < event):
            break
        s.event_ns[child] = parent_ns
        s.event_id[child] = s.event_id[parent]
        child = parent
    s.event_ns[child] = ns
    s.event_id[child] = event


@_jit(forceinline=True)
def _pop_event(s: Scratch) -> int:
    """Removes the first event and returns its id."""
    first = s.event_id[0]
    size = s.counts[EVENTS] - 1
    s.counts[EVENTS] = size
    ns, event = s.event_ns[size], s.event_id[size]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        child_ns = s.event_ns[child]
        right = child + 1
        if right < size:
            right_ns = s.event_ns[right]
            if right_ns < child_ns or (
                right_ns == child_ns and s.event_id[right] < s.event_id[child]
            ):
                child, child_ns = right, right_ns
        if ns < child_ns or (ns == child_ns and event < s.event_id[child]):
            break
        s.event_ns[hole] = child_ns
        s.event_id[hole] = s.event_id[child]
        hole = child
    s.event_ns[hole] = ns
    s.event_id[hole] = event
    return first


@_jit(forceinline=True)
def _touch(s: Scratch, device: int) -> None:
    if not s.is_touched[device]:
        s.is_touched[device] = True
        s.touched[s.counts[TOUCHED]] = device
        s.counts[TOUCHED] += 1


@_jit(forceinline=True)
def _make_ready(t: Tables, s: Scratch, op: int, device: int) -> None:
    """Queues an op that has all its inputs."""
    _touch(s, device)
    tail = s.queue_tail[device]
    s.queue_tail[device] = tail + 1
    if len(t.rank_of_op) == 0:
        if tail > s.queue_fresh[device] and s.queue[tail - 1] > op:
            s.unsorted[device] = True
        s.queue[tail] = op
        return
    head = s.queue_head[device]
    rank = t.rank_of_op[op]
    child = tail - head
    while child > 0:
        parent = (child - 1) >> 1
        if s.queue[head + parent] < rank:
            break
        s.queue[head + child] = s.queue[head + parent]
        child = parent
    s.queue[head + child] = rank


@_jit(forceinline=True)
def _next_ready(t: Tables, s: Scratch, device: int) -> int:
    """Removes the op that comes first among the ready ones of a device."""
    head = s.queue_head[device]
    first = s.queue[head]
    if len(t.op_of_rank) == 0:
        s.queue_head[device] = head + 1
        return first
    size = s.queue_tail[device] - 1 - head
    s.queue_tail[device] = head + size
    rank = s.queue[head + size]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and s.queue[head + child + 1] < s.queue[head + child]:
            child += 1
        if rank < s.queue[head + child]:
            break
        s.queue[head + hole] = s.queue[head + child]
        hole = child
    s.queue[head + hole] = rank
    return t.op_of_rank[first]


@_jit(forceinline=True)
def _release(s: Scratch, buffer: int, num_bytes: float, device: int) -> None:
    """Frees a buffer if this was its last user."""
    s.users[buffer] -= 1
    if s.users[buffer] == 0:
        s.memory[device] -= num_bytes


@_jit(forceinline=True)
def _start_ops(t: Tables, s: Scratch, device: int, now: float) -> None:
    """Starts ready ops on the free slots of a device: what ends an instant there."""
    fifo = len(t.op_of_rank) == 0
    if fifo and s.unsorted[device]:
        s.queue[s.queue_fresh[device] : s.queue_tail[device]].sort()
        s.unsorted[device] = False
    while s.idle_slots[device] > 0 and s.queue_head[device] < s.queue_tail[device]:
        op = _next_ready(t, s, device)
        s.idle_slots[device] -= 1
        s.memory[device] += t.start_bytes[op]
        finish = now + t.duration_ns[op, device]
        s.start_ns[op] = now
        s.finish_ns[op] = finish
        _push_event(s, finish, op)
    s.queue_fresh[device] = s.queue_tail[device]
    s.peak[device] = max(s.peak[device], s.memory[device])


@_jit(forceinline=True)
def _start_transfer(t: Tables, s: Scratch, placement: Ints, transfer: int, now: float) -> None:
    op, slot = s.transfer_op[transfer], s.transfer_slot[transfer]
    source, target = placement[op], s.transfer_target[transfer]
    tensor = t.output_offsets[op] + slot
    num_bytes = 0.0
    if tensor < t.output_offsets[op + 1]:
        num_bytes = t.tensor_bytes[tensor]
    seconds = t.latency_seconds[source, target] + num_bytes / t.bandwidth[source, target]
    finish = now + max(1.0, np.rint(seconds * 1e9))
    s.transfer_start_ns[transfer] = now
    s.transfer_finish_ns[transfer] = finish
    s.memory[target] += num_bytes
    _touch(s, target)
    _push_event(s, finish, len(t.num_inputs) + transfer)


@_jit(forceinline=True)
def _new_transfer(t: Tables, s: Scratch, placement: Ints, op: int, edge: int, now: float) -> int:
    """Puts a tensor on its channel to the device of the edge's consumer."""
    transfer = s.counts[TRANSFERS]
    s.counts[TRANSFERS] = transfer + 1
    source, target = placement[op], placement[t.edge_consumer[edge]]
    s.transfer_op[transfer] = op
    s.transfer_slot[transfer] = t.edge_slot[edge]
    s.transfer_target[transfer] = target
    s.transfer_first[transfer] = edge
    s.users[len(t.tensor_bytes) + transfer] = 0
    channel = t.channel_ids[source, target]
    waits = False
    if channel >= 0:
        last = s.channel_last[channel]
        s.channel_last[channel] = transfer
        if last >= 0:
            s.transfer_next[last] = transfer
            waits = True
    if not waits:
        _start_transfer(t, s, placement, transfer, now)
    return transfer


@_jit(forceinline=True)
def _finish_transfer(t: Tables, s: Scratch, placement: Ints, transfer: int, now: float) -> None:
    op, target = s.transfer_op[transfer], s.transfer_target[transfer]
    source = placement[op]
    tensor = t.output_offsets[op] + s.transfer_slot[transfer]
    if tensor < t.output_offsets[op + 1]:
        _release(s, tensor, t.tensor_bytes[tensor], source)
    edge = s.transfer_first[transfer]
    while edge >= 0:
        consumer = t.edge_consumer[edge]
        s.missing[consumer] -= 1
        if s.missing[consumer] == 0:
            _make_ready(t, s, consumer, target)
        edge = s.edge_next[edge]
    channel = t.channel_ids[source, target]
    if channel >= 0:
        if s.channel_last[channel] == transfer:
            s.channel_last[channel] = -1
        else:
            _start_transfer(t, s, placement, s.transfer_next[transfer], now)


@_jit(forceinline=True)
def _finish_op(t: Tables, s: Scratch, placement: Ints, op: int, now: float) -> None:
    device = placement[op]
    num_devices = len(t.slots)
    num_tensors = len(t.tensor_bytes)
    first_tensor, end_tensor = t.output_offsets[op], t.output_offsets[op + 1]
    num_ports = end_tensor - first_tensor
    s.idle_slots[device] += 1
    _touch(s, device)
    s.memory[device] -= t.temporary_bytes[op]
    for i in range(t.input_offsets[op], t.input_offsets[op + 1]):
        buffer = s.edge_buffer[t.input_edges[i]]
        tensor = buffer
        if buffer >= num_tensors:
            transfer = buffer - num_tensors
            tensor = t.output_offsets[s.transfer_op[transfer]] + s.transfer_slot[transfer]
        _release(s, buffer, t.tensor_bytes[tensor], device)
    for tensor in range(first_tensor, end_tensor):
        s.users[tensor] = 1  # the op itself, until its users are counted
    transfers_before = s.counts[TRANSFERS]
    for edge in range(t.edge_offsets[op], t.edge_offsets[op + 1]):
        consumer, slot = t.edge_consumer[edge], t.edge_slot[edge]
        target = placement[consumer]
        buffer = first_tensor + slot
        if target == device:
            s.missing[consumer] -= 1
            if s.missing[consumer] == 0:
                _make_ready(t, s, consumer, target)
        else:
            transfer = s.latest_transfer[slot * num_devices + target]
            if transfer < transfers_before:  # of another op: the first consumer on this device
                transfer = _new_transfer(t, s, placement, op, edge, now)
                s.latest_transfer[slot * num_devices + target] = transfer
                if slot < num_ports:
                    s.users[buffer] += 1
            else:
                s.edge_next[s.transfer_last[transfer]] = edge
            s.transfer_last[transfer] = edge
            s.edge_next[edge] = -1
            buffer = num_tensors + transfer
        if slot < num_ports:
            s.users[buffer] += 1
            s.edge_buffer[edge] = buffer
    for tensor in range(first_tensor, end_tensor):
        _release(s, tensor, t.tensor_bytes[tensor], device)


@_jit(forceinline=True)
def _reset(t: Tables, s: Scratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_ops, num_devices = t.duration_ns.shape
    s.counts[:] = 0
    s.channel_last[:] = -1
    s.latest_transfer[:] = -1
    s.is_touched[:] = False
    s.unsorted[:] = False
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
        s.queue_fresh[device] = first
        first += num_here
        s.peak[device] = s.memory[device]


@_jit()
def simulate(t: Tables, s: Scratch, placement: Ints) -> float:
    """Runs one placement ``[num_ops]``; the schedule is in the scratch afterwards.

    Returns:
        The step time in nanoseconds.
    """
    num_ops = len(t.num_inputs)
    _reset(t, s, placement)
    for op in range(num_ops):
        if t.num_inputs[op] == 0:
            _make_ready(t, s, op, placement[op])
    now = 0.0
    while True:
        for i in range(s.counts[TOUCHED]):
            device = s.touched[i]
            s.is_touched[device] = False
            _start_ops(t, s, device, now)
        s.counts[TOUCHED] = 0
        if s.counts[EVENTS] == 0:
            return now
        now = s.event_ns[0]
        while s.counts[EVENTS] > 0 and s.event_ns[0] == now:
            event = _pop_event(s)
            if event < num_ops:
                _finish_op(t, s, placement, event, now)
            else:
                _finish_transfer(t, s, placement, event - num_ops, now)


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
