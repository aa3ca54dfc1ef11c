"""Tries many moves from a base, and walks from one base to the next."""

from __future__ import annotations

from placer._kernels.addresses import prefetch
from placer._kernels.base import commit, find_tables
from placer._kernels.jit import helper, jit, whole
from placer._kernels.trials import UNKNOWN, try_move
from placer._move_tables import Indices, PlacedGroups, Records, device_of
from placer._tables import Addresses, Floats, Ints

_device_of = helper(device_of)


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
        results: Gets the step times in nanoseconds, ``[num_moves]``, as ``try_move`` returns them.

    Returns:
        How many ops were started.
    """
    m = find_tables(addresses)
    num_moves = len(devices)
    num_starts = 0
    for i in range(num_moves):
        moving = ops[offsets[i] : offsets[i + 1]]
        if i + 1 < num_moves:
            op = ops[offsets[i + 1]]  # the next move begins with it
            prefetch(m.ops, op)
            prefetch(m.needs, op)
        results[i], starts = try_move(addresses, moving, whole(devices[i]), step_ns, most_starts)
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
    num_tried = num_starts = num_written = 0
    while num_tried < len(limits) and num_written <= most_written and num_starts < most_in_all:
        proposal, outcome = proposals[num_tried], outcomes[num_tried]
        group = proposal.group
        ops = groups.ops[groups.offsets[group] : groups.offsets[group + 1]]
        device = whole(_device_of(proposal, groups.allowed, groups.choices))
        tried_ns, starts = try_move(addresses, ops, device, step_ns, most_starts)
        num_starts += starts
        if tried_ns == UNKNOWN:
            return num_tried, True, num_starts, num_written, step_ns
        outcome.seconds = tried_ns / 1e9
        outcome.change = outcome.seconds - step_ns / 1e9
        outcome.origin = groups.choices[group]
        if outcome.change < limits[num_tried]:
            commit(addresses)
            groups.choices[group] = device
            for op in ops:
                placement[op] = device
            num_written += starts
            step_ns = tried_ns
        num_tried += 1
    return num_tried, False, num_starts, num_written, step_ns
