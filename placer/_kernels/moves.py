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
"""

from __future__ import annotations

import numpy as np

from placer._kernels.heaps import pop_event, push_event
from placer._kernels.jit import borrow, helper, jit, subroutine
from placer._move_tables import (
    ARRIVED,
    ARRIVED_BASE,
    BYTES,
    CANDIDATE,
    CANDIDATE_READY,
    CERTAIN_BYTES,
    COLOCATED_WITH,
    CUT,
    DEVICE,
    DISTURBED,
    EDGES,
    END,
    EXPECTED,
    FINISH,
    FREE,
    GROUP_COUNT,
    GROUP_SIZE,
    HEAD,
    HEAP_HEAD,
    HEAP_SIZE,
    INPUTS,
    LAST_PRODUCER,
    LINE_END,
    LINE_HEAD,
    MISSING,
    MOVED,
    NEEDED_BYTES,
    NEXT_START,
    OUTPUTS,
    POSITION,
    REACH,
    READY,
    SEEN,
    SOURCE,
    START,
    STARTED,
    WAITING,
    Indices,
    MoveTables,
)
from placer._tables import Floats, Recording

UNKNOWN = -1.0
"""In place of a step time: a full run must tell."""

_CONSUMER, _SLOT = range(2)  # columns of MoveTables.edge_ints
_EDGE, _PRODUCER = range(2)  # columns of MoveTables.input_ints
_PRODUCER_START, _ARRIVAL = range(2)  # columns of MoveTables.input_floats
_LATENCY, _BANDWIDTH = range(2)  # columns of MoveTables.links
_STAMP, _LIST = range(2)  # columns of MoveTables.channel_ints
_NOW, _BASE = range(2)  # columns of MoveTables.channel_floats
_QUEUE, _COPY, _DISTURBED = range(3)  # rows of the heaps
_TRIALS, _CUTS, _STARTS = range(3)  # counters
_FROM_BASE, _FROM_LINE, _FROM_QUEUE = range(3)  # where a candidate waits
_MOST_CUTS = 1_000_000_000  # one trial makes far less than as many again


@helper
def _position_at(m: MoveTables, low: int, end: int, ns: float) -> int:
    """First position from `low` to `end` of the sequence whose op starts at `ns` or later."""
    while low < end:
        middle = (low + end) >> 1
        if m.op_floats[m.sequence[middle], START] < ns:
            low = middle + 1
        else:
            end = middle
    return low


@subroutine
def _begin_at(m: MoveTables, cut_ns: float, trial: int) -> float:
    """Sets all devices to a cut.

    Returns:
        When the last effect of what has started happens.
    """
    reach_ns = 0.0
    for device in range(len(m.device_ints)):
        head, end = m.device_ints[device, HEAD], m.device_ints[device, END]
        position = _position_at(m, head, end, cut_ns)
        m.device_ints[device, CUT] = position
        m.device_ints[device, WAITING] = position
        m.device_ints[device, HEAP_SIZE] = 0
        m.device_ints[device, LINE_HEAD] = m.device_ints[device, HEAP_HEAD]
        m.device_ints[device, LINE_END] = m.device_ints[device, HEAP_HEAD]
        m.device_floats[device, FREE] = 0.0
        if position > head:
            last = m.sequence[position - 1]
            m.device_floats[device, FREE] = m.op_floats[last, FINISH]
            reach_ns = max(reach_ns, m.op_floats[last, REACH])
        while position < end and m.op_ints[m.sequence[position], MOVED] == trial:
            position += 1
        m.device_ints[device, EXPECTED] = position
    return reach_ns


@helper
def _find_candidate(m: MoveTables, device: int, cut_ns: float, reach_ns: float, trial: int) -> None:
    """Sets which op a device starts next, and when."""
    ints, floats = m.device_ints[device], m.device_floats[device]
    # one that was ready at the cut; the sequence is by readiness
    waiting, end = ints[WAITING], ints[END]
    candidate, candidate_ns, source = np.uint32(0), np.inf, _FROM_BASE
    while waiting < end:
        op = m.sequence[waiting]
        ready_ns = m.op_floats[op, READY]
        if ready_ns > reach_ns:
            waiting = end
        elif m.op_floats[op, LAST_PRODUCER] < cut_ns and m.op_ints[op, MOVED] != trial:
            candidate, candidate_ns = op, ready_ns
            break
        else:
            waiting += 1
    ints[WAITING] = waiting
    # one that got ready since
    if ints[LINE_HEAD] < ints[LINE_END]:
        op = m.line[ints[LINE_HEAD]]
        ready_ns = m.op_floats[op, ARRIVED]
        if ready_ns < candidate_ns or (ready_ns == candidate_ns and op < candidate):
            candidate, candidate_ns, source = op, ready_ns, _FROM_LINE
    if ints[HEAP_SIZE] > 0:
        op = m.heap_op[_QUEUE, ints[HEAP_HEAD]]
        ready_ns = m.heap_ns[_QUEUE, ints[HEAP_HEAD]]
        if ready_ns < candidate_ns or (ready_ns == candidate_ns and op < candidate):
            candidate, candidate_ns, source = op, ready_ns, _FROM_QUEUE
    ints[CANDIDATE] = candidate
    ints[SOURCE] = source
    floats[CANDIDATE_READY] = candidate_ns
    floats[NEXT_START] = max(floats[FREE], candidate_ns)


@helper
def _enqueue(m: MoveTables, device: int, op: int, ns: float) -> None:
    """Queues an op that gets ready at `ns`."""
    ints, floats = m.device_ints[device], m.device_floats[device]
    size = ints[HEAP_SIZE]
    ints[HEAP_SIZE] = size + 1
    push_event(m.heap_ns[_QUEUE], m.heap_op[_QUEUE], ints[HEAP_HEAD], size, ns, op)
    first_ns = floats[CANDIDATE_READY]
    if ns < first_ns or (ns == first_ns and op < ints[CANDIDATE]):
        ints[CANDIDATE] = op
        ints[SOURCE] = _FROM_QUEUE
        floats[CANDIDATE_READY] = ns
        floats[NEXT_START] = max(floats[FREE], ns)


@helper
def _use_channel(
    m: MoveTables, channel: int, source: int, cut_ns: float, cut: int, num_used: int
) -> int:
    """Looks up when a channel that comes into use gets free in the base at the cut.

    Returns:
        How many channels are in use.
    """
    if m.channel_ints[channel, _STAMP] == cut:
        return num_used
    m.channel_ints[channel, _STAMP] = cut
    m.channel_ints[num_used, _LIST] = channel
    free_ns = 0.0
    position = m.device_ints[source, CUT] - 1
    while free_ns == 0.0 and position >= m.device_ints[source, HEAD]:
        op = m.sequence[position]
        if m.op_floats[op, REACH] <= cut_ns:
            break
        for edge in range(m.op_ints[op, EDGES], m.op_ints[op + 1, EDGES]):
            target = m.op_ints[m.edge_ints[edge, _CONSUMER], DEVICE]
            if target != source and m.channel_ids[source, target] == channel:
                free_ns = max(free_ns, m.arrival_ns[edge])
        position -= 1
    m.channel_floats[channel, _NOW] = free_ns
    m.channel_floats[channel, _BASE] = free_ns
    return num_used + 1


@helper
def _see(m: MoveTables, op: int, cut_ns: float, cut: int) -> None:
    """Looks up what an op waits for at the cut, and since when the rest is there."""
    num_missing = 0
    arrived_ns = 0.0
    for i in range(m.op_ints[op, INPUTS], m.op_ints[op + 1, INPUTS]):
        if m.input_floats[i, _PRODUCER_START] < cut_ns:
            arrived_ns = max(arrived_ns, m.input_floats[i, _ARRIVAL])
        else:
            num_missing += 1
    m.op_ints[op, SEEN] = cut
    m.op_ints[op, MISSING] = num_missing
    m.op_floats[op, ARRIVED] = arrived_ns
    m.op_floats[op, ARRIVED_BASE] = arrived_ns


@helper
def _clock_after(ns: float, now: float) -> float:
    """How long after now; what is past counts as now."""
    return max(ns, now) - now


@subroutine
def _has_converged(
    m: MoveTables, now: float, base_now: float, num_used: int, num_seen: int
) -> bool:
    """Whether devices, channels and what is under way are as in the base at `base_now`."""
    for device in range(len(m.device_ints)):
        position = m.device_ints[device, EXPECTED] - 1
        head = m.device_ints[device, HEAD]
        while position >= head and m.op_floats[m.sequence[position], START] >= base_now:
            position -= 1  # a moved op that stays away
        free_ns = 0.0 if position < head else m.op_floats[m.sequence[position], FINISH]
        if _clock_after(m.device_floats[device, FREE], now) != _clock_after(free_ns, base_now):
            return False
    for i in range(num_used):
        channel = m.channel_ints[i, _LIST]
        if _clock_after(m.channel_floats[channel, _NOW], now) != _clock_after(
            m.channel_floats[channel, _BASE], base_now
        ):
            return False
    for i in range(num_seen):
        op = m.seen[i]
        if _clock_after(m.op_floats[op, ARRIVED], now) != _clock_after(
            m.op_floats[op, ARRIVED_BASE], base_now
        ):
            return False
    return True


@helper
def _was_ready_at_cut(m: MoveTables, op: int, cut_ns: float, trial: int) -> bool:
    """Whether an op that has not started was ready, or about to get so, at the cut."""
    was_ready: bool = m.op_floats[op, LAST_PRODUCER] < cut_ns and m.op_ints[op, MOVED] != trial
    return was_ready


@subroutine
def _queues_are_in_order(m: MoveTables, cut_ns: float, trial: int) -> bool:
    """Whether what is queued will start in the order of the base."""
    copy_ns, copy_op = m.heap_ns[_COPY], m.heap_op[_COPY]
    for device in range(len(m.device_ints)):
        ints = m.device_ints[device]
        # all that got ready since the cut, in the order in which it will start
        size = 0
        for i in range(ints[HEAP_SIZE]):
            copy_ns[size] = m.heap_ns[_QUEUE, ints[HEAP_HEAD] + i]
            copy_op[size] = m.heap_op[_QUEUE, ints[HEAP_HEAD] + i]
            size += 1
        for i in range(ints[LINE_HEAD], ints[LINE_END]):
            op = m.line[i]
            push_event(copy_ns, copy_op, 0, size, m.op_floats[op, ARRIVED], op)
            size += 1
        waiting, last = ints[WAITING], -1
        while size > 0:
            ns = copy_ns[0]
            op = pop_event(copy_ns, copy_op, 0, size)
            size -= 1
            if m.op_ints[op, MOVED] == trial:
                continue
            position = m.op_ints[op, POSITION]
            if position < last:
                return False
            last = position
            # what was ready at the cut and is before it in the base must be so now
            while waiting < position:
                other = m.sequence[waiting]
                other_ns = m.op_floats[other, READY]
                if (other_ns > ns or (other_ns == ns and other > op)) and _was_ready_at_cut(
                    m, other, cut_ns, trial
                ):
                    return False
                waiting += 1
            # and no more
            behind = waiting
            while behind < ints[END]:
                other = m.sequence[behind]
                other_ns = m.op_floats[other, READY]
                if other_ns > ns or (other_ns == ns and other > op):
                    break
                if _was_ready_at_cut(m, other, cut_ns, trial):
                    return False
                behind += 1
    return True


@subroutine
def _may_move(m: MoveTables, ops: Indices, device: int) -> bool:
    """Whether all ops may be on a device, with all of their colocation groups."""
    for op in ops:
        m.op_ints[m.op_ints[op, COLOCATED_WITH], GROUP_COUNT] += 1
    may_move = True
    for op in ops:
        first = m.op_ints[op, COLOCATED_WITH]
        is_whole = m.op_ints[first, GROUP_COUNT] == m.op_ints[first, GROUP_SIZE]
        stays = m.op_ints[op, DEVICE] == device
        may_move = may_move and m.allowed[op, device] and (is_whole or stays)
    for op in ops:
        m.op_ints[m.op_ints[op, COLOCATED_WITH], GROUP_COUNT] = 0
    return may_move


@subroutine
def _surely_fits(m: MoveTables, ops: Indices, device: int, trial: int) -> bool:
    """Whether memory suffices even if nothing is freed.

    Elsewhere a move takes no more than before: where an op was, a copy of its outputs may come, in
    place of the outputs.
    """
    needed = m.device_floats[device, NEEDED_BYTES]
    for op in ops:
        if m.op_ints[op, MOVED] == trial:
            needed += m.op_floats[op, BYTES]
    fits: bool = needed <= m.device_floats[device, CERTAIN_BYTES]
    return fits


@helper
def _is_queued(m: MoveTables, op: int, trial: int) -> bool:
    """Whether a moved op is ready, or about to get so, and has not started."""
    queued: bool = (
        m.op_ints[op, MOVED] == trial
        and m.op_ints[op, MISSING] == 0
        and m.op_ints[op, STARTED] == 0
    )
    return queued


@helper
def _turn(m: MoveTables, op: int, device: int, ns: float) -> float:
    """When an op that gets ready at `ns` would start on a device of the base."""
    head = low = m.device_ints[device, HEAD]
    end = m.device_ints[device, END]
    while low < end:
        middle = (low + end) >> 1
        other = m.sequence[middle]
        other_ns = m.op_floats[other, READY]
        if other_ns < ns or (other_ns == ns and other < op):
            low = middle + 1
        else:
            end = middle
    if low == head:
        return ns
    return max(ns, m.op_floats[m.sequence[low - 1], FINISH])


@subroutine
def _next_cut(
    m: MoveTables, ops: Indices, device: int, trial: int, num_disturbed: int, num_queued: int
) -> float:
    """The first instant at which the move makes a difference, as far as is known."""
    cut_ns = np.inf
    if num_disturbed > 0:
        cut_ns = m.heap_ns[_DISTURBED, 0]
    if num_queued > 0:
        for op in ops:
            if _is_queued(m, op, trial):
                cut_ns = min(cut_ns, _turn(m, op, device, m.op_floats[op, ARRIVED]))
    return cut_ns


@helper
def _has_time_of_base(m: MoveTables, op: int, trial: int) -> bool:
    """Whether an op that got ready since the cut did so when it does in the base."""
    same: bool = (
        m.op_ints[op, MOVED] == trial or m.op_floats[op, ARRIVED] == m.op_floats[op, ARRIVED_BASE]
    )
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
        if _is_queued(m, op, trial) and m.op_floats[op, ARRIVED] <= now:
            is_one_waiting = True
    if not is_one_waiting:
        return True
    ints = m.device_ints[device]
    can_wait = late == 0.0
    for i in range(ints[HEAP_SIZE]):
        op = m.heap_op[_QUEUE, ints[HEAP_HEAD] + i]
        can_wait = can_wait and _has_time_of_base(m, op, trial)
    for i in range(ints[LINE_HEAD], ints[LINE_END]):
        can_wait = can_wait and _has_time_of_base(m, m.line[i], trial)
    return can_wait


@subroutine
def _set_back(m: MoveTables, ops: Indices, trial: int, late: float) -> None:
    """Sets the clock back for what moved ops have received."""
    for op in ops:
        if m.op_ints[op, MOVED] == trial:
            m.op_floats[op, ARRIVED] -= late


@subroutine
def _forget_stamps(m: MoveTables) -> None:
    """Begins counting anew before a stamp would not fit into 32 bits."""
    for op in range(len(m.op_floats)):
        for column in (MOVED, DISTURBED, STARTED, SEEN):
            m.op_ints[op, column] = 0
    m.channel_ints[:] = 0
    m.counters[:] = 0


@subroutine
def _try_move(
    m: MoveTables, ops: Indices, device: int, step_ns: float, most_starts: int
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
    op_ints, op_floats, device_ints, device_floats = (
        m.op_ints,
        m.op_floats,
        m.device_ints,
        m.device_floats,
    )
    channel_floats, disturbed_ns, disturbed_op = (
        m.channel_floats,
        m.heap_ns[_DISTURBED],
        m.heap_op[_DISTURBED],
    )
    num_devices = len(device_ints)
    zero = int(np.int64(0))  # callees would be compiled once more for a literal

    if not _may_move(m, ops, device):
        return np.inf, 0
    if m.counters[_CUTS] > _MOST_CUTS:
        _forget_stamps(m)
    m.counters[_TRIALS] += 1
    trial = int(m.counters[_TRIALS])
    num_moving = zero
    for op in ops:
        if op_ints[op, DEVICE] != device:
            op_ints[op, MOVED] = trial
            num_moving += 1
    if num_moving == 0:
        return step_ns, 0
    if not _surely_fits(m, ops, device, trial):
        return UNKNOWN, 0

    # what makes a difference: the moved ops, and those that send them something, by start
    num_disturbed = zero
    num_queued = zero  # moved ops that are ready, or about to get so, and have not started
    for op in ops:
        if op_ints[op, MOVED] != trial:
            continue
        first_input, end_input = op_ints[op, INPUTS], op_ints[op + 1, INPUTS]
        op_ints[op, STARTED] = 0
        op_ints[op, MISSING] = end_input - first_input
        op_floats[op, ARRIVED] = 0.0
        if first_input == end_input:
            num_queued += 1
        for i in range(first_input - 1, end_input):
            other = op if i < first_input else m.input_ints[i, _PRODUCER]
            if op_ints[other, DISTURBED] != trial:
                op_ints[other, DISTURBED] = trial
                ns = op_floats[other, START]
                push_event(disturbed_ns, disturbed_op, zero, num_disturbed, ns, other)
                num_disturbed += 1
    num_more = zero
    for other in range(num_devices):
        device_ints[other, HEAP_HEAD] = device_ints[other, HEAD] + num_more
        if other == device:
            num_more = num_moving

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
                if _is_queued(m, op, trial):
                    _enqueue(m, device, op, op_floats[op, ARRIVED])

        num_seen = num_used = zero
        num_early = 0  # ops that have started before one that the base starts first
        last_start = -1.0  # latest start in the base of one that has started now
        first_check = num_starts + 1
        next_check = first_check
        while True:
            here, now = zero, device_floats[0, NEXT_START]
            for other in range(1, num_devices):
                ns = device_floats[other, NEXT_START]
                if ns < now:
                    here, now = other, ns
            if now == np.inf:
                last_finish = 0.0
                for other in range(num_devices):
                    last_finish = max(last_finish, device_floats[other, FREE])
                return last_finish + shift, num_starts
            op = device_ints[here, CANDIDATE]
            is_moved = op_ints[op, MOVED] == trial

            if num_starts >= next_check and num_early == 0 and not is_moved:
                next_check = num_starts + 1 + (num_starts - first_check) // 16
                base_now = np.inf
                for other in range(num_devices):
                    position = device_ints[other, EXPECTED]
                    if position < device_ints[other, END]:
                        base_now = min(base_now, op_floats[m.sequence[position], START])
                while num_disturbed > 0 and disturbed_ns[0] < base_now:
                    passed = pop_event(disturbed_ns, disturbed_op, zero, num_disturbed)
                    num_disturbed -= 1
                    if op_ints[passed, MOVED] == trial:
                        num_passed += 1
                late = now - base_now
                if (
                    num_moved == num_passed
                    and last_moved < base_now
                    and last_start < base_now
                    and (late == 0.0 or reach_ns <= min(now, base_now))
                ):
                    num_waiting = 0
                    for i in range(num_seen):
                        if op_ints[m.seen[i], STARTED] != cut:
                            m.seen[num_waiting] = m.seen[i]
                            num_waiting += 1
                    num_seen = num_waiting
                    if _has_converged(
                        m, now, base_now, num_used, num_seen
                    ) and _queues_are_in_order(m, cut_ns, trial):
                        if num_disturbed == 0 and num_moved == num_moving:
                            return step_ns + shift + late, num_starts
                        if _can_wait(m, ops, device, trial, now, late):
                            _set_back(m, ops, trial, late)
                            next_ns = _next_cut(m, ops, device, trial, num_disturbed, num_queued)
                            if next_ns > base_now:
                                cut_ns = next_ns
                                shift += late
                                break
                            _set_back(m, ops, trial, -late)
            if num_starts >= most_starts:
                return UNKNOWN, num_starts
            num_starts += 1

            # one op starts
            source = device_ints[here, SOURCE]
            if source == _FROM_BASE:
                device_ints[here, WAITING] += 1
            elif source == _FROM_LINE:
                device_ints[here, LINE_HEAD] += 1
            else:
                head, size = (
                    device_ints[here, HEAP_HEAD],
                    device_ints[here, HEAP_SIZE],
                )
                pop_event(m.heap_ns[_QUEUE], m.heap_op[_QUEUE], head, size)
                device_ints[here, HEAP_SIZE] = size - 1
            if is_moved:
                op_ints[op, STARTED] = cut
                num_queued -= 1
                num_moved += 1
                last_moved = max(last_moved, op_floats[op, START])
            else:
                op_ints[op, STARTED] = cut
                last_start = max(last_start, op_floats[op, START])
                position = device_ints[here, EXPECTED]
                if op_ints[op, POSITION] == position:
                    position += 1
                    while position < device_ints[here, END]:
                        other = m.sequence[position]
                        if op_ints[other, MOVED] != trial:
                            if op_ints[other, STARTED] != cut:
                                break
                            num_early -= 1
                        position += 1
                    device_ints[here, EXPECTED] = position
                else:
                    num_early += 1

            # its finish is known, and with it when its tensors arrive, now and in the base
            m.counters[_STARTS] += 1
            this_start = m.counters[_STARTS]
            home = zero + op_ints[op, DEVICE]
            free = now + m.duration_ns[op, m.speed_of[here]]
            device_floats[here, FREE] = free
            first_tensor, end_tensor = op_ints[op, OUTPUTS], op_ints[op + 1, OUTPUTS]
            for edge in range(op_ints[op, EDGES], op_ints[op + 1, EDGES]):
                consumer = m.edge_ints[edge, _CONSUMER]
                consumer_moves = op_ints[consumer, MOVED] == trial
                base_target = op_ints[consumer, DEVICE]
                target = device if consumer_moves else base_target
                base_arrival = m.arrival_ns[edge]
                if base_target != home:
                    channel = m.channel_ids[home, base_target]
                    if channel >= 0:
                        num_used = _use_channel(m, channel, home, cut_ns, cut, num_used)
                        channel_floats[channel, _BASE] = max(
                            channel_floats[channel, _BASE], base_arrival
                        )
                arrival = free
                if target != here:
                    slot = m.edge_ints[edge, _SLOT]
                    sent = slot * num_devices + target
                    if m.sent_by[sent] == this_start:
                        arrival = m.sent_ns[sent]
                    else:
                        tensor = first_tensor + slot
                        num_bytes = m.tensor_bytes[tensor] if tensor < end_tensor else 0.0
                        latency, bandwidth = (
                            m.links[here, target, _LATENCY],
                            m.links[here, target, _BANDWIDTH],
                        )
                        channel = m.channel_ids[here, target]
                        if channel >= 0:
                            num_used = _use_channel(m, channel, here, cut_ns, cut, num_used)
                            arrival = max(free, channel_floats[channel, _NOW])
                        arrival += max(1.0, np.rint((latency + num_bytes / bandwidth) * 1e9))
                        if channel >= 0:
                            channel_floats[channel, _NOW] = arrival
                        m.sent_by[sent] = this_start
                        m.sent_ns[sent] = arrival
                if not consumer_moves and op_ints[consumer, SEEN] != cut:
                    _see(m, consumer, cut_ns, cut)
                    m.seen[num_seen] = consumer
                    num_seen += 1
                num_missing = op_ints[consumer, MISSING] - 1
                ready_ns = max(op_floats[consumer, ARRIVED], arrival)
                op_ints[consumer, MISSING] = num_missing
                op_floats[consumer, ARRIVED] = ready_ns
                op_floats[consumer, ARRIVED_BASE] = max(
                    op_floats[consumer, ARRIVED_BASE], base_arrival
                )
                if num_missing == 0:
                    if consumer_moves:
                        num_queued += 1
                    if target == here and ready_ns == free:
                        end = device_ints[here, LINE_END]
                        m.line[end] = consumer
                        device_ints[here, LINE_END] = end + 1
                    else:
                        _enqueue(m, target, consumer, ready_ns)
            _find_candidate(m, here, cut_ns, reach_ns, trial)


@jit
def try_moves(
    m: MoveTables,
    ops: Indices,
    offsets: Indices,
    devices: Indices,
    step_ns: float,
    most_starts: int,
    results: Floats,
) -> int:
    """Tries moves, each from the base.

    Args:
        m: The base and working memory.
        ops: The ops of all moves, one after the other.
        offsets: Where those of each move begin, and the end, ``[num_moves + 1]``.
        devices: Where they go, ``[num_moves]``.
        step_ns: Step time of the base, in nanoseconds.
        most_starts: After so many op starts of one move a full run is better.
        results: Gets the step times in nanoseconds, ``[num_moves]``, as ``_try_move`` returns them.

    Returns:
        How many ops were started.
    """
    num_starts = 0
    for i in range(len(devices)):
        moving = ops[offsets[i] : offsets[i + 1]]
        results[i], starts = _try_move(m, moving, devices[i], step_ns, most_starts)
        num_starts += starts
    return num_starts


@jit
def set_base(m: MoveTables, recording: Recording, needed: Floats) -> None:
    """Works out what trials need to know of a base whose schedule has been recorded.

    Args:
        m: The base.
        recording: Its schedule.
        needed: Bytes on each device as if nothing were freed, ``[num_devices]``.
    """
    m, recording = borrow(m), borrow(recording)
    for op in range(len(m.op_floats)):
        ready_ns, last_producer = 0.0, -1.0
        for i in range(m.op_ints[op, INPUTS], m.op_ints[op + 1, INPUTS]):
            start_ns = recording.start_ns[m.input_ints[i, _PRODUCER]]
            arrival_ns = recording.arrival_ns[m.input_ints[i, _EDGE]]
            m.input_floats[i, _PRODUCER_START] = start_ns
            m.input_floats[i, _ARRIVAL] = arrival_ns
            ready_ns = max(ready_ns, arrival_ns)
            last_producer = max(last_producer, start_ns)
        m.op_floats[op, READY] = ready_ns
        m.op_floats[op, LAST_PRODUCER] = last_producer
    for device in range(len(needed)):
        m.device_floats[device, NEEDED_BYTES] = needed[device]
        head, end = recording.sequence_head[device], recording.sequence_end[device]
        m.device_ints[device, HEAD] = head
        m.device_ints[device, END] = end
        reach_ns = 0.0
        for position in range(head, end):
            op = m.sequence[position]
            start_ns = recording.start_ns[op]
            finish_ns = start_ns + m.duration_ns[op, m.speed_of[device]]
            reach_ns = max(reach_ns, finish_ns)
            for edge in range(m.op_ints[op, EDGES], m.op_ints[op + 1, EDGES]):
                reach_ns = max(reach_ns, m.arrival_ns[edge])
            m.op_ints[op, POSITION] = position
            m.op_ints[op, DEVICE] = device
            m.op_floats[op, START] = start_ns
            m.op_floats[op, FINISH] = finish_ns
            m.op_floats[op, REACH] = reach_ns
