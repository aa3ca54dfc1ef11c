"""What a move changes: simulates from the first op it touches until nothing differs any more.

A *base* is a recorded schedule. A move sends some ops to another device. The schedule is the base's
up to a *cut*: the instant before the first op whose tensors go elsewhere, or that stays away, or
that waits for a moved one. From there ops are handled in order of start, as in ``start_order``, but
what an op waits for is looked up in the base when it is first needed. When at some instant the same
ops have started as in the base, and all that can still have an effect is as in the base but for a
shift in time by a constant, the rest is the base's, shifted, up to the next op that the move
touches: the next cut. If there is none, the step time is known.

What can have an effect: when devices and channels get free, what is under way, and the order of the
ops that are queued. What lies in the past counts as equal.

Times are in the base's coordinates: after a shift, the clock is set back by it.

What a trial started is noted, a *window* from each cut to where the rest is the base's. To make the
move, the windows are written into the base, and the spans of time behind them are put off by the
shift: that takes about as long as the trial did.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer._kernels.heaps import pop_event, push_event
from placer._kernels.jit import borrow, finder, helper, jit, subroutine
from placer._move_tables import NONE, Indices, MoveTables, PlacedGroups, Records, device_of
from placer._tables import Bools, Floats, Ints, Recording

UNKNOWN = -1.0
"""In place of a step time: a full run must tell."""

Integer = int | np.integer[Any]
Addresses = NDArray[np.int64]

_find_tables = finder(MoveTables.zeros())
_device_of = helper(device_of)

_QUEUE, _COPY, _DISTURBED = range(3)  # rows of the heaps
_TRIALS, _CUTS, _STARTS = range(3)  # counters: of all time
_STARTED, _WINDOWS, _TARGET = range(3, 6)  # and of the last trial: how many, and the device
_FROM_BASE, _FROM_LINE, _FROM_QUEUE = range(3)  # where a candidate waits
_MOST_STAMPS = 1_000_000_000  # one trial makes far less than as many again


@helper
def _start(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op starts in the base."""
    ns: float = nodes[op].start_ns + late_ns[nodes[op].span]
    return ns


