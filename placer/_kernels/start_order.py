"""The fast engine: it handles ops in order of start, for channels that each have one source.

Where a device runs one op at a time, its ops finish in the order in which they start, so the finish
of an op, and of its transfers on channels that only this device feeds, are known when it starts: no
event is needed. What may start is settled when no input still to come could be earlier. Another
device's next op starts at its ``next_start`` and reaches this one ``lookahead_ns`` later at the
earliest, so a device runs ahead of the others until an op is not ready before that.

Memory is only bounded here: all that was ever taken, as if nothing were freed. All times are whole
nanoseconds in 64 bits, which leave room for an op or a device: such a key orders by time, then by
number. Ops keep the user's numbers, so comparing two is the tie rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from placer._kernels.addresses import finder
from placer._kernels.graphs import find_broken_constraint, find_tables
from placer._kernels.heaps import pop_least, push_least
from placer._kernels.jit import greater, helper, jit, lesser, whole
from placer._kernels.ranks import Words, add_rank, take_least_rank
from placer._tables import (
    FEASIBLE,
    NEVER,
    NUM_SUMS,
    Addresses,
    Bools,
    Floats,
    Ints,
    StartOrderScratch,
    Tables,
    new_recording,
    new_start_order_scratch,
    smallest_tables,
)

_INPUT = 1 << 32  # an input in StartOrderScratch.waiting
_ONE = np.uint64(1)

Integer = int | np.integer[Any]

find_scratch = finder(new_start_order_scratch(smallest_tables(), 1))
find_recording = finder(new_recording(1, 1, 1))


@helper
def _reset(t: Tables, s: StartOrderScratch, placement: Ints) -> None:
    """Brings everything to the instant before the start."""
    num_ops, num_devices = len(t.num_inputs), len(t.speed_of)
    for sent in range(len(s.sent_by)):
        s.sent_by[sent] = -1
    for channel in range(len(s.channel_free_ns)):
        s.channel_free_ns[channel] = 0
    for node in range(len(s.next_start)):
        s.next_start[node] = NEVER
    for part in range(len(s.counts)):
        s.counts[part] = 0
        s.sums[part] = 0.0
    for op in range(num_ops):
        s.ready_ns[op] = 0
    for op in range(num_ops):
        s.waiting[op] = t.num_inputs[op] * _INPUT + placement[op]
    width, parts = np.uint64(num_devices), np.uint64(NUM_SUMS)
    for op in range(np.uint64(num_ops)):
        s.counts[op % parts * width + np.uint32(placement[op])] += 1
    if not t.always_fits:
        for op in range(np.uint64(num_ops)):
            s.sums[op % parts * width + np.uint32(placement[op])] += t.lasting_bytes[op]
    first = np.uint64(0)
    for device in range(num_devices):
        s.queue_head[device] = s.queue_tail[device] = s.arrivals_head[device] = first
        s.num_arrivals[device] = s.free_ns[device] = 0
        s.needed[device] = 0.0
        for part in range(device, NUM_SUMS * num_devices, num_devices):
            first += np.uint64(s.counts[part])
            s.needed[device] += s.sums[part]


@helper
def _set_next_start(s: StartOrderScratch, device: np.uint64, key: int) -> None:
    """Sets when a device starts next, and all that depends on it in the tree."""
    node = np.uint64(len(s.next_start) >> 1) + device
    s.next_start[node] = key
    while node > _ONE:
        key = lesser(key, s.next_start[node ^ _ONE])
        node >>= _ONE
        s.next_start[node] = key


@helper
def _next_start_of_others(s: StartOrderScratch, device: int) -> int:
    """The key of whoever starts next but for one device."""
    node = np.uint64(len(s.next_start) >> 1) + np.uint64(device)
    key = whole(NEVER)
    while node > _ONE:
        key = lesser(key, s.next_start[node ^ _ONE])
        node >>= _ONE
    return key


@helper
def _send(
    t: Tables,
    s: StartOrderScratch,
    op: np.uint64,
    edge: Integer,
    device: np.uint64,
    target: np.uint64,
    finish: int,
) -> int:
    """When the tensor of an edge is on another device; it is sent there once."""
    slot = t.edge_slot[edge]
    sent = slot * np.uint64(len(t.speed_of)) + target
    if s.sent_by[sent] == op:
        return s.sent_ns[sent]  # type: ignore[no-any-return]
    tensor = t.output_offsets[op] + slot
    num_bytes = t.tensor_bytes[tensor] if tensor < t.output_offsets[op + _ONE] else 0.0
    seconds = t.latency_seconds[device, target] + num_bytes / t.bandwidth[device, target]
    arrival = finish
    channel = t.channel_ids[device, target]
    if channel >= 0:
        arrival = greater(arrival, s.channel_free_ns[channel])
    arrival += whole(greater(1.0, np.rint(seconds * 1e9)))
    if channel >= 0:
        s.channel_free_ns[channel] = arrival
    s.sent_by[sent] = op
    s.sent_ns[sent] = arrival
    s.needed[target] += num_bytes
    return arrival


@helper
def _expect(
    t: Tables, s: StartOrderScratch, consumer: Integer, target: np.uint64, ready: int
) -> int:
    """Queues an op that gets ready on a device other than the one that is looked at.

    Returns:
        When it starts if it starts next there, or else ``NEVER``.
    """
    size = s.num_arrivals[target]
    push_least(s.arrivals, s.arrivals_head[target], size, ready << t.id_bits | np.int64(consumer))
    s.num_arrivals[target] = size + 1
    start: int = greater(s.free_ns[target], ready)
    key = start << t.id_bits | whole(target)
    if key < s.next_start[np.uint64(len(s.next_start) >> 1) + target]:
        _set_next_start(s, target, key)
        return start
    return NEVER


@helper
def _simulate(t: Tables, s: StartOrderScratch, placement: Ints, record: Addresses | None) -> int:
    """Runs one placement ``[num_ops]`` after a reset, first ready first; may record the schedule.

    Returns:
        The step time in nanoseconds.
    """
    num_inputs, edge_offsets, edge_consumer = t.num_inputs, t.edge_offsets, t.edge_consumer
    duration_ns, waiting, ready_ns, queue = t.duration_ns, s.waiting, s.ready_ns, s.queue
    arrivals, next_start, id_bits = s.arrivals, s.next_start, t.id_bits
    id_mask = (1 << id_bits) - 1
    lookahead_ns = whole(t.lookahead_ns)
    # looked up each time, lest the compiler makes a copy of the loop for each case
    is_recorded = s.is_recorded
    if record is not None:
        recording = find_recording(record)

    for source in range(len(num_inputs)):
        if num_inputs[source] == 0:
            home = placement[source]
            queue[s.queue_tail[home]] = source
            s.queue_tail[home] += _ONE
            _set_next_start(s, np.uint64(home), whole(home))

    last_finish = whole(0)
    while next_start[1] != NEVER:
        here = next_start[1] & id_mask
        device = np.uint64(here)
        limit = (_next_start_of_others(s, here) >> id_bits) + lookahead_ns
        speed = np.uint64(t.speed_of[device])
        head, tail, free = s.queue_head[device], s.queue_tail[device], s.free_ns[device]
        first, size = s.arrivals_head[device], s.num_arrivals[device]
        while True:
            # the next op of this device, if it is settled
            is_arrival = head == tail
            if head < tail:
                op = np.uint64(queue[head])  # ready since another finished here, so not after now
                if size > 0:
                    is_arrival = arrivals[first] < (ready_ns[op] << id_bits | np.int64(op))
            elif size == 0:
                break
            start = free
            if is_arrival:
                key = arrivals[first]
                if key >> id_bits >= limit:
                    break
                op = np.uint64(key & id_mask)
                start = greater(start, key >> id_bits)
                pop_least(arrivals, first, size)
                size -= 1
            else:
                if free >= limit and ready_ns[op] >= limit:
                    break
                head += _ONE

            # its finish is known, and with it when its tensors arrive
            free = start + whole(duration_ns[op, speed])
            if record is not None and is_recorded[0]:
                recording.start_ns[op] = start
                recording.sequence[recording.sequence_end[device]] = op
                recording.sequence_end[device] += 1
            for edge in range(edge_offsets[op], edge_offsets[op + _ONE]):
                consumer = edge_consumer[edge]
                state = waiting[consumer] - _INPUT
                waiting[consumer] = state
                target = np.uint64(np.uint32(state))
                arrival = free
                if target != device:
                    arrival = _send(t, s, op, edge, device, target, free)
                if record is not None and is_recorded[0]:
                    recording.arrival_ns[edge] = arrival
                ready = greater(ready_ns[consumer], arrival)
                ready_ns[consumer] = ready
                if state >= _INPUT:
                    continue
                if target != device:
                    limit = lesser(limit, _expect(t, s, consumer, target, ready) + lookahead_ns)
                elif ready > free:
                    push_least(arrivals, first, size, ready << id_bits | np.int64(consumer))
                    size += 1
                else:
                    queue[tail] = consumer
                    tail += _ONE

        s.queue_head[device], s.queue_tail[device], s.free_ns[device] = head, tail, free
        s.num_arrivals[device] = size
        last_finish = greater(last_finish, free)
        start = NEVER
        if head < tail:
            start = greater(free, ready_ns[queue[head]])
        if size > 0:
            start = lesser(start, greater(free, arrivals[first] >> id_bits))
        _set_next_start(s, device, start << id_bits | here if start < NEVER else NEVER)
    return last_finish


@helper
def _add_ready(words: Words, num_ops: int, num_ready: int, least: int, rank: Integer) -> int:
    """Adds a rank to what is ready, of which the least is kept apart; returns the least."""
    if num_ready == 0:
        return whole(rank)
    add_rank(words, num_ops, np.uint64(greater(least, whole(rank))))
    return lesser(least, whole(rank))


@helper
def _simulate_by_priority(t: Tables, s: StartOrderScratch, placement: Ints) -> int:
    """Runs one placement ``[num_ops]`` after a reset, highest priority first.

    Returns:
        The step time in nanoseconds.
    """
    num_inputs, edge_offsets, edge_consumer = t.num_inputs, t.edge_offsets, t.edge_consumer
    duration_ns, waiting, ready_ns = t.duration_ns, s.waiting, s.ready_ns
    op_of_rank, rank_of_op, ready_ranks = t.op_of_rank, t.rank_of_op, s.ready_ranks
    arrivals, next_start, id_bits = s.arrivals, s.next_start, t.id_bits
    id_mask, num_ops = (1 << id_bits) - 1, len(num_inputs)
    lookahead_ns = whole(t.lookahead_ns)

    for each in range(len(t.speed_of)):
        s.num_ready[each] = 0
    for source in range(num_ops):
        if num_inputs[source] == 0:
            home, rank = placement[source], rank_of_op[source]
            s.least_ready[home] = _add_ready(
                ready_ranks[home], num_ops, s.num_ready[home], s.least_ready[home], rank
            )
            s.num_ready[home] += 1
            _set_next_start(s, np.uint64(home), whole(home))

    last_finish = whole(0)
    while next_start[1] != NEVER:
        here = next_start[1] & id_mask
        device = np.uint64(here)
        limit = (_next_start_of_others(s, here) >> id_bits) + lookahead_ns
        speed = np.uint64(t.speed_of[device])
        num_ready, least, free = s.num_ready[device], s.least_ready[device], s.free_ns[device]
        words, first, size = ready_ranks[device], s.arrivals_head[device], s.num_arrivals[device]
        while True:
            # the next op of this device, if it is settled
            start = free
            if num_ready == 0:
                if size == 0:
                    break
                start = greater(free, arrivals[first] >> id_bits)
            if start >= limit:
                break
            while size > 0 and arrivals[first] >> id_bits <= start:
                op = np.uint64(pop_least(arrivals, first, size) & id_mask)
                size -= 1
                least = _add_ready(words, num_ops, num_ready, least, rank_of_op[op])
                num_ready += 1
            op = np.uint64(op_of_rank[np.uint64(least)])
            num_ready -= 1
            if num_ready > 0:
                least = whole(take_least_rank(words, num_ops))

            # its finish is known, and with it when its tensors arrive
            free = start + whole(duration_ns[op, speed])
            for edge in range(edge_offsets[op], edge_offsets[op + _ONE]):
                consumer = edge_consumer[edge]
                state = waiting[consumer] - _INPUT
                waiting[consumer] = state
                target = np.uint64(np.uint32(state))
                arrival = free
                if target != device:
                    arrival = _send(t, s, op, edge, device, target, free)
                ready = greater(ready_ns[consumer], arrival)
                ready_ns[consumer] = ready
                if state >= _INPUT:
                    continue
                if target != device:
                    limit = lesser(limit, _expect(t, s, consumer, target, ready) + lookahead_ns)
                elif ready > free:
                    push_least(arrivals, first, size, ready << id_bits | np.int64(consumer))
                    size += 1
                else:
                    rank = rank_of_op[consumer]
                    least = _add_ready(words, num_ops, num_ready, least, rank)
                    num_ready += 1

        s.num_ready[device], s.least_ready[device], s.free_ns[device] = num_ready, least, free
        s.num_arrivals[device] = size
        last_finish = greater(last_finish, free)
        start = NEVER
        if num_ready > 0:
            start = free
        elif size > 0:
            start = greater(free, arrivals[first] >> id_bits)
        _set_next_start(s, device, start << id_bits | here if start < NEVER else NEVER)
    return last_finish


@helper
def _surely_fits(t: Tables, s: StartOrderScratch) -> bool:
    """Whether memory suffices on every device even if nothing of what was taken is freed."""
    fits = True
    for device in range(len(s.needed)):
        fits = fits and s.needed[device] <= t.certain_bytes[device]
    return fits


@jit
def simulate_rows(
    tables: Addresses,
    scratch: Addresses,
    placements: Ints,
    step_ns: Floats,
    settled: Bools,
    record: Addresses | None,
) -> None:
    """Runs each row of placements ``[batch, num_ops]``, first ready first.

    Args:
        tables: Addresses of the ``Tables``.
        scratch: Addresses of working memory, a ``StartOrderScratch``.
        placements: Device of each op, ``[batch, num_ops]``.
        step_ns: Gets the step times in nanoseconds, ``[batch]``.
        settled: Gets whether a row is surely feasible, ``[batch]``; only then its step time is set.
        record: Addresses of a ``Recording``, which gets the schedule of the last row that is, or
            has no room; may be None.
    """
    t, s = find_tables(tables), find_scratch(scratch)
    for row in range(len(placements)):
        placement = placements[row]
        settled[row] = False
        if find_broken_constraint(t, placement)[0] == FEASIBLE:
            _reset(t, s, placement)
            if _surely_fits(t, s):
                if record is not None:
                    recording = find_recording(record)
                    s.is_recorded[0] = len(recording.start_ns) > 0
                    for device in range(len(recording.sequence_head)):
                        recording.sequence_head[device] = s.queue_head[device]
                        recording.sequence_end[device] = s.queue_head[device]
                step_ns[row] = _simulate(t, s, placement, record)
                settled[row] = _surely_fits(t, s)


@jit
def simulate_rows_by_priority(
    tables: Addresses, scratch: Addresses, placements: Ints, step_ns: Floats, settled: Bools
) -> None:
    """As :func:`simulate_rows`, highest priority first; nothing is recorded."""
    t, s = find_tables(tables), find_scratch(scratch)
    for row in range(len(placements)):
        placement = placements[row]
        settled[row] = False
        if find_broken_constraint(t, placement)[0] == FEASIBLE:
            _reset(t, s, placement)
            if _surely_fits(t, s):
                step_ns[row] = _simulate_by_priority(t, s, placement)
                settled[row] = _surely_fits(t, s)
