"""Binary heaps in flat arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer._kernels.jit import helper
from placer._tables import Floats

Ints = NDArray[np.integer[Any]]


@helper
def push_event(
    event_ns: Floats, event_id: Ints, head: int, size: int, ns: float, event: int
) -> None:
    """Adds an event to a heap of `size` events that begins at ``event_id[head]``."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        parent_ns = event_ns[head + parent]
        if parent_ns < ns or (parent_ns == ns and event_id[head + parent] < event):
            break
        event_ns[head + child] = parent_ns
        event_id[head + child] = event_id[head + parent]
        child = parent
    event_ns[head + child] = ns
    event_id[head + child] = event


@helper
def pop_event(event_ns: Floats, event_id: Ints, head: int, size: int) -> int:
    """Removes the first event of a heap of `size` events and returns its id."""
    first: int = event_id[head]
    size -= 1
    ns, event = event_ns[head + size], event_id[head + size]
    hole = 0
    child = 1
    while child < size:
        child_ns = event_ns[head + child]
        right = child + 1
        if right < size:
            right_ns = event_ns[head + right]
            if right_ns < child_ns or (
                right_ns == child_ns and event_id[head + right] < event_id[head + child]
            ):
                child, child_ns = right, right_ns
        if ns < child_ns or (ns == child_ns and event < event_id[head + child]):
            break
        event_ns[head + hole] = child_ns
        event_id[head + hole] = event_id[head + child]
        hole = child
        child = 2 * hole + 1
    event_ns[head + hole] = ns
    event_id[head + hole] = event
    return first


@helper
def push_least(queue: Ints, head: int, size: int, rank: int | np.integer[Any]) -> None:
    """Adds a number to a heap of `size` numbers that begins at ``queue[head]``."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if queue[head + parent] < rank:
            break
        queue[head + child] = queue[head + parent]
        child = parent
    queue[head + child] = rank


@helper
def pop_least(queue: Ints, head: int, size: int) -> int:
    """Removes the least of a heap of `size` numbers that begins at ``queue[head]``."""
    first: int = queue[head]
    size -= 1
    rank = queue[head + size]
    hole = 0
    child = 1
    while child < size:
        if child + 1 < size and queue[head + child + 1] < queue[head + child]:
            child += 1
        if rank < queue[head + child]:
            break
        queue[head + hole] = queue[head + child]
        hole = child
        child = 2 * hole + 1
    queue[head + hole] = rank
    return first
