"""The engine for every case: it handles events in order of completion, and memory with them.

All times are whole nanoseconds held in float64,
all sizes bytes. Ops keep the user's numbers, so comparing two indices is the tie rule.

An event is the finish of an op (its index) or of a transfer (``num_ops`` + its index): a binary
heap orders events by time, then by that number, so that ops which finish together come in the
user's order and before transfers. All events of one instant are handled before any op starts.
A transfer that waits is chained to the one before it on its channel. An instant's frees precede
its allocations, and all durations are positive, so the peak is the most that a device holds at the
end of an instant.
"""

from __future__ import annotations

import numpy as np

from placer._kernels.addresses import finder
from placer._kernels.graphs import find_broken_constraint, find_tables
from placer._kernels.heaps import pop_event, pop_least, push_event, push_least
from placer._kernels.jit import greater, helper, jit, whole
from placer._tables import (
    FEASIBLE,
    TOO_MUCH_MEMORY,
    Addresses,
    Ints,
    Results,
    Scratch,
    Tables,
    new_scratch,
    smallest_tables,
)

find_scratch = finder(new_scratch(smallest_tables(), 1))
find_results = finder(Results.empty(1, 1))


@helper
def _reset(t: Tables, s: Scratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_devices = len(t.speed_of)
    for channel in range(len(s.channel_last)):
        s.channel_last[channel] = -1
    for latest in range(len(s.latest_transfer)):
        s.latest_transfer[latest] = -1
    for device in range(num_devices):
        s.is_touched[device] = False
        s.memory[device] = 0.0
        s.queue_tail[device] = 0
        s.first_overflow[device] = -1
    for op in range(len(t.num_inputs)):
        device = placement[op]
        s.missing[op] = t.num_inputs[op]
        s.memory[device] += t.parameter_bytes[op]
        if s.memory[device] > t.memory_bytes[device] and s.first_overflow[device] < 0:
            s.first_overflow[device] = op
        s.queue_tail[device] += 1
    first = whole(0)
    for device in range(num_devices):
        num_here = s.queue_tail[device]
        s.queue_head[device] = first
        s.queue_tail[device] = first
        first += num_here
        s.idle_slots[device] = t.slots[device]
        s.peak[device] = s.memory[device]


@helper
def simulate(t: Tables, s: Scratch, placement: Ints) -> float:
    """Runs one placement ``[num_ops]``; the schedule is in the scratch afterwards.

    Returns:
        The step time in nanoseconds.
    """
    _reset(t, s, placement)
    edge_offsets, edge_consumer, edge_slot = t.edge_offsets, t.edge_consumer, t.edge_slot
    input_offsets, input_edges = t.input_offsets, t.input_edges
    op_of_rank, rank_of_op, num_inputs = t.op_of_rank, t.rank_of_op, t.num_inputs
    output_offsets, tensor_bytes = t.output_offsets, t.tensor_bytes
    temporary_bytes, start_bytes, duration_ns = t.temporary_bytes, t.start_bytes, t.duration_ns
    speed_of, memory_bytes = t.speed_of, t.memory_bytes
    bandwidth, latency_seconds, channel_ids = t.bandwidth, t.latency_seconds, t.channel_ids
    transfer_op, transfer_target = s.transfer_op, s.transfer_target
    transfer_slot, edge_buffer = s.transfer_slot, s.edge_buffer
    missing, start_ns, finish_ns, newly_ready = s.missing, s.start_ns, s.finish_ns, s.newly_ready
    event_ns, event_id = s.event_ns, s.event_id
    queue, queue_head, queue_tail = s.queue, s.queue_head, s.queue_tail
    idle_slots, touched, is_touched = s.idle_slots, s.touched, s.is_touched
    transfer_start_ns, transfer_finish_ns = s.transfer_start_ns, s.transfer_finish_ns
    transfer_first, transfer_last = s.transfer_first, s.transfer_last
    transfer_next, channel_last, starting = s.transfer_next, s.channel_last, s.starting
    edge_next, users, latest_transfer = s.edge_next, s.users, s.latest_transfer
    memory, peak, first_overflow = s.memory, s.peak, s.first_overflow
    num_ops, num_devices, num_tensors = len(num_inputs), len(speed_of), len(tensor_bytes)
    is_fifo = len(op_of_rank) == 0
    zero = whole(0)  # callees would be compiled once more for a literal

    now = 0.0
    num_events = num_transfers = num_starting = num_touched = num_newly_ready = zero
    for first_op in range(num_ops):
        if num_inputs[first_op] == 0:
            newly_ready[num_newly_ready] = first_op
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
            finish = now + greater(1.0, np.rint(seconds * 1e9))
            transfer_start_ns[transfer] = now
            transfer_finish_ns[transfer] = finish
            push_event(event_ns, event_id, zero, num_events, finish, num_ops + transfer)
            num_events += 1
            memory[target] += num_bytes
            if memory[target] > memory_bytes[target] and first_overflow[target] < 0:
                first_overflow[target] = op
            if not is_touched[target]:
                is_touched[target] = True
                touched[num_touched] = target
                num_touched += 1
        num_starting = 0

        # newly ready ops queue on their devices
        needs_sort = is_fifo and not is_sorted
        if needs_sort:  # a heap, as a sort of numpy's takes seconds to compile
            for i in range(num_newly_ready):
                push_least(newly_ready, zero, i, newly_ready[i])
        for i in range(num_newly_ready):
            op = newly_ready[i]
            if needs_sort:
                op = pop_least(newly_ready, zero, num_newly_ready - i)
            device = placement[op]
            if is_fifo:
                queue[queue_tail[device]] = op
            else:
                head = whole(queue_head[device])
                push_least(queue, head, queue_tail[device] - head, rank_of_op[op])
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
                head = whole(queue_head[device])
                if is_fifo:
                    op = queue[head]
                    queue_head[device] = head + 1
                else:
                    op = op_of_rank[pop_least(queue, head, queue_tail[device] - head)]
                    queue_tail[device] -= 1
                finish = now + duration_ns[op, speed_of[device]]
                start_ns[op] = now
                finish_ns[op] = finish
                push_event(event_ns, event_id, zero, num_events, finish, whole(op))
                num_events += 1
                idle_slots[device] -= 1
                memory[device] += start_bytes[op]
                if memory[device] > memory_bytes[device] and first_overflow[device] < 0:
                    first_overflow[device] = op
            peak[device] = greater(peak[device], memory[device])
        num_touched = 0

        # completions of the next instant
        if num_events == 0:
            s.num_transfers[0] = num_transfers
            return now
        now = event_ns[0]
        while num_events > 0 and event_ns[0] == now:
            event = pop_event(event_ns, event_id, zero, num_events)
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
            first_tensor, end_tensor = whole(output_offsets[op]), whole(output_offsets[op + 1])
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


@jit
def simulate_rows(
    tables: Addresses, scratch: Addresses, placements: Ints, rows: Ints, results: Addresses
) -> None:
    """Runs rows of placements ``[batch, num_ops]``; the last one's schedule is in the scratch.

    Args:
        tables: Addresses of the ``Tables``.
        scratch: Addresses of working memory, a ``Scratch``.
        placements: Device of each op, ``[batch, num_ops]``.
        rows: Which to run.
        results: Addresses of the ``Results``, which get theirs.
    """
    t, s, found = find_tables(tables), find_scratch(scratch), find_results(results)
    for row in rows:
        status, found.op_at_fault[row] = find_broken_constraint(t, placements[row])
        found.step_ns[row] = simulate(t, s, placements[row])
        for device in range(len(s.peak)):
            found.peaks[row, device] = s.peak[device]
            found.first_overflow[row, device] = s.first_overflow[device]
            if status == FEASIBLE and s.first_overflow[device] >= 0:
                status = TOO_MUCH_MEMORY
        found.status[row] = status
