"""What a move changes: simulates from the first op it touches until nothing differs any more.

A *base* is a recorded schedule. A move sends some ops to another device. The schedule is the base's
up to a *cut*: the instant before the first op whose tensors go elsewhere, or that stays away, or
that waits for a moved one. From there ops are handled in order of start, as in ``start_order``, but
what an op waits for is looked up in the base when it is first needed. When at some instant the same
ops have started as in the base, and all that can still have an effect is as in the base but for a
shift in time by a constant, the rest is the base's, shifted, up to the next op that the move
touches: the next cut. If there is none, the step time is known.

Times are in the base's coordinates: after a shift, the clock is set back by it.
"""

from __future__ import annotations

import numpy as np

from placer._kernels.addresses import prefetch
from placer._kernels.base import (
    CUTS,
    STARTED,
    STARTS,
    TARGET,
    TRIALS,
    WINDOWS,
    find_tables,
    finish_of,
    last_producer_of,
    op_before,
    ready_of,
    span_at,
    start_of,
)
from placer._kernels.convergence import has_converged, has_received, queues_are_in_order
from placer._kernels.heaps import pop_event, push_event
from placer._kernels.jit import greater, helper, jit, lesser, subroutine, whole
from placer._kernels.moved_ops import (
    can_wait,
    is_queued,
    may_move,
    next_cut,
    set_back,
    surely_fits,
)
from placer._move_tables import NONE, Indices, MoveTables, Records
from placer._tables import Addresses, Floats

UNKNOWN = -1.0
"""In place of a step time: a full run must tell."""

_FROM_BASE, _FROM_LINE, _FROM_QUEUE = range(3)  # where a candidate waits
_MOST_STAMPS = 1_000_000_000  # one trial makes far less than as many again


@helper
def _begin_at(m: MoveTables, cut_ns: float, span: int, trial: int) -> float:
    """Sets all devices to a cut, which lies in a span.

    Returns:
        When the last effect of what has started happens.
    """
    span_late = m.late_ns[span]
    reach_ns: float = m.spans[span].carried_ns + span_late
    for device in range(len(m.devices)):
        op = m.first_ops[span, device]
        while op != NONE and start_of(m.ops, m.late_ns, op) < cut_ns:
            reach_ns = greater(reach_ns, m.ops[op].effect_ns + span_late)
            op = m.ops[op].next
        here = m.devices[device]
        here.cut = here.waiting = op
        here.heap_size = 0
        here.line_head = here.line_end = here.room
        here.free_ns = 0.0
        last = op_before(m.ops, m.devices, device, op)
        if last != NONE:
            here.free_ns = finish_of(m.ops, m.late_ns, last)
        while op != NONE and m.ops[op].moved == trial:
            op = m.ops[op].next
        here.expected = op
    return reach_ns


@helper
def _find_candidate(m: MoveTables, device: int, cut_ns: float, reach_ns: float, trial: int) -> None:
    """Sets which op a device starts next, and when."""
    here = m.devices[device]
    # one that was ready at the cut; ops start in the order in which they get ready
    waiting = here.waiting
    candidate, candidate_ns, source = np.uint32(0), np.inf, _FROM_BASE
    while waiting != NONE:
        ready_ns = ready_of(m.ops, m.late_ns, waiting)
        if ready_ns > reach_ns:
            waiting = NONE
        elif last_producer_of(m.ops, m.late_ns, waiting) < cut_ns and m.ops[waiting].moved != trial:
            candidate, candidate_ns = waiting, ready_ns
            break
        else:
            waiting = m.ops[waiting].next
    here.waiting = waiting
    # one that got ready since
    if here.line_head < here.line_end:
        op = m.line[here.line_head]
        ready_ns = m.ops[op].arrived_ns
        if ready_ns < candidate_ns or (ready_ns == candidate_ns and op < candidate):
            candidate, candidate_ns, source = op, ready_ns, _FROM_LINE
    if here.heap_size > 0:
        op = m.queue_op[here.room]
        ready_ns = m.queue_ns[here.room]
        if ready_ns < candidate_ns or (ready_ns == candidate_ns and op < candidate):
            candidate, candidate_ns, source = op, ready_ns, _FROM_QUEUE
    here.candidate = candidate
    here.source = source
    here.ready_ns = candidate_ns
    here.next_start_ns = greater(here.free_ns, candidate_ns)


