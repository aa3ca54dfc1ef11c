"""Whether the rest of a trial is as in the base; see ``trials``.

It is when all that can still have an effect is the base's but for a shift in time: when devices and
channels get free, what is under way, and the order of the ops that are queued. What lies in the
past counts as equal.
"""

from __future__ import annotations

from placer._kernels.base import (
    finish_of,
    last_producer_of,
    op_before,
    ready_of,
    start_of,
)
from placer._kernels.heaps import pop_event, push_event
from placer._kernels.jit import greater, helper, subroutine, whole
from placer._move_tables import NONE, MoveTables, Records
from placer._tables import Floats


@helper
def _clock_after(ns: float, now: float) -> float:
    """How long after now; what is past counts as now."""
    return greater(ns, now) - now


@helper
def has_converged(m: MoveTables, now: float, base_now: float, num_used: int) -> bool:
    """Whether devices and channels get free as in the base at `base_now`."""
    for device in range(len(m.devices)):
        here = m.devices[device]
        last = op_before(m.ops, m.devices, device, here.expected)
        while last != NONE and start_of(m.ops, m.late_ns, last) >= base_now:
            last = m.ops[last].previous  # a moved op that stays away
        free_ns = 0.0 if last == NONE else finish_of(m.ops, m.late_ns, last)
        if _clock_after(here.free_ns, now) != _clock_after(free_ns, base_now):
            return False
    for i in range(num_used):
        channel = m.channels[m.channels[i].used]
        if _clock_after(channel.free_ns, now) != _clock_after(channel.base_free_ns, base_now):
            return False
    return True


@helper
def has_received(m: MoveTables, now: float, base_now: float, num_seen: int, cut: int) -> bool:
    """Whether what is under way gets to ops that have not started when it does in the base."""
    for i in range(num_seen):
        node = m.ops[m.seen[i]]
        if node.started != cut and _clock_after(node.arrived_ns, now) != _clock_after(
            node.base_arrived_ns, base_now
        ):
            return False
    return True


@helper
def _was_ready_at_cut(nodes: Records, late_ns: Floats, op: int, cut_ns: float, trial: int) -> bool:
    """Whether an op that has not started was ready, or about to get so, at the cut."""
    was_ready: bool = last_producer_of(nodes, late_ns, op) < cut_ns and nodes[op].moved != trial
    return was_ready


@subroutine
def queues_are_in_order(m: MoveTables, cut_ns: float, trial: int) -> bool:
    """Whether what is queued will start in the order of the base."""
    copy_ns, copy_op = m.copy_ns, m.copy_op
    zero = whole(0)  # callees would be compiled once more for a literal
    for device in range(len(m.devices)):
        here = m.devices[device]
        # all that got ready since the cut, in the order in which it will start
        size = zero
        for i in range(here.heap_size):
            copy_ns[size] = m.queue_ns[here.room + i]
            copy_op[size] = m.queue_op[here.room + i]
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
            start_ns = start_of(m.ops, m.late_ns, op)
            if start_ns < last_ns:
                return False
            last_ns = start_ns
            # what was ready at the cut and is before it in the base must be so now
            while waiting != NONE and start_of(m.ops, m.late_ns, waiting) < start_ns:
                other_ns = ready_of(m.ops, m.late_ns, waiting)
                if (other_ns > ns or (other_ns == ns and waiting > op)) and _was_ready_at_cut(
                    m.ops, m.late_ns, waiting, cut_ns, trial
                ):
                    return False
                waiting = m.ops[waiting].next
            # and no more
            behind = waiting
            while behind != NONE:
                other_ns = ready_of(m.ops, m.late_ns, behind)
                if other_ns > ns or (other_ns == ns and behind > op):
                    break
                if _was_ready_at_cut(m.ops, m.late_ns, behind, cut_ns, trial):
                    return False
                behind = m.ops[behind].next
    return True
