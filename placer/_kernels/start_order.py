"""The fast engine: it handles ops in order of start, for channels that each have one source.

Where a device runs one op at a time, its ops finish in the order in which they start, so the finish
of an op, and of its transfers on channels that only this device feeds, are known when it starts: no
event is needed. What may start is settled when no input still to come could be earlier. Another
device's next op starts at ``next_start`` and reaches this one ``lookahead_ns`` later at the
earliest, so a device runs ahead of the others until an op is not ready before that.

Memory is only bounded here: all that was ever taken, as if nothing were freed. All times are whole
nanoseconds held in float64. Ops keep the user's numbers, so comparing two is the tie rule.
"""

from __future__ import annotations

import numpy as np

from placer._kernels.graphs import find_broken_constraint
from placer._kernels.heaps import pop_event, pop_least, push_event, push_least
from placer._kernels.jit import helper, jit
from placer._tables import FEASIBLE, Bools, Floats, Ints, StartOrderScratch, Tables


@helper
def _reset(t: Tables, s: StartOrderScratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_ops, num_devices = t.duration_ns.shape
    s.sent_by.fill(-1)
    s.channel_free_ns.fill(0.0)
    s.queue_tail.fill(0)
    s.needed.fill(0.0)
    for op in range(num_ops):
        device = placement[op]
        s.missing[op] = t.num_inputs[op]
        s.ready_ns[op] = 0.0
        s.duration_ns[op] = t.duration_ns[op, device]
        s.queue_tail[device] += 1
        s.needed[device] += t.lasting_bytes[op]
    first = 0
    for device in range(num_devices):
        num_here = s.queue_tail[device]
        s.queue_head[device] = first
        s.queue_tail[device] = first
        s.heap_head[device] = first
        s.heap_size[device] = 0
        s.free_ns[device] = 0.0
        s.next_start_ns[device] = np.inf
        first += num_here


@helper
def _simulate(t: Tables, s: StartOrderScratch, placement: Ints) -> float:
    """Runs one placement ``[num_ops]`` after a reset.

    Returns:
        The step time in nanoseconds.
    """
    edge_offsets, edge_consumer, edge_slot = t.edge_offsets, t.edge_consumer, t.edge_slot
    output_offsets, tensor_bytes, num_inputs = t.output_offsets, t.tensor_bytes, t.num_inputs
    bandwidth, latency_seconds, channel_ids = t.bandwidth, t.latency_seconds, t.channel_ids
    op_of_rank, rank_of_op = t.op_of_rank, t.rank_of_op
    missing, ready_ns, duration_ns = s.missing, s.ready_ns, s.duration_ns
    queue, queue_head, queue_tail = s.queue, s.queue_head, s.queue_tail
    heap_ns, heap_op, heap_size, heap_head = s.heap_ns, s.heap_op, s.heap_size, s.heap_head
    free_ns, next_start_ns, channel_free_ns = s.free_ns, s.next_start_ns, s.channel_free_ns
    sent_by, sent_ns, needed = s.sent_by, s.sent_ns, s.needed
    num_ops, num_devices = t.duration_ns.shape
    is_fifo = len(op_of_rank) == 0
    lookahead_ns = t.lookahead_ns

    for op in range(num_ops):
        if num_inputs[op] == 0:
            device = placement[op]
            if is_fifo:
                queue[queue_tail[device]] = op
            else:
                head = queue_head[device]
                push_least(queue, head, queue_tail[device] - head, rank_of_op[op])
            queue_tail[device] += 1
            next_start_ns[device] = 0.0

    last_finish = 0.0
    while True:
        # the device that starts next, and when the others do
        device, earliest, limit = 0, next_start_ns[0], np.inf
        for other in range(1, num_devices):
            start = next_start_ns[other]
            if start < earliest:
                device, earliest, limit = other, start, earliest
            elif start < limit:
                limit = start
        if earliest == np.inf:
            return last_finish
        limit += lookahead_ns

        first = heap_head[device]
        free = free_ns[device]
        head, tail, size = queue_head[device], queue_tail[device], heap_size[device]
        while True:
            # the next op of this device, if it is settled
            if is_fifo:
                if head < tail:
                    op = queue[head]
                    ready = ready_ns[op]
                    if size > 0 and (
                        heap_ns[first] < ready or (heap_ns[first] == ready and heap_op[first] < op)
                    ):
                        op = heap_op[first]
                        ready = heap_ns[first]
                        if ready >= limit:
                            break
                        pop_event(heap_ns, heap_op, first, size)
                        size -= 1
                    else:
                        if ready >= limit:
                            break
                        head += 1
                elif size > 0:
                    op = heap_op[first]
                    ready = heap_ns[first]
                    if ready >= limit:
                        break
                    pop_event(heap_ns, heap_op, first, size)
                    size -= 1
                else:
                    break
                start = max(free, ready)
            else:
                start = free
                if head == tail:
                    if size == 0:
                        break
                    start = max(free, heap_ns[first])
                if start >= limit:
                    break
                while size > 0 and heap_ns[first] <= start:
                    op = pop_event(heap_ns, heap_op, first, size)
                    size -= 1
                    push_least(queue, head, tail - head, rank_of_op[op])
                    tail += 1
                op = op_of_rank[pop_least(queue, head, tail - head)]
                tail -= 1

            # its finish is known, and with it when its tensors arrive
            free = start + duration_ns[op]
            first_tensor, end_tensor = output_offsets[op], output_offsets[op + 1]
            for edge in range(edge_offsets[op], edge_offsets[op + 1]):
                consumer = edge_consumer[edge]
                target = placement[consumer]
                missing[consumer] -= 1
                arrival = free
                if target != device:
                    slot = edge_slot[edge]
                    sent = slot * num_devices + target
                    if sent_by[sent] == op:
                        arrival = sent_ns[sent]
                    else:
                        tensor = first_tensor + slot
                        num_bytes = tensor_bytes[tensor] if tensor < end_tensor else 0.0
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
                ready = max(ready_ns[consumer], arrival)
                ready_ns[consumer] = ready
                if missing[consumer] > 0:
                    continue
                if target != device:
                    push_event(
                        heap_ns, heap_op, heap_head[target], heap_size[target], ready, consumer
                    )
                    heap_size[target] += 1
                    start = max(free_ns[target], ready)
                    if start < next_start_ns[target]:
                        next_start_ns[target] = start
                        limit = min(limit, start + lookahead_ns)
                elif ready > free:
                    push_event(heap_ns, heap_op, first, size, ready, consumer)
                    size += 1
                elif is_fifo:
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
            next_start = free if not is_fifo else max(free, ready_ns[queue[head]])
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
    t: Tables, s: StartOrderScratch, placements: Ints, step_ns: Floats, settled: Bools
) -> None:
    """Runs each row of placements ``[batch, num_ops]``.

    Args:
        t: The tables.
        s: Working memory.
        placements: Device of each op, ``[batch, num_ops]``.
        step_ns: Gets the step times in nanoseconds, ``[batch]``.
        settled: Gets whether a row is surely feasible, ``[batch]``; only then its step time is set.
    """
    for row in range(len(placements)):
        placement = placements[row]
        settled[row] = False
        if find_broken_constraint(t, placement)[0] == FEASIBLE:
            _reset(t, s, placement)
            if _surely_fits(t, s):
                step_ns[row] = _simulate(t, s, placement)
                settled[row] = _surely_fits(t, s)