@helper
def _finish(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op finishes in the base."""
    ns: float = nodes[op].finish_ns + late_ns[nodes[op].span]
    return ns


@helper
def _ready(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op gets ready in the base."""
    ns: float = nodes[op].ready_ns + late_ns[nodes[op].ready_span]
    return ns


@helper
def _last_producer(nodes: Records, late_ns: Floats, op: int) -> float:
    """When the last producer of an op starts in the base."""
    ns: float = nodes[op].last_producer_ns + late_ns[nodes[op].last_span]
    return ns


@helper
def _before(nodes: Records, devices: Records, device: int, op: int) -> int:
    """The op before another one, or the last one before none, on a device of the base."""
    before: int = devices[device].last if op == NONE else nodes[op].previous
    return before


@helper
def _span_at(m: MoveTables, ns: float) -> int:
    """The span that an instant of the base lies in."""
    low, high = 0, len(m.first_ops)
    while high - low > 1:
        middle = (low + high) >> 1
        if m.spans[middle].begin_ns + m.late_ns[middle] <= ns:
            low = middle
        else:
            high = middle
    return low


@helper
def _begin_at(m: MoveTables, cut_ns: float, trial: int) -> float:
    """Sets all devices to a cut.

    Returns:
        When the last effect of what has started happens.
    """
    span = _span_at(m, cut_ns)
    span_late = m.late_ns[span]
    reach_ns: float = m.spans[span].carried_ns + span_late
    for device in range(len(m.devices)):
        op = m.first_ops[span, device]
        while op != NONE and _start(m.ops, m.late_ns, op) < cut_ns:
            reach_ns = max(reach_ns, m.ops[op].effect_ns + span_late)
            op = m.ops[op].next
        m.devices[device].cut = op
        m.devices[device].waiting = op
        m.devices[device].heap_size = 0
        m.devices[device].line_head = m.devices[device].room
        m.devices[device].line_end = m.devices[device].room
        m.devices[device].free_ns = 0.0
        last = _before(m.ops, m.devices, device, op)
        if last != NONE:
            m.devices[device].free_ns = _finish(m.ops, m.late_ns, last)
        while op != NONE and m.ops[op].moved == trial:
            op = m.ops[op].next
        m.devices[device].expected = op
    return reach_ns


@helper
def _find_candidate(m: MoveTables, device: int, cut_ns: float, reach_ns: float, trial: int) -> None:
    """Sets which op a device starts next, and when."""
    here = m.devices[device]
    # one that was ready at the cut; ops start in the order in which they get ready
    waiting = here.waiting
    candidate, candidate_ns, source = np.uint32(0), np.inf, _FROM_BASE
    while waiting != NONE:
        ready_ns = _ready(m.ops, m.late_ns, waiting)
        if ready_ns > reach_ns:
            waiting = NONE
        elif _last_producer(m.ops, m.late_ns, waiting) < cut_ns and m.ops[waiting].moved != trial:
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
        op = m.heap_op[_QUEUE, here.room]
        ready_ns = m.heap_ns[_QUEUE, here.room]
        if ready_ns < candidate_ns or (ready_ns == candidate_ns and op < candidate):
            candidate, candidate_ns, source = op, ready_ns, _FROM_QUEUE
    here.candidate = candidate
    here.source = source
    here.ready_ns = candidate_ns
    here.next_start_ns = max(here.free_ns, candidate_ns)


@helper
def _enqueue(m: MoveTables, device: int, op: int, ns: float) -> None:
    """Queues an op that gets ready at `ns`."""
    here = m.devices[device]
    size = here.heap_size
    here.heap_size = size + 1
    push_event(m.heap_ns[_QUEUE], m.heap_op[_QUEUE], here.room, size, ns, op)
    first_ns = here.ready_ns
    if ns < first_ns or (ns == first_ns and op < here.candidate):
        here.candidate = op
        here.source = _FROM_QUEUE
        here.ready_ns = ns
        here.next_start_ns = max(here.free_ns, ns)


@subroutine
def _use_channel(
    m: MoveTables, channel: int, source: int, cut_ns: float, cut: int, num_used: int
) -> int:
    """Looks up when a channel that comes into use gets free in the base at the cut.

    Returns:
        How many channels are in use.
    """
    m.channels[channel].stamp = cut
    m.channels[num_used].used = channel
    free_ns = 0.0
    op = _before(m.ops, m.devices, source, m.devices[source].cut)
    while free_ns == 0.0 and op != NONE:
        behind = m.ops[op].span + 1
        if m.spans[behind].carried_ns + m.late_ns[behind] <= cut_ns:
            break
        for edge in range(m.ops[op].first_edge, m.ops[op].end_edge):
            target = m.ops[m.edges[edge].consumer].device
            if target != source and m.links[source, target].channel == channel:
                free_ns = max(free_ns, m.edges[edge].arrival_ns + m.late_ns[m.ops[op].span])
        op = m.ops[op].previous
    m.channels[channel].free_ns = free_ns
    m.channels[channel].base_free_ns = free_ns
    return num_used + 1


@helper
def _see(
    nodes: Records, inputs: Records, late_ns: Floats, op: int, cut_ns: float, cut: int
) -> None:
    """Looks up what an op waits for at the cut, and since when the rest is there."""
    num_missing = 0
    arrived_ns = 0.0
    for i in range(nodes[op].first_input, nodes[op].end_input):
        span_late = late_ns[inputs[i].span]
        if inputs[i].start_ns + span_late < cut_ns:
            arrived_ns = max(arrived_ns, inputs[i].arrival_ns + span_late)
        else:
            num_missing += 1
    nodes[op].seen = cut
    nodes[op].missing = num_missing
    nodes[op].arrived_ns = arrived_ns
    nodes[op].base_arrived_ns = arrived_ns


@helper
def _clock_after(ns: float, now: float) -> float:
    """How long after now; what is past counts as now."""
    return max(ns, now) - now


@helper
def _has_converged(m: MoveTables, now: float, base_now: float, num_used: int) -> bool:
    """Whether devices and channels get free as in the base at `base_now`."""
    for device in range(len(m.devices)):
        last = _before(m.ops, m.devices, device, m.devices[device].expected)
        while last != NONE and _start(m.ops, m.late_ns, last) >= base_now:
            last = m.ops[last].previous  # a moved op that stays away
        free_ns = 0.0 if last == NONE else _finish(m.ops, m.late_ns, last)
        if _clock_after(m.devices[device].free_ns, now) != _clock_after(free_ns, base_now):
            return False
    for i in range(num_used):
        channel = m.channels[i].used
        if _clock_after(m.channels[channel].free_ns, now) != _clock_after(
            m.channels[channel].base_free_ns, base_now
        ):
            return False
    return True


@helper
def _has_received(m: MoveTables, now: float, base_now: float, num_seen: int, cut: int) -> bool:
    """Whether what is under way gets to ops that have not started when it does in the base."""
    for i in range(num_seen):
        op = m.seen[i]
        if m.ops[op].started != cut and _clock_after(m.ops[op].arrived_ns, now) != _clock_after(
            m.ops[op].base_arrived_ns, base_now
        ):
            return False
    return True


@helper
def _was_ready_at_cut(nodes: Records, late_ns: Floats, op: int, cut_ns: float, trial: int) -> bool:
    """Whether an op that has not started was ready, or about to get so, at the cut."""
    was_ready: bool = _last_producer(nodes, late_ns, op) < cut_ns and nodes[op].moved != trial
    return was_ready


@subroutine
def _queues_are_in_order(m: MoveTables, cut_ns: float, trial: int) -> bool:
    """Whether what is queued will start in the order of the base."""
    copy_ns, copy_op = m.heap_ns[_COPY], m.heap_op[_COPY]
    zero = int(np.int64(0))  # callees would be compiled once more for a literal
    for device in range(len(m.devices)):
        here = m.devices[device]
        # all that got ready since the cut, in the order in which it will start
        size = zero
        for i in range(here.heap_size):
            copy_ns[size] = m.heap_ns[_QUEUE, here.room + i]
            copy_op[size] = m.heap_op[_QUEUE, here.room + i]
            size += 1
        for i in range(here.line_head, here.line_end):
            op = m.line[i]
            push_event(copy_ns, copy_op, zero, size, m.ops[op].arrived_ns, op)
            size += 1
        waiting, last_ns = here.waiting, -1.0
        while size > 0:
            ns = copy_ns[0]
            op = pop_event(copy_ns, copy_op, zero, size)
            size -= 1
            if m.ops[op].moved == trial:
                continue
            start_ns = _start(m.ops, m.late_ns, op)
            if start_ns < last_ns:
                return False
            last_ns = start_ns
            # what was ready at the cut and is before it in the base must be so now
            while waiting != NONE and _start(m.ops, m.late_ns, waiting) < start_ns:
                other_ns = _ready(m.ops, m.late_ns, waiting)
                if (other_ns > ns or (other_ns == ns and waiting > op)) and _was_ready_at_cut(
                    m.ops, m.late_ns, waiting, cut_ns, trial
                ):
                    return False
                waiting = m.ops[waiting].next
            # and no more
            behind = waiting
            while behind != NONE:
                other_ns = _ready(m.ops, m.late_ns, behind)
                if other_ns > ns or (other_ns == ns and behind > op):
                    break
                if _was_ready_at_cut(m.ops, m.late_ns, behind, cut_ns, trial):
                    return False
                behind = m.ops[behind].next
    return True


@helper
def _may_move(nodes: Records, needs: Records, allowed: Bools, ops: Indices, device: int) -> bool:
    """Whether all ops may be on a device, with all of their colocation groups."""
    for op in ops:
        needs[needs[op].colocated_with].group_count += 1
    may_move = True
    for op in ops:
        first = needs[op].colocated_with
        is_whole = needs[first].group_count == needs[first].group_size
        stays = nodes[op].device == device
        may_move = may_move and allowed[op, device] and (is_whole or stays)
    for op in ops:
        needs[needs[op].colocated_with].group_count = 0
    return may_move


@helper
def _surely_fits(
    nodes: Records, needs: Records, devices: Records, ops: Indices, device: int, trial: int
) -> bool:
    """Whether memory suffices even if nothing is freed.

    Elsewhere a move takes no more than before: where an op was, a copy of its outputs may come, in
    place of the outputs.
    """
    needed = devices[device].needed_bytes
    for op in ops:
        if nodes[op].moved == trial:
            needed += needs[op].most_bytes
    fits: bool = needed <= devices[device].certain_bytes
    return fits


@helper
def _is_queued(nodes: Records, op: int, trial: int) -> bool:
    """Whether a moved op is ready, or about to get so, and has not started."""
    queued: bool = nodes[op].moved == trial and nodes[op].missing == 0 and nodes[op].started == 0
    return queued


@helper
def _is_sooner(nodes: Records, late_ns: Floats, other: int, op: int, ns: float) -> bool:
    """Whether another op is ready in the base before one that gets ready at `ns`."""
    if other == NONE:
        return False
    other_ns = _ready(nodes, late_ns, other)
    sooner: bool = other_ns < ns or (other_ns == ns and other < op)
    return sooner


@helper
def _turn(m: MoveTables, op: int, device: int, ns: float) -> float:
    """When an op that gets ready at `ns` would start on a device of the base."""
    # spans, too, begin with ops in the order in which they get ready
    low, high = 0, len(m.first_ops)
    while high - low > 1:
        middle = (low + high) >> 1
        if _is_sooner(m.ops, m.late_ns, m.first_ops[middle, device], op, ns):
            low = middle
        else:
            high = middle
    behind = m.first_ops[low, device]
    while _is_sooner(m.ops, m.late_ns, behind, op, ns):
        behind = m.ops[behind].next
    last = _before(m.ops, m.devices, device, behind)
    if last != NONE:
        ns = max(ns, _finish(m.ops, m.late_ns, last))
    return ns


@helper
def _next_cut(
    m: MoveTables, ops: Indices, device: int, trial: int, num_disturbed: int, num_queued: int
) -> float:
    """The first instant at which the move makes a difference, as far as is known."""
    cut_ns = np.inf
    if num_disturbed > 0:
        cut_ns = m.heap_ns[_DISTURBED, 0]
    if num_queued > 0:
        for op in ops:
            if _is_queued(m.ops, op, trial):
                cut_ns = min(cut_ns, _turn(m, op, device, m.ops[op].arrived_ns))
    return cut_ns


@helper
def _has_time_of_base(nodes: Records, op: int, trial: int) -> bool:
    """Whether an op that got ready since the cut did so when it does in the base."""
    same: bool = nodes[op].moved == trial or nodes[op].arrived_ns == nodes[op].base_arrived_ns
    return same


@subroutine
def _can_wait(
    m: MoveTables, ops: Indices, device: int, trial: int, now: float, late: float
) -> bool:
    """Whether moved ops that are queued keep their place when the clock is set back.

    They do if they are still under way, as all that is has the same shift; or if there is no shift
    and those that are queued with them have the times of the base.
    """
    is_one_waiting = False
    for op in ops:
        if _is_queued(m.ops, op, trial) and m.ops[op].arrived_ns <= now:
            is_one_waiting = True
    if not is_one_waiting:
        return True
    here = m.devices[device]
    can_wait = late == 0.0
    for i in range(here.heap_size):
        op = m.heap_op[_QUEUE, here.room + i]
        can_wait = can_wait and _has_time_of_base(m.ops, op, trial)
    for i in range(here.line_head, here.line_end):
        can_wait = can_wait and _has_time_of_base(m.ops, m.line[i], trial)
    return can_wait


@subroutine
def _set_back(nodes: Records, ops: Indices, trial: int, late: float) -> None:
    """Sets the clock back for what moved ops have received."""
    for op in ops:
        if nodes[op].moved == trial:
            nodes[op].arrived_ns -= late


@subroutine
def _forget_stamps(m: MoveTables) -> None:
    """Begins counting anew before a stamp would not fit into 32 bits."""
    for op in range(len(m.ops)):
        m.ops[op].moved = m.ops[op].disturbed = m.ops[op].started = m.ops[op].seen = 0
    for channel in range(len(m.channels)):
        m.channels[channel].stamp = 0
    m.counters[_TRIALS] = m.counters[_CUTS] = 0


@helper
def _end_window(
    m: MoveTables, cut_ns: float, base_ns: float, late_ns: float, num_starts: int
) -> None:
    """Notes what has been simulated since a cut; see ``placer._move_tables``."""
    window = m.windows[m.counters[_WINDOWS]]
    window.cut_ns = cut_ns
    window.base_ns = base_ns
    window.late_ns = late_ns
    window.end = num_starts
    m.counters[_WINDOWS] += 1
    m.counters[_STARTED] = num_starts


@subroutine
def _try_move(
    m: MoveTables, ops: Indices, device: Any, step_ns: float, most_starts: int
) -> tuple[float, int]:
    """The step time if some ops were on another device.

    Args:
        m: The base and working memory.
        ops: The ops, each once.
        device: Where they go.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts a full run is better.

    Returns:
        The step time in nanoseconds, infinite if the ops may not go there, or ``UNKNOWN``; and how
        many ops were started.
    """
    m = borrow(m)
    disturbed_ns, disturbed_op = m.heap_ns[_DISTURBED], m.heap_op[_DISTURBED]
    num_devices = len(m.devices)
    zero = int(np.int64(0))  # callees would be compiled once more for a literal

    m.counters[_STARTED] = m.counters[_WINDOWS] = 0
    m.counters[_TARGET] = device
    if not _may_move(m.ops, m.needs, m.allowed, ops, device):
        return np.inf, 0
    if max(m.counters[_TRIALS], m.counters[_CUTS]) > _MOST_STAMPS:
        _forget_stamps(m)
    m.counters[_TRIALS] += 1
    trial = int(m.counters[_TRIALS])
    num_moving = zero
    for op in ops:
        if m.ops[op].device != device:
            m.ops[op].moved = trial
            num_moving += 1
    if num_moving == 0:
        return step_ns, 0
    if not _surely_fits(m.ops, m.needs, m.devices, ops, device, trial):
        return UNKNOWN, 0

    # what makes a difference: the moved ops, and those that send them something, by start
    num_disturbed = zero
    num_queued = zero  # moved ops that are ready, or about to get so, and have not started
    for op in ops:
        node = m.ops[op]
        if node.moved != trial:
            continue
        first_input, end_input = node.first_input, m.ops[op].end_input
        node.started = 0
        node.missing = end_input - first_input
        node.arrived_ns = 0.0
        if first_input == end_input:
            num_queued += 1
        for i in range(first_input - 1, end_input):
            other = op if i < first_input else m.inputs[i].producer
            if m.ops[other].disturbed != trial:
                m.ops[other].disturbed = trial
                ns = _start(m.ops, m.late_ns, other)
                push_event(disturbed_ns, disturbed_op, zero, num_disturbed, ns, other)
                num_disturbed += 1
    room = zero
    for other in range(num_devices):
        m.devices[other].room = room
        room += m.devices[other].num_ops
        if other == device:
            room += num_moving

    shift = 0.0
    num_starts = 0
    num_moved = num_passed = 0  # moved ops that have started now, and in the base
    last_moved = -1.0  # latest start in the base of one that has started now
    cut_ns = _next_cut(m, ops, device, trial, num_disturbed, num_queued)
    while True:
        m.counters[_CUTS] += 1
        cut = int(m.counters[_CUTS])
        reach_ns = _begin_at(m, cut_ns, trial)
        for other in range(num_devices):
            _find_candidate(m, other, cut_ns, reach_ns, trial)
        if num_queued > 0:
            for op in ops:
                if _is_queued(m.ops, op, trial):
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
                    last_finish = max(last_finish, m.devices[other].free_ns)
                _end_window(m, cut_ns + shift, np.inf, 0.0, num_starts)
                return last_finish + shift, num_starts
            op = m.devices[here].candidate
            is_moved = m.ops[op].moved == trial

            # converged only if the next op is the one that the base starts next
            base_now = _start(m.ops, m.late_ns, op)
            may_converge = (
                num_starts >= next_check
                and num_early == 0
                and not is_moved
                and last_start < base_now
                and last_moved < base_now
            )
            if may_converge:
                next_check = num_starts + 1 + (num_starts - first_check) // 16
                for other in range(num_devices):
                    expected = m.devices[other].expected
                    if expected != NONE:
                        start_ns = _start(m.ops, m.late_ns, expected)
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
                    and (late == 0.0 or reach_ns <= min(now, base_now))
                    and _has_converged(m, now, base_now, num_used)
                    and _has_received(m, now, base_now, num_seen, cut)
                    and _queues_are_in_order(m, cut_ns, trial)
                ):
                    if num_disturbed == 0 and num_moved == num_moving:
                        _end_window(m, cut_ns + shift, base_now + shift, late, num_starts)
                        return step_ns + shift + late, num_starts
                    if _can_wait(m, ops, device, trial, now, late):
                        _set_back(m.ops, ops, trial, late)
                        next_ns = _next_cut(m, ops, device, trial, num_disturbed, num_queued)
                        if next_ns > base_now:
                            _end_window(m, cut_ns + shift, base_now + shift, late, num_starts)
                            cut_ns = next_ns
                            shift += late
                            break
                        _set_back(m.ops, ops, trial, -late)
            if num_starts >= most_starts:
                return UNKNOWN, num_starts
            m.starts[num_starts].op = op
            m.starts[num_starts].start_ns = now + shift
            num_starts += 1

            # one op starts
            node, at = m.ops[op], m.devices[here]
            source = at.source
            if source == _FROM_BASE:
                at.waiting = node.next
            elif source == _FROM_LINE:
                at.line_head += 1
            else:
                pop_event(m.heap_ns[_QUEUE], m.heap_op[_QUEUE], at.room, at.heap_size)
                at.heap_size -= 1
            node.started = cut
            if is_moved:
                num_queued -= 1
                num_moved += 1
                last_moved = max(last_moved, base_now)
            else:
                last_start = max(last_start, base_now)
                if op == at.expected:
                    expected = node.next
                    while expected != NONE:
                        if m.ops[expected].moved != trial:
                            if m.ops[expected].started != cut:
                                break
                            num_early -= 1
                        expected = m.ops[expected].next
                    at.expected = expected
                else:
                    num_early += 1

            # its finish is known, and with it when its tensors arrive, now and in the base
            m.counters[_STARTS] += 1
            this_start = m.counters[_STARTS]
            home = zero + node.device
            home_late = m.late_ns[node.span]
            free = now + m.duration_ns[op, at.speed]
            at.free_ns = free
            first_tensor, end_tensor = node.first_tensor, m.ops[op].end_tensor
            for edge in range(node.first_edge, m.ops[op].end_edge):
                consumer = m.edges[edge].consumer
                reader = m.ops[consumer]
                consumer_moves = reader.moved == trial
                base_target = reader.device
                target = device if consumer_moves else base_target
                base_arrival = m.edges[edge].arrival_ns + home_late
                if base_target != home:
                    channel = m.links[home, base_target].channel
                    if channel >= 0:
                        if m.channels[channel].stamp != cut:
                            num_used = _use_channel(m, channel, home, cut_ns, cut, num_used)
                        m.channels[channel].base_free_ns = max(
                            m.channels[channel].base_free_ns, base_arrival
                        )
                arrival = free
                if target != here:
                    slot = m.edges[edge].slot
                    sent = slot * num_devices + target
                    if m.sent[sent].by == this_start:
                        arrival = m.sent[sent].arrival_ns
                    else:
                        tensor = first_tensor + slot
                        num_bytes = m.tensor_bytes[tensor] if tensor < end_tensor else 0.0
                        link = m.links[here, target]
                        seconds = link.latency_seconds + num_bytes / link.bandwidth
                        channel = link.channel
                        if channel >= 0:
                            if m.channels[channel].stamp != cut:
                                num_used = _use_channel(m, channel, here, cut_ns, cut, num_used)
                            arrival = max(free, m.channels[channel].free_ns)
                        arrival += max(1.0, np.rint(seconds * 1e9))
                        if channel >= 0:
                            m.channels[channel].free_ns = arrival
                        m.sent[sent].by = this_start
                        m.sent[sent].arrival_ns = arrival
                m.edges[edge].tried_ns = arrival + shift
                if not consumer_moves and reader.seen != cut:
                    _see(m.ops, m.inputs, m.late_ns, consumer, cut_ns, cut)
                    m.seen[num_seen] = consumer
                    num_seen += 1
                num_missing = reader.missing - 1
                ready_ns = max(reader.arrived_ns, arrival)
                reader.missing = num_missing
                reader.arrived_ns = ready_ns
                reader.base_arrived_ns = max(reader.base_arrived_ns, base_arrival)
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