@helper
def _enqueue(m: MoveTables, device: int, op: int, ns: float) -> None:
    """Queues an op that gets ready at `ns`."""
    here = m.devices[device]
    size = here.heap_size
    here.heap_size = size + 1
    push_event(m.queue_ns, m.queue_op, here.room, size, ns, op)
    first_ns = here.ready_ns
    if ns < first_ns or (ns == first_ns and op < here.candidate):
        here.candidate = op
        here.source = _FROM_QUEUE
        here.ready_ns = ns
        here.next_start_ns = greater(here.free_ns, ns)


@subroutine
def _use_channel(
    m: MoveTables, channel: int, source: int, cut_ns: float, cut: int, num_used: int
) -> int:
    """Looks up when a channel that comes into use gets free in the base at the cut.

    Returns:
        How many channels are in use.
    """
    used = m.channels[channel]
    used.stamp = cut
    m.channels[num_used].used = channel
    free_ns = 0.0
    op = op_before(m.ops, m.devices, source, m.devices[source].cut)
    while free_ns == 0.0 and op != NONE:
        behind = m.ops[op].span + 1
        if m.spans[behind].carried_ns + m.late_ns[behind] <= cut_ns:
            break
        node = m.ops[op]
        for edge in range(node.first_edge, node.end_edge):
            target = m.ops[m.edges[edge].consumer].device
            if target != source and m.links[source, target].channel == channel:
                free_ns = greater(free_ns, m.edges[edge].arrival_ns + m.late_ns[node.span])
        op = node.previous
    used.free_ns = used.base_free_ns = free_ns
    return num_used + 1


@helper
def _see(
    nodes: Records, inputs: Records, late_ns: Floats, op: int, cut_ns: float, cut: int
) -> None:
    """Looks up what an op waits for at the cut, and since when the rest is there."""
    num_missing = 0
    arrived_ns = 0.0
    node = nodes[op]
    for i in range(node.first_input, node.end_input):
        read = inputs[i]
        span_late = late_ns[read.span]
        if read.start_ns + span_late < cut_ns:
            arrived_ns = greater(arrived_ns, read.arrival_ns + span_late)
        else:
            num_missing += 1
    node.seen = cut
    node.missing = num_missing
    node.arrived_ns = node.base_arrived_ns = arrived_ns


@subroutine
def _forget_stamps(m: MoveTables) -> None:
    """Begins counting anew before a stamp would not fit into 32 bits."""
    for op in range(len(m.ops)):
        node = m.ops[op]
        node.moved = node.disturbed = node.started = node.seen = 0
    for channel in range(len(m.channels)):
        m.channels[channel].stamp = 0
    m.counters[TRIALS] = m.counters[CUTS] = 0


@helper
def _end_window(
    m: MoveTables, cut_ns: float, base_ns: float, span: int, late_ns: float, num_starts: int
) -> None:
    """Notes what has been simulated since a cut; see ``placer._move_tables``."""
    window = m.windows[m.counters[WINDOWS]]
    window.cut_ns = cut_ns
    window.base_ns = base_ns
    window.last_span = span
    window.late_ns = late_ns
    window.end = num_starts
    m.counters[WINDOWS] += 1
    m.counters[STARTED] = num_starts


