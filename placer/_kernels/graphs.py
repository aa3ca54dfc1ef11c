"""What is known before anything runs: broken constraints and longest paths."""

from __future__ import annotations

from placer._kernels.jit import helper, jit
from placer._tables import FEASIBLE, SPLIT_COLOCATION, WRONG_KIND, Floats, Ints, Tables


@helper
def find_broken_constraint(t: Tables, placement: Ints) -> tuple[int, int]:
    """The first op that is on a device of a wrong kind or off its colocation group.

    Returns:
        What is broken, or ``FEASIBLE``, and the op.
    """
    for op in t.constrained_ops:
        if not t.allowed[op, placement[op]]:
            return WRONG_KIND, op
        if placement[op] != placement[t.colocated_with[op]]:
            return SPLIT_COLOCATION, op
    return FEASIBLE, 0


@jit
def longest_remaining_path(t: Tables, topological_order: Ints, work: Floats) -> Floats:
    """Most work from each op to the end, the op included and transfers not, ``[num_ops]``."""
    longest = work.copy()
    for op in topological_order[::-1]:
        for edge in range(t.edge_offsets[op], t.edge_offsets[op + 1]):
            longest[op] = max(longest[op], work[op] + longest[t.edge_consumer[edge]])
    return longest