@helper
def _copy_bytes(m: MoveTables, op: int, sign: float) -> None:
    """Adds the copies of what an op sends to the bytes needed where they are, or takes them off."""
    m.counters[_STARTS] += 1
    this_time = m.counters[_STARTS]
    first_tensor, end_tensor = m.ops[op].first_tensor, m.ops[op].end_tensor
    for edge in range(m.ops[op].first_edge, m.ops[op].end_edge):
        slot = m.edges[edge].slot
        target = m.ops[m.edges[edge].consumer].device
        sent = slot * len(m.devices) + target
        if target != m.ops[op].device and m.sent[sent].by != this_time:
            m.sent[sent].by = this_time
            tensor = first_tensor + slot
            if tensor < end_tensor:
                m.devices[target].needed_bytes += sign * m.tensor_bytes[tensor]


@helper
def _link(nodes: Records, devices: Records, device: Integer, op: Integer, behind: Integer) -> None:
    """Lets an op follow another one, or none, on a device."""
    if op == NONE:
        devices[device].first = behind
    else:
        nodes[op].next = behind
    if behind == NONE:
        devices[device].last = op
    else:
        nodes[behind].previous = op


@helper
def _take_away(m: MoveTables, op: int) -> None:
    """Takes an op off its device."""
    device, span = m.ops[op].device, int(m.ops[op].span)
    behind = m.ops[op].next
    _link(m.ops, m.devices, device, m.ops[op].previous, behind)
    while span >= 0 and m.first_ops[span, device] == op:
        m.first_ops[span, device] = behind
        span -= 1
    m.devices[device].num_ops -= 1
    m.devices[device].needed_bytes -= m.needs[op].lasting_bytes