@jit
def try_move(
    addresses: Addresses, ops: Indices, device: int, step_ns: float, most_starts: int
) -> tuple[float, int]:
    """The step time if some ops were on another device.

    Args:
        addresses: Those of the base and working memory, a ``MoveTables``.
        ops: The ops, each once.
        device: Where they go.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts a full run is better.

    Returns:
        The step time in nanoseconds, infinite if the ops may not go there, or ``UNKNOWN``; and how
        many ops were started.
    """
    m = find_tables(addresses)
    disturbed_ns, disturbed_op = m.disturbed_ns, m.disturbed_op
    num_devices = len(m.devices)
    zero = whole(0)  # callees would be compiled once more for a literal

    m.counters[STARTED] = m.counters[WINDOWS] = 0
    m.counters[TARGET] = device
    if not may_move(m.ops, m.needs, m.allowed, ops, device):
        return np.inf, 0
    if greater(m.counters[TRIALS], m.counters[CUTS]) > _MOST_STAMPS:
        _forget_stamps(m)
    m.counters[TRIALS] += 1
    trial = whole(m.counters[TRIALS])
    num_moving = zero
    for op in ops:
        node = m.ops[op]
        if node.device != device:
            node.moved = trial
            num_moving += 1
    if num_moving == 0:
        return step_ns, 0
    if not surely_fits(m.ops, m.needs, m.devices, ops, device, trial):
        return UNKNOWN, 0

    # what makes a difference: the moved ops, and those that send them something, by start
    num_disturbed = zero
    num_queued = zero  # moved ops that are ready, or about to get so, and have not started
    for op in ops:
        node = m.ops[op]
        if node.moved != trial:
            continue
        first_input, end_input = node.first_input, node.end_input
        node.started = 0
        node.missing = end_input - first_input
        node.arrived_ns = 0.0
        if first_input == end_input:
            num_queued += 1
        for i in range(first_input - 1, end_input):
            other = op if i < first_input else m.inputs[i].producer
            sender = m.ops[other]
            if sender.disturbed != trial:
                sender.disturbed = trial
                ns = start_of(m.ops, m.late_ns, other)
                push_event(disturbed_ns, disturbed_op, zero, num_disturbed, ns, other)
                num_disturbed += 1
    room = zero
    for other in range(num_devices):
        at = m.devices[other]
        at.room = room
        room += at.num_ops
        if other == device:
            room += num_moving

    shift = 0.0
    num_starts = zero
    num_moved = num_passed = 0  # moved ops that have started now, and in the base
    last_moved = -1.0  # latest start in the base of one that has started now
    cut_ns = next_cut(m, ops, device, trial, num_disturbed, num_queued)
    while True:
        m.counters[CUTS] += 1
        cut = whole(m.counters[CUTS])
        if num_disturbed > 0 and disturbed_ns[0] == cut_ns:  # as nearly always
            span = zero + m.ops[disturbed_op[0]].span
        else:
            span = span_at(m, cut_ns)
        m.windows[m.counters[WINDOWS]].first_span = span
        reach_ns = _begin_at(m, cut_ns, span, trial)
        for other in range(num_devices):
            _find_candidate(m, other, cut_ns, reach_ns, trial)
        if num_queued > 0:
            for op in ops:
                if is_queued(m.ops, op, trial):
                    _enqueue(m, device, op, m.ops[op].arrived_ns)

        num_seen = num_used = zero
        num_early = 0  # ops that have started before one that the base starts first
        last_start = -1.0  # latest start in the base of one that has started now
        first_check = num_starts + 1
        next_check = first_check
        while True:
            here, now = zero, m.devices[0].next_start_ns
            for other in range(1, num_devices):
                ns = m.devices[other].next_start_ns
                if ns < now:
                    here, now = other, ns
            if now == np.inf:
                last_finish = 0.0
                for other in range(num_devices):
                    last_finish = greater(last_finish, m.devices[other].free_ns)
                _end_window(m, cut_ns + shift, np.inf, len(m.first_ops) - 1, 0.0, num_starts)
                return last_finish + shift, num_starts
            at = m.devices[here]
            op = at.candidate
            node = m.ops[op]
            prefetch(m.edges, node.first_edge)
            prefetch(m.duration_ns, (op, at.speed))
            is_moved = node.moved == trial

            # converged only if the next op is the one that the base starts next
            base_now = start_of(m.ops, m.late_ns, op)
            may_converge = (
                num_starts >= next_check
                and num_early == 0
                and not is_moved
                and last_start < base_now
                and last_moved < base_now
            )
            if may_converge:
                next_check = num_starts + 1 + (num_starts - first_check) // 8
                for other in range(num_devices):
                    expected = m.devices[other].expected
                    if expected != NONE:
                        start_ns = start_of(m.ops, m.late_ns, expected)
                        may_converge = may_converge and start_ns >= base_now
            if may_converge:
                while num_disturbed > 0 and disturbed_ns[0] < base_now:
                    passed = pop_event(disturbed_ns, disturbed_op, zero, num_disturbed)
                    num_disturbed -= 1
                    if m.ops[passed].moved == trial:
                        num_passed += 1
                late = now - base_now
                if (
                    num_moved == num_passed
                    and (late == 0.0 or reach_ns <= lesser(now, base_now))
                    and has_converged(m, now, base_now, num_used)
                    and has_received(m, now, base_now, num_seen, cut)
                    and queues_are_in_order(m, cut_ns, trial)
                ):
                    until_ns, span = base_now + shift, zero + node.span
                    if num_disturbed == 0 and num_moved == num_moving:
                        _end_window(m, cut_ns + shift, until_ns, span, late, num_starts)
                        return step_ns + shift + late, num_starts
                    if can_wait(m, ops, device, trial, now, late):
                        set_back(m.ops, ops, trial, late)
                        next_ns = next_cut(m, ops, device, trial, num_disturbed, num_queued)
                        if next_ns > base_now:
                            _end_window(m, cut_ns + shift, until_ns, span, late, num_starts)
                            cut_ns = next_ns
                            shift += late
                            break
                        set_back(m.ops, ops, trial, -late)
            if num_starts >= most_starts:
                return UNKNOWN, num_starts
            begun = m.starts[num_starts]
            begun.op = op
            begun.start_ns = now + shift
            num_starts += 1

            # one op starts
            source = at.source
            if source == _FROM_BASE:
                at.waiting = node.next
            elif source == _FROM_LINE:
                at.line_head += 1
            else:
                pop_event(m.queue_ns, m.queue_op, at.room, at.heap_size)
                at.heap_size -= 1
            node.started = cut
            if is_moved:
                num_queued -= 1
                num_moved += 1
                last_moved = greater(last_moved, base_now)
            else:
                last_start = greater(last_start, base_now)
                if op == at.expected:
                    expected = node.next
                    while expected != NONE:
                        started = m.ops[expected]
                        if started.moved != trial:
                            if started.started != cut:
                                break
                            num_early -= 1
                        expected = started.next
                    at.expected = expected
                else:
                    num_early += 1

            # its finish is known, and with it when its tensors arrive, now and in the base
            m.counters[STARTS] += 1
            this_start = m.counters[STARTS]
            home = zero + node.device
            home_late = m.late_ns[node.span]
            free = now + m.duration_ns[op, at.speed]
            at.free_ns = free
            first_tensor, end_tensor = node.first_tensor, node.end_tensor
            # all at once, as what follows branches too often for the processor to look ahead
            for i in range(node.first_edge, node.end_edge):
                prefetch(m.ops, m.edges[i].consumer)
                prefetch(m.inputs, m.edges[i].input)
            for i in range(node.first_edge, node.end_edge):
                edge = m.edges[i]
                consumer = edge.consumer
                reader = m.ops[consumer]
                consumer_moves = reader.moved == trial
                base_target = reader.device
                target = device if consumer_moves else base_target
                base_arrival = edge.arrival_ns + home_late
                if base_target != home:
                    channel = m.links[home, base_target].channel
                    if channel >= 0:
                        used = m.channels[channel]
                        if used.stamp != cut:
                            num_used = _use_channel(m, channel, home, cut_ns, cut, num_used)
                        used.base_free_ns = greater(used.base_free_ns, base_arrival)
                arrival = free
                if target != here:
                    slot = edge.slot
                    sent = m.sent[slot * num_devices + target]
                    if sent.by == this_start:
                        arrival = sent.arrival_ns
                    else:
                        tensor = first_tensor + slot
                        num_bytes = m.tensor_bytes[tensor] if tensor < end_tensor else 0.0
                        link = m.links[here, target]
                        seconds = link.latency_seconds + num_bytes / link.bandwidth
                        taken_ns = greater(1.0, np.rint(seconds * 1e9))
                        channel = link.channel
                        if channel >= 0:
                            used = m.channels[channel]
                            if used.stamp != cut:
                                num_used = _use_channel(m, channel, here, cut_ns, cut, num_used)
                            arrival = greater(free, used.free_ns) + taken_ns
                            used.free_ns = arrival
                        else:
                            arrival = free + taken_ns
                        sent.by = this_start
                        sent.arrival_ns = arrival
                edge.tried_ns = arrival + shift
                if not consumer_moves and reader.seen != cut:
                    _see(m.ops, m.inputs, m.late_ns, consumer, cut_ns, cut)
                    m.seen[num_seen] = consumer
                    num_seen += 1
                num_missing = reader.missing - 1
                ready_ns = greater(reader.arrived_ns, arrival)
                reader.missing = num_missing
                reader.arrived_ns = ready_ns
                reader.base_arrived_ns = greater(reader.base_arrived_ns, base_arrival)
                if num_missing == 0:
                    if consumer_moves:
                        num_queued += 1
                    if target == here and ready_ns == free:
                        end = at.line_end
                        m.line[end] = consumer
                        at.line_end = end + 1
                    else:
                        _enqueue(m, target, consumer, ready_ns)
            _find_candidate(m, here, cut_ns, reach_ns, trial)
