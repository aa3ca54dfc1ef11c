"""The base of moves: a recorded schedule, and how a move that was tried is written into it.

Times are relative to *spans*: what comes later is put off by adding to what the spans are late. A
trial notes what it started, a *window* from each cut to where the rest is the base's. To make the
move, the windows are written into the base, and the spans of time behind them are put off by the
shift: that takes about as long as the trial did.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from placer._kernels.addresses import finder
from placer._kernels.jit import greater, helper, jit, lesser, whole
from placer._move_tables import NONE, MoveTables, Records
from placer._tables import Addresses, Floats, Recording, new_recording

Integer = int | np.integer[Any]

TRIALS, CUTS, STARTS = range(3)  # counters: of all time
STARTED, WINDOWS, TARGET = range(3, 6)  # and of the last trial: how many, and the device

find_tables = finder(MoveTables.zeros())
find_recording = finder(new_recording(1, 1, 1))


@helper
def start_of(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op starts in the base."""
    ns: float = nodes[op].start_ns + late_ns[nodes[op].span]
    return ns


@helper
def finish_of(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op finishes in the base."""
    ns: float = nodes[op].finish_ns + late_ns[nodes[op].span]
    return ns


@helper
def ready_of(nodes: Records, late_ns: Floats, op: int) -> float:
    """When an op gets ready in the base."""
    ns: float = nodes[op].ready_ns + late_ns[nodes[op].ready_span]
    return ns


@helper
def last_producer_of(nodes: Records, late_ns: Floats, op: int) -> float:
    """When the last producer of an op starts in the base."""
    ns: float = nodes[op].last_producer_ns + late_ns[nodes[op].last_span]
    return ns


@helper
def op_before(nodes: Records, devices: Records, device: int, op: int) -> int:
    """The op before another one, or the last one before none, on a device of the base."""
    before: int = devices[device].last if op == NONE else nodes[op].previous
    return before


@helper
def span_at(m: MoveTables, ns: float) -> int:
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
def _copy_bytes(m: MoveTables, op: int, sign: float) -> None:
    """Adds the copies of what an op sends to the bytes needed where they are, or takes them off."""
    m.counters[STARTS] += 1
    this_time = m.counters[STARTS]
    node = m.ops[op]
    for i in range(node.first_edge, node.end_edge):
        edge = m.edges[i]
        target = m.ops[edge.consumer].device
        sent = m.sent[edge.slot * len(m.devices) + target]
        if target != node.device and sent.by != this_time:
            sent.by = this_time
            tensor = node.first_tensor + edge.slot
            if tensor < node.end_tensor:
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
    node = m.ops[op]
    device, span, behind = node.device, whole(node.span), node.next
    _link(m.ops, m.devices, device, node.previous, behind)
    while span >= 0 and m.first_ops[span, device] == op:
        m.first_ops[span, device] = behind
        span -= 1
    m.devices[device].num_ops -= 1
    m.devices[device].needed_bytes -= m.needs[op].lasting_bytes


@helper
def _append(m: MoveTables, op: Integer, span: int, start_ns: float, last: Integer) -> None:
    """Lets an op start behind the last one, or none, of its device; its tensors arrive as tried."""
    node, late_ns = m.ops[op], m.late_ns[span]
    device = node.device
    finish_ns = start_ns + m.duration_ns[op, m.devices[device].speed]
    effect_ns = finish_ns
    for i in range(node.first_edge, node.end_edge):
        edge = m.edges[i]
        arrival_ns = edge.tried_ns
        effect_ns = greater(effect_ns, arrival_ns)
        edge.arrival_ns = arrival_ns - late_ns
        read = m.inputs[edge.input]
        read.span = span
        read.start_ns = start_ns - late_ns
        read.arrival_ns = arrival_ns - late_ns
    node.span = span
    node.start_ns = start_ns - late_ns
    node.finish_ns = finish_ns - late_ns
    node.effect_ns = effect_ns - late_ns
    _link(m.ops, m.devices, device, last, op)


@helper
def _put_off(m: MoveTables, op: int, late_ns: float) -> None:
    """Lets an op start later within its span."""
    node = m.ops[op]
    node.start_ns += late_ns
    node.finish_ns += late_ns
    node.effect_ns += late_ns
    for i in range(node.first_edge, node.end_edge):
        edge = m.edges[i]
        edge.arrival_ns += late_ns
        read = m.inputs[edge.input]
        read.start_ns += late_ns
        read.arrival_ns += late_ns


@helper
def _sum_up_inputs(m: MoveTables, op: Integer) -> None:
    """Works out since when an op is ready, and its last producer's start."""
    node = m.ops[op]
    ready_ns, last_ns = 0.0, -1.0
    ready_span = last_span = np.uint32(0)
    for i in range(node.first_input, node.end_input):
        read = m.inputs[i]
        span = read.span
        late_ns = m.late_ns[span]
        start_ns, arrival_ns = read.start_ns + late_ns, read.arrival_ns + late_ns
        if arrival_ns > ready_ns:
            ready_ns, ready_span = arrival_ns, span
        if start_ns > last_ns:
            last_ns, last_span = start_ns, span
    node.ready_ns = ready_ns - m.late_ns[ready_span]
    node.ready_span = ready_span
    node.last_producer_ns = last_ns - m.late_ns[last_span]
    node.last_span = last_span


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
        lowest = 0 if before == NONE else whole(m.ops[before].span) + 1
        for span in range(lowest, first + 1):
            m.first_ops[span, device] = op
    for span in range(first + 1, last + 1):
        while op != NONE and m.ops[op].span < span:
            op = m.ops[op].next
        m.first_ops[span, device] = op


@helper
def _sum_up_effects(m: MoveTables, first: int, last: int) -> None:
    """Works out when the last effects happen of the spans from `first` to `last`."""
    for i in range(first, last + 1):
        m.spans[i].effect_ns = -np.inf
    for device in range(len(m.devices)):
        op = m.first_ops[first, device]
        while op != NONE and m.ops[op].span <= last:
            node = m.ops[op]
            span = m.spans[node.span]
            span.effect_ns = greater(span.effect_ns, node.effect_ns)
            op = node.next
    carried_ns = m.spans[first].carried_ns + m.late_ns[first]
    for i in range(first, len(m.first_ops)):
        carried_ns = greater(carried_ns, m.spans[i].effect_ns + m.late_ns[i])
        carried_on_ns = carried_ns - m.late_ns[i + 1]
        behind = m.spans[i + 1]
        if i > last and behind.carried_ns == carried_on_ns:
            break
        behind.carried_ns = carried_on_ns


@helper
def _write_window(m: MoveTables, window: int, begin: int) -> int:
    """Writes a window of the last trial into the base.

    Returns:
        The end of its op starts, which begin at `begin`.
    """
    this = m.windows[window]
    cut_ns, base_ns, late_ns = this.cut_ns, this.base_ns, this.late_ns
    end: int = this.end
    first, last = whole(this.first_span), whole(this.last_span)
    for device in range(len(m.devices)):
        op = m.first_ops[first, device]
        while op != NONE and start_of(m.ops, m.late_ns, op) < cut_ns:
            op = m.ops[op].next
        here = m.devices[device]
        here.cut = here.waiting = op_before(m.ops, m.devices, device, op)
        op = m.first_ops[last, device]
        while op != NONE and start_of(m.ops, m.late_ns, op) < base_ns:
            op = m.ops[op].next
        here.expected = op
    for span in range(first + 1, last + 1):
        m.spans[span].begin_ns = lesser(m.spans[span].begin_ns, base_ns + late_ns - m.late_ns[span])
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
    m.counters[CUTS] += 1
    stamp = whole(m.counters[CUTS])
    for i in range(begin, end):
        _tell_consumers(m, m.starts[i].op, stamp)
    for device in range(len(m.devices)):
        op = m.devices[device].expected
        while late_ns != 0.0 and op != NONE and m.ops[op].span == last:
            _tell_consumers(m, op, stamp)
            op = m.ops[op].next
    return end


@jit
def commit(addresses: Addresses) -> None:
    """Makes the last trial the base; it must have told its step time.

    Args:
        addresses: Those of the base, a ``MoveTables``.
    """
    m = find_tables(addresses)
    trial, device = m.counters[TRIALS], m.counters[TARGET]
    num_starts = m.counters[STARTED]
    is_scarce = False  # else nobody asks how much memory is needed
    for each in range(len(m.devices)):
        is_scarce = is_scarce or m.devices[each].certain_bytes < np.inf
    for i in range(num_starts):
        if is_scarce and m.ops[m.starts[i].op].disturbed == trial:
            _copy_bytes(m, m.starts[i].op, -1.0)
    for i in range(num_starts):
        op = m.starts[i].op
        if m.ops[op].moved == trial:
            _take_away(m, op)
            m.ops[op].device = device
            m.devices[device].num_ops += 1
            m.devices[device].needed_bytes += m.needs[op].lasting_bytes
    for i in range(num_starts):
        if is_scarce and m.ops[m.starts[i].op].disturbed == trial:
            _copy_bytes(m, m.starts[i].op, 1.0)
    begin = whole(0)
    for window in range(m.counters[WINDOWS]):
        begin = _write_window(m, window, begin)


@helper
def _begin_spans(m: MoveTables, recording: Recording) -> None:
    """Cuts time into spans in which about as many ops start each."""
    num_spans, num_ops, num_pieces = len(m.first_ops), len(m.ops), len(m.line)
    last_ns = 1.0
    for op in range(num_ops):
        last_ns = greater(last_ns, recording.start_ns[op])
    pieces_per_ns = num_pieces / (last_ns + 1.0)
    for piece in range(num_pieces):
        m.line[piece] = 0
    for op in range(num_ops):
        piece = whole(recording.start_ns[op] * pieces_per_ns)
        m.line[lesser(piece, num_pieces - 1)] += 1  # after months, 1 ns is lost in rounding
    for span in range(len(m.late_ns)):
        m.late_ns[span] = 0.0
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
def set_base(addresses: Addresses, record: Addresses, needed: Floats) -> None:
    """Works out what trials need to know of a base whose schedule has been recorded.

    Args:
        addresses: Those of the base, a ``MoveTables``.
        record: Those of its schedule, a ``Recording``.
        needed: Bytes on each device as if nothing were freed, ``[num_devices]``.
    """
    m, recording = find_tables(addresses), find_recording(record)
    num_spans = len(m.first_ops)
    for edge in range(len(m.edges)):
        m.edges[edge].tried_ns = recording.arrival_ns[edge]
    _begin_spans(m, recording)
    for device in range(len(needed)):
        here = m.devices[device]
        here.needed_bytes = needed[device]
        head, end = recording.sequence_head[device], recording.sequence_end[device]
        here.num_ops = end - head
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
        _index_starts(m, device, NONE, whole(0), num_spans - 1)
    _sum_up_effects(m, whole(0), num_spans - 1)
    for each in range(len(m.ops)):
        _sum_up_inputs(m, each)