@helper
def _append(m: MoveTables, op: Integer, span: int, start_ns: float, last: Integer) -> None:
    """Lets an op start behind the last one, or none, of its device; its tensors arrive as tried."""
    device, late_ns = m.ops[op].device, m.late_ns[span]
    finish_ns = start_ns + m.duration_ns[op, m.devices[device].speed]
    effect_ns = finish_ns
    for edge in range(m.ops[op].first_edge, m.ops[op].end_edge):
        arrival_ns = m.edges[edge].tried_ns
        effect_ns = max(effect_ns, arrival_ns)
        m.edges[edge].arrival_ns = arrival_ns - late_ns
        read = m.inputs[m.edges[edge].input]
        read.span = span
        read.start_ns = start_ns - late_ns
        read.arrival_ns = arrival_ns - late_ns
    m.ops[op].span = span
    m.ops[op].start_ns = start_ns - late_ns
    m.ops[op].finish_ns = finish_ns - late_ns
    m.ops[op].effect_ns = effect_ns - late_ns
    _link(m.ops, m.devices, device, last, op)


@helper
def _put_off(m: MoveTables, op: int, late_ns: float) -> None:
    """Lets an op start later within its span."""
    m.ops[op].start_ns += late_ns
    m.ops[op].finish_ns += late_ns
    m.ops[op].effect_ns += late_ns
    for edge in range(m.ops[op].first_edge, m.ops[op].end_edge):
        m.edges[edge].arrival_ns += late_ns
        m.inputs[m.edges[edge].input].start_ns += late_ns
        m.inputs[m.edges[edge].input].arrival_ns += late_ns


