"""The fast engine: it handles ops in order of start, for channels that each have one source.

Where a device runs one op at a time, its ops finish in the order in which they start, so the finish
of an op, and of its transfers on channels that only this device feeds, are known when it starts: no
event is needed. What may start is settled when no input still to come could be earlier. Another
device's next op starts at ``next_start_ns`` and reaches this one ``lookahead_ns`` later at the
earliest, so a device runs ahead of the others until an op is not ready before that.

Memory is only bounded here: all that was ever taken, as if nothing were freed. All times are whole
nanoseconds held in float64. Ops keep the user's numbers, so comparing two is the tie rule.
"""

from __future__ import annotations

import numpy as np

from placer._kernels.graphs import find_broken_constraint
from placer._kernels.heaps import pop_event, pop_least, push_event, push_least
from placer._kernels.jit import helper, jit
from placer._tables import (
    FEASIBLE,
    NUM_SUMS,
    Bools,
    Floats,
    Ints,
    Recording,
    StartOrderScratch,
    Tables,
)

_INPUT = 1 << 32  # an input in StartOrderScratch.waiting


@helper
def _reset(t: Tables, s: StartOrderScratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_ops, num_devices = t.allowed.shape
    s.sent_by.fill(-1)
    s.channel_free_ns.fill(0.0)
    s.ready_ns.fill(0.0)
    s.counts.fill(0)
    s.sums.fill(0.0)
    for op in range(num_ops):
        device = placement[op]
        s.waiting[op] = t.num_inputs[op] * _INPUT + device
        part = (op % NUM_SUMS) * num_devices + device
        s.counts[part] += 1
        s.sums[part] += t.lasting_bytes[op]
    first = 0
    for device in range(num_devices):
        s.queue_head[device] = first
        s.queue_tail[device] = first
        s.heap_head[device] = first
        s.heap_size[device] = 0
        s.free_ns[device] = 0.0
        s.next_start_ns[device] = np.inf
        s.needed[device] = 0.0
        for part in range(device, NUM_SUMS * num_devices, num_devices):
            first += s.counts[part]
            s.needed[device] += s.sums[part]


@helper
def _simulate(t: Tables, s: StartOrderScratch, placement: Ints, recording: Recording) -> float:
    """Runs one placement ``[num_ops]`` after a reset; records the schedule if there is room for it.

    Returns:
        The step time in nanoseconds.
    """
    # no index is negative, and code that knows need not look
    edge_offsets = t.edge_offsets.view(np.uint32)
    edge_consumer, edge_slot = t.edge_consumer.view(np.uint32), t.edge_slot.view(np.uint32)
    output_offsets, tensor_bytes = t.output_offsets.view(np.uint32), t.tensor_bytes
    num_inputs, duration_ns, speed_of = t.num_inputs, t.duration_ns, t.speed_of
    bandwidth, latency_seconds, channel_ids = t.bandwidth, t.latency_seconds, t.channel_ids
    op_of_rank, rank_of_op = t.op_of_rank.view(np.uint32), t.rank_of_op
    waiting, ready_ns = s.waiting, s.ready_ns
    queue, queue_head, queue_tail = s.queue.view(np.uint32), s.queue_head, s.queue_tail
    heap_ns, heap_op, heap_size, heap_head = s.heap_ns, s.heap_op, s.heap_size, s.heap_head
    free_ns, next_start_ns, channel_free_ns = s.free_ns, s.next_start_ns, s.channel_free_ns
    sent_by, sent_ns, needed = s.sent_by, s.sent_ns, s.needed
    num_ops, num_devices = t.allowed.shape
    # looked up each time, lest the compiler makes a copy of the loop for each case
    is_fifo, is_recorded = s.cases[:1], s.cases[1:]
    is_fifo[0] = len(op_of_rank) == 0
    is_recorded[0] = len(recording.start_ns) > 0
    lookahead_ns = t.lookahead_ns

    for source in range(num_ops):
        if num_inputs[source] == 0:
            home = placement[source]
            if is_fifo[0]:
                queue[queue_tail[home]] = source
            else:
                head = queue_head[home]
                push_least(queue, head, queue_tail[home] - head, rank_of_op[source])
            queue_tail[home] += 1
            next_start_ns[home] = 0.0

    last_finish = 0.0
    while True:
        # the device that starts next, and when the others do
        here, earliest, limit = 0, np.inf, np.inf
        for other in range(num_devices):  # without branches
            start = next_start_ns[other]
            limit = min(limit, max(start, earliest))
            here = other if start < earliest else here
            earliest = min(earliest, start)
        if earliest == np.inf:
            return last_finish
        limit += lookahead_ns

        device = np.uint32(here)
        speed = np.uint32(speed_of[device])
        first = heap_head[device]
        free = free_ns[device]
        head, tail, size = queue_head[device], queue_tail[device], heap_size[device]
        while True:
            # the next op of this device, if it is settled
            start = free
            if is_fifo[0]:
                is_arrival = head == tail
                if head < tail:
                    op = queue[head]  # ready since another finished here, so not after now
                    if size > 0:
                        ready, ready_first = ready_ns[op], heap_ns[first]
                        is_arrival = ready_first < ready or (
                            ready_first == ready and heap_op[first] < op
                        )
                elif size == 0:
                    break
                if is_arrival:
                    ready_first = heap_ns[first]
                    if ready_first >= limit:
                        break
                    op = np.uint32(pop_event(heap_ns, heap_op, first, size))
                    size -= 1
                    start = max(free, ready_first)
                else:
                    if free >= limit and ready_ns[op] >= limit:
                        break
                    head += 1
            else:
                if head == tail:
                    if size == 0:
                        break
                    start = max(free, heap_ns[first])
                if start >= limit:
                    break
                while size > 0 and heap_ns[first] <= start:
                    op = np.uint32(pop_event(heap_ns, heap_op, first, size))
                    size -= 1
                    push_least(queue, head, tail - head, rank_of_op[op])
                    tail += 1
                op = op_of_rank[pop_least(queue, head, tail - head)]
                tail -= 1

            # its finish is known, and with it when its tensors arrive
            free = start + duration_ns[op, speed]
            if is_recorded[0]:
                recording.start_ns[op] = start
                recording.sequence[recording.sequence_end[device]] = op
                recording.sequence_end[device] += 1
            for edge in range(edge_offsets[op], edge_offsets[op + 1]):
                consumer = edge_consumer[edge]
                state = waiting[consumer] - _INPUT
                waiting[consumer] = state
                target = np.uint32(state)
                arrival = free
                if target != device:
                    slot = edge_slot[edge]
                    sent = slot * num_devices + target
                    if sent_by[sent] == op:
                        arrival = sent_ns[sent]
                    else:
                        tensor = output_offsets[op] + slot
                        num_bytes = tensor_bytes[tensor] if tensor < output_offsets[op + 1] else 0.0
                        seconds = (
                            latency_seconds[device, target] + num_bytes / bandwidth[device, target]
                        )
                        channel = channel_ids[device, target]
                        if channel >= 0:
                            arrival = max(free, channel_free_ns[channel])
                        arrival += max(1.0, np.rint(seconds * 1e9))
                        if channel >= 0:
                            channel_free_ns[channel] = arrival
                        sent_by[sent] = op
                        sent_ns[sent] = arrival
                        needed[target] += num_bytes
                if is_recorded[0]:
                    recording.arrival_ns[edge] = arrival
                ready = max(ready_ns[consumer], arrival)
                ready_ns[consumer] = ready
                if state >= _INPUT:
                    continue
                if target != device or ready > free:
                    num_waiting = size if target == device else heap_size[target]
                    push_event(heap_ns, heap_op, heap_head[target], num_waiting, ready, consumer)
                    if target == device:
                        size += 1
                    else:
                        heap_size[target] += 1
                        start = max(free_ns[target], ready)
                        if start < next_start_ns[target]:
                            next_start_ns[target] = start
                            limit = min(limit, start + lookahead_ns)
                elif is_fifo[0]:
                    queue[tail] = consumer
                    tail += 1
                else:
                    push_least(queue, head, tail - head, rank_of_op[consumer])
                    tail += 1

        queue_head[device], queue_tail[device], heap_size[device] = head, tail, size
        free_ns[device] = free
        last_finish = max(last_finish, free)
        next_start = np.inf
        if head < tail:
            next_start = free if not is_fifo[0] else max(free, ready_ns[queue[head]])
        if size > 0:
            next_start = min(next_start, max(free, heap_ns[first]))
        next_start_ns[device] = next_start


@helper
def _surely_fits(t: Tables, s: StartOrderScratch) -> bool:
    """Whether memory suffices on every device even if nothing of what was taken is freed."""
    fits = True
    for device in range(len(s.needed)):
        fits = fits and s.needed[device] <= t.certain_bytes[device]
    return fits


@jit
def simulate_rows(
    t: Tables,
    s: StartOrderScratch,
    placements: Ints,
    step_ns: Floats,
    settled: Bools,
    recording: Recording,
) -> None:
    """Runs each row of placements ``[batch, num_ops]``.

    Args:
        t: The tables.
        s: Working memory.
        placements: Device of each op, ``[batch, num_ops]``.
        step_ns: Gets the step times in nanoseconds, ``[batch]``.
        settled: Gets whether a row is surely feasible, ``[batch]``; only then its step time is set.
        recording: Gets the schedule of the last row that is, or has no room.
    """
    for row in range(len(placements)):
        placement = placements[row]
        settled[row] = False
        if find_broken_constraint(t, placement)[0] == FEASIBLE:
            _reset(t, s, placement)
            if _surely_fits(t, s):
                if len(recording.start_ns) > 0:
                    recording.sequence_head[:] = s.queue_head
                    recording.sequence_end[:] = s.queue_head
                step_ns[row] = _simulate(t, s, placement, recording)
                settled[row] = _surely_fits(t, s)
