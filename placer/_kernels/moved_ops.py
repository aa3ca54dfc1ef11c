"""The ops that a trial moves: whether they may, and when they begin to matter; see ``trials``."""

from __future__ import annotations

import numpy as np

from placer._kernels.base import (
    finish_of,
    op_before,
    ready_of,
)
from placer._kernels.jit import greater, helper, lesser, subroutine
from placer._move_tables import NONE, Indices, MoveTables, Records
from placer._tables import Bools, Floats


@helper
def may_move(nodes: Records, needs: Records, allowed: Bools, ops: Indices, device: int) -> bool:
    """Whether all ops may be on a device, with all of their colocation groups."""
    for op in ops:
        needs[needs[op].colocated_with].group_count += 1
    is_allowed = True
    for op in ops:
        first = needs[op].colocated_with
        is_whole = needs[first].group_count == needs[first].group_size
        stays = nodes[op].device == device
        is_allowed = is_allowed and allowed[op, device] and (is_whole or stays)
    for op in ops:
        needs[needs[op].colocated_with].group_count = 0
    return is_allowed


@helper
def surely_fits(
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
def is_queued(nodes: Records, op: int, trial: int) -> bool:
    """Whether a moved op is ready, or about to get so, and has not started."""
    node = nodes[op]
    queued: bool = node.moved == trial and node.missing == 0 and node.started == 0
    return queued


@helper
def _is_sooner(nodes: Records, late_ns: Floats, other: int, op: int, ns: float) -> bool:
    """Whether another op is ready in the base before one that gets ready at `ns`."""
    if other == NONE:
        return False
    other_ns = ready_of(nodes, late_ns, other)
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
    last = op_before(m.ops, m.devices, device, behind)
    if last != NONE:
        ns = greater(ns, finish_of(m.ops, m.late_ns, last))
    return ns


@subroutine
def next_cut(
    m: MoveTables, ops: Indices, device: int, trial: int, num_disturbed: int, num_queued: int
) -> float:
    """The first instant at which the move makes a difference, as far as is known."""
    cut_ns = np.inf
    if num_disturbed > 0:
        cut_ns = m.disturbed_ns[0]
    if num_queued > 0:
        for op in ops:
            if is_queued(m.ops, op, trial):
                cut_ns = lesser(cut_ns, _turn(m, op, device, m.ops[op].arrived_ns))
    return cut_ns


@helper
def _has_time_of_base(nodes: Records, op: int, trial: int) -> bool:
    """Whether an op that got ready since the cut did so when it does in the base."""
    node = nodes[op]
    same: bool = node.moved == trial or node.arrived_ns == node.base_arrived_ns
    return same


@subroutine
def can_wait(m: MoveTables, ops: Indices, device: int, trial: int, now: float, late: float) -> bool:
    """Whether moved ops that are queued keep their place when the clock is set back.

    They do if they are still under way, as all that is has the same shift; or if there is no shift
    and those that are queued with them have the times of the base.
    """
    is_one_waiting = False
    for op in ops:
        if is_queued(m.ops, op, trial) and m.ops[op].arrived_ns <= now:
            is_one_waiting = True
    if not is_one_waiting:
        return True
    here = m.devices[device]
    can_wait = late == 0.0
    for i in range(here.heap_size):
        op = m.queue_op[here.room + i]
        can_wait = can_wait and _has_time_of_base(m.ops, op, trial)
    for i in range(here.line_head, here.line_end):
        can_wait = can_wait and _has_time_of_base(m.ops, m.line[i], trial)
    return can_wait


@subroutine
def set_back(nodes: Records, ops: Indices, trial: int, late: float) -> None:
    """Sets the clock back for what moved ops have received."""
    for op in ops:
        if nodes[op].moved == trial:
            nodes[op].arrived_ns -= late