@helper
def _sum_up_inputs(m: MoveTables, op: Integer) -> None:
    """Works out since when an op is ready, and its last producer's start."""
    ready_ns, last_ns = 0.0, -1.0
    ready_span = last_span = np.uint32(0)
    for i in range(m.ops[op].first_input, m.ops[op].end_input):
        span = m.inputs[i].span
        start_ns = m.inputs[i].start_ns + m.late_ns[span]
        arrival_ns = m.inputs[i].arrival_ns + m.late_ns[span]
        if arrival_ns > ready_ns:
            ready_ns, ready_span = arrival_ns, span
        if start_ns > last_ns:
            last_ns, last_span = start_ns, span
    m.ops[op].ready_ns = ready_ns - m.late_ns[ready_span]
    m.ops[op].ready_span = ready_span
    m.ops[op].last_producer_ns = last_ns - m.late_ns[last_span]
    m.ops[op].last_span = last_span


@helper
def _tell_consumers(m: MoveTables, op: int, stamp: int) -> None:
    """Works out anew what is known of the inputs of those that read from an op, each once."""
    for edge in range(m.ops[op].first_edge, m.ops[op].end_edge):
        consumer = m.edges[edge].consumer
        if m.ops[consumer].seen != stamp:
            m.ops[consumer].seen = stamp
            _sum_up_inputs(m, consumer)


@helper
def _index_starts(m: MoveTables, device: Integer, before: Integer, first: int, last: int) -> None:
    """Notes the first op of a device in each span from `first` to `last`.

    Args:
        m: The base.
        device: The device.
        before: The last op that is as it was, or none.
        first: The span of the next op as it was, or one that is earlier.
        last: The last span that has changed.
    """
    op = m.devices[device].first if before == NONE else m.ops[before].next
    if m.first_ops[first, device] != op:
        lowest = 0 if before == NONE else int(m.ops[before].span) + 1
        for span in range(lowest, first + 1):
            m.first_ops[span, device] = op
    for span in range(first + 1, last + 1):
        while op != NONE and m.ops[op].span < span:
            op = m.ops[op].next
        m.first_ops[span, device] = op


@helper
def _sum_up_effects(m: MoveTables, first: int, last: int) -> None:
    """Works out when the last effects happen of the spans from `first` to `last`."""
    for span in range(first, last + 1):
        m.spans[span].effect_ns = -np.inf
    for device in range(len(m.devices)):
        op = m.first_ops[first, device]
        while op != NONE and m.ops[op].span <= last:
            span = m.ops[op].span
            m.spans[span].effect_ns = max(m.spans[span].effect_ns, m.ops[op].effect_ns)
            op = m.ops[op].next
    carried_ns = m.spans[first].carried_ns + m.late_ns[first]
    for span in range(first, len(m.first_ops)):
        carried_ns = max(carried_ns, m.spans[span].effect_ns + m.late_ns[span])
        carried_on_ns = carried_ns - m.late_ns[span + 1]
        if span > last and m.spans[span + 1].carried_ns == carried_on_ns:
            break
        m.spans[span + 1].carried_ns = carried_on_ns


@helper
def _write_window(m: MoveTables, window: int, begin: int) -> int:
    """Writes a window of the last trial into the base.

    Returns:
        The end of its op starts, which begin at `begin`.
    """
    cut_ns, base_ns = m.windows[window].cut_ns, m.windows[window].base_ns
    late_ns = m.windows[window].late_ns
    end: int = m.windows[window].end
    first, last = _span_at(m, cut_ns), _span_at(m, base_ns)
    for device in range(len(m.devices)):
        op = m.first_ops[first, device]
        while op != NONE and _start(m.ops, m.late_ns, op) < cut_ns:
            op = m.ops[op].next
        m.devices[device].cut = _before(m.ops, m.devices, device, op)
        m.devices[device].waiting = m.devices[device].cut
        op = m.first_ops[last, device]
        while op != NONE and _start(m.ops, m.late_ns, op) < base_ns:
            op = m.ops[op].next
        m.devices[device].expected = op
    for span in range(first + 1, last + 1):
        m.spans[span].begin_ns = min(m.spans[span].begin_ns, base_ns + late_ns - m.late_ns[span])
    span = first
    for i in range(begin, end):
        op, start_ns = m.starts[i].op, m.starts[i].start_ns
        while span < last and m.spans[span + 1].begin_ns + m.late_ns[span + 1] <= start_ns:
            span += 1
        device = m.ops[op].device
        _append(m, op, span, start_ns, m.devices[device].waiting)
        m.devices[device].waiting = op
    for device in range(len(m.devices)):
        op = m.devices[device].expected
        _link(m.ops, m.devices, device, m.devices[device].waiting, op)
        while late_ns != 0.0 and op != NONE and m.ops[op].span == last:
            _put_off(m, op, late_ns)
            op = m.ops[op].next
        _index_starts(m, device, m.devices[device].cut, first, last)
    if late_ns != 0.0:
        for span in range(last + 1, len(m.late_ns)):
            m.late_ns[span] += late_ns
    _sum_up_effects(m, first, last)
    m.counters[_CUTS] += 1
    stamp = int(m.counters[_CUTS])
    for i in range(begin, end):
        _tell_consumers(m, m.starts[i].op, stamp)
    for device in range(len(m.devices)):
        op = m.devices[device].expected
        while late_ns != 0.0 and op != NONE and m.ops[op].span == last:
            _tell_consumers(m, op, stamp)
            op = m.ops[op].next
    return end


@subroutine
def _commit(m: MoveTables) -> None:
    """Makes the last trial the base if it is committed; it must have told its step time."""
    m = borrow(m)
    if not m.is_committed[0]:
        return
    m.is_committed[0] = False
    trial, device = m.counters[_TRIALS], m.counters[_TARGET]
    num_starts = m.counters[_STARTED]
    for i in range(num_starts):
        if m.ops[m.starts[i].op].disturbed == trial:
            _copy_bytes(m, m.starts[i].op, -1.0)
    for i in range(num_starts):
        op = m.starts[i].op
        if m.ops[op].moved == trial:
            _take_away(m, op)
            m.ops[op].device = device
            m.devices[device].num_ops += 1
            m.devices[device].needed_bytes += m.needs[op].lasting_bytes
    for i in range(num_starts):
        if m.ops[m.starts[i].op].disturbed == trial:
            _copy_bytes(m, m.starts[i].op, 1.0)
    begin = int(np.int64(0))
    for window in range(m.counters[_WINDOWS]):
        begin = _write_window(m, window, begin)


@jit
def try_move(
    addresses: Addresses,
    ops: Indices,
    device: int,
    step_ns: float,
    most_starts: int,
) -> tuple[float, int]:
    """Tries a move.

    Args:
        addresses: Those of the base and working memory, a ``MoveTables``.
        ops: The ops, each once.
        device: Where they go.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts a full run is better.

    Returns:
        As ``_try_move``.
    """
    m = _find_tables(addresses)
    _commit(m)
    return _try_move(m, ops, np.uint32(device), step_ns, most_starts)


@jit
def try_moves(
    addresses: Addresses,
    ops: Indices,
    offsets: Indices,
    devices: Indices,
    step_ns: float,
    most_starts: int,
    results: Floats,
) -> int:
    """Tries moves, each from the base.

    Args:
        addresses: Those of the base and working memory, a ``MoveTables``.
        ops: The ops of all moves, one after the other.
        offsets: Where those of each move begin, and the end, ``[num_moves + 1]``.
        devices: Where they go, ``[num_moves]``.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts of one move a full run is better.
        results: Gets the step times in nanoseconds, ``[num_moves]``, as ``_try_move`` returns them.

    Returns:
        How many ops were started.
    """
    m = _find_tables(addresses)
    _commit(m)
    num_starts = 0
    for i in range(len(devices)):
        moving = ops[offsets[i] : offsets[i + 1]]
        results[i], starts = _try_move(m, moving, devices[i], step_ns, most_starts)
        num_starts += starts
    return num_starts


@jit
def walk(
    addresses: Addresses,
    groups: PlacedGroups,
    placement: Ints,
    proposals: Records,
    limits: Floats,
    outcomes: Records,
    step_ns: float,
    most_starts: int,
    most_written: int,
    most_in_all: int,
) -> tuple[int, bool, int, int, float]:
    """Tries proposals one after the other, and makes those that change the step time little.

    Args:
        addresses: Those of the base and working memory, a ``MoveTables``.
        groups: The op groups; where they are is kept right.
        placement: The base, ``[num_ops]``, kept right.
        proposals: The proposals, ``[num_proposals]``.
        limits: A proposal is made if the step time, in seconds, changes by less,
            ``[num_proposals]``.
        outcomes: Gets what the proposals come to, ``[num_proposals]``.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts of one move a full run is better.
        most_written: When more op starts are to be written into the base, recording is better.
        most_in_all: After so many op starts it pauses.

    Returns:
        How many were tried; whether a full run must tell about the next; how many ops were
        started; how many of these are written into the base; and its step time in nanoseconds.
    """
    m, groups = _find_tables(addresses), borrow(groups)
    num_tried = num_starts = num_written = 0
    while num_tried < len(limits) and num_written <= most_written and num_starts < most_in_all:
        _commit(m)
        proposal, outcome = proposals[num_tried], outcomes[num_tried]
        group = proposal.group
        ops = groups.ops[groups.offsets[group] : groups.offsets[group + 1]]
        device = _device_of(proposal, groups.allowed, groups.choices)
        tried_ns, starts = _try_move(m, ops, np.uint32(device), step_ns, most_starts)
        num_starts += starts
        if tried_ns == UNKNOWN:
            return num_tried, True, num_starts, num_written, step_ns
        outcome.seconds = tried_ns / 1e9
        outcome.change = outcome.seconds - step_ns / 1e9
        outcome.origin = groups.choices[group]
        if outcome.change < limits[num_tried]:
            m.is_committed[0] = True
            groups.choices[group] = device
            for op in ops:
                placement[op] = device
            num_written += starts
            step_ns = tried_ns
        num_tried += 1
    return num_tried, False, num_starts, num_written, step_ns


@helper
def _begin_spans(m: MoveTables, recording: Recording) -> None:
    """Cuts time into spans in which about as many ops start each."""
    num_spans, num_ops, num_pieces = len(m.first_ops), len(m.ops), len(m.line)
    last_ns = 1.0
    for op in range(num_ops):
        last_ns = max(last_ns, recording.start_ns[op])
    pieces_per_ns = num_pieces / (last_ns + 1.0)
    m.line.fill(0)
    for op in range(num_ops):
        m.line[int(recording.start_ns[op] * pieces_per_ns)] += 1
    m.late_ns.fill(0.0)
    m.spans[0].begin_ns = m.spans[0].carried_ns = 0.0
    for span in range(1, num_spans):
        m.spans[span].begin_ns = np.inf
    span = num_here = 0
    for piece in range(num_pieces):
        if num_here * num_spans >= num_ops and span + 1 < num_spans:
            span += 1
            num_here = 0
            m.spans[span].begin_ns = piece / pieces_per_ns
        num_here += m.line[piece]


@jit
def set_base(addresses: Addresses, recording: Recording, needed: Floats) -> None:
    """Works out what trials need to know of a base whose schedule has been recorded.

    Args:
        addresses: Those of the base, a ``MoveTables``.
        recording: Its schedule.
        needed: Bytes on each device as if nothing were freed, ``[num_devices]``.
    """
    m, recording = _find_tables(addresses), borrow(recording)
    m.is_committed[0] = False
    num_spans = len(m.first_ops)
    for edge in range(len(m.edges)):
        m.edges[edge].tried_ns = recording.arrival_ns[edge]
    _begin_spans(m, recording)
    m.first_ops.fill(NONE)
    for device in range(len(needed)):
        m.devices[device].needed_bytes = needed[device]
        head, end = recording.sequence_head[device], recording.sequence_end[device]
        m.devices[device].num_ops = end - head
        last = NONE
        span = 0
        for position in range(head, end):
            op = np.uint32(recording.sequence[position])
            start_ns = recording.start_ns[op]
            while span + 1 < num_spans and m.spans[span + 1].begin_ns <= start_ns:
                span += 1
            m.ops[op].device = device
            _append(m, op, span, start_ns, last)
            last = op
        _link(m.ops, m.devices, device, last, NONE)
        _index_starts(m, device, NONE, 0, num_spans - 1)
    _sum_up_effects(m, 0, num_spans - 1)
    for each in range(len(m.ops)):
        _sum_up_inputs(m, each)
