"""What is known before anything runs: broken constraints and longest paths."""

from __future__ import annotations

from placer._kernels.addresses import finder
from placer._kernels.jit import helper, jit
from placer._tables import (
    FEASIBLE,
    SPLIT_COLOCATION,
    WRONG_KIND,
    Addresses,
    Floats,
    Ints,
    Tables,
    smallest_tables,
)

find_tables = finder(smallest_tables())


@helper
def find_broken_constraint(t: Tables, placement: Ints) -> tuple[int, int]:
    """The first op that is on a device of a wrong kind or off its colocation group.

    Returns:
        What is broken, or ``FEASIBLE``, and the op.
    """
    for i in range(len(t.constrained_ops)):
        op = t.constrained_ops[i]
        if not t.allowed[op, placement[op]]:
            return WRONG_KIND, op
        if placement[op] != placement[t.colocated_with[op]]:
            return SPLIT_COLOCATION, op
    return FEASIBLE, 0


@jit
def find_longest_remaining_paths(
    tables: Addresses, topological_order: Ints, work: Floats, longest: Floats
) -> None:
    """Finds the most work from each op to the end, the op included and transfers not.

    Args:
        tables: Addresses of the ``Tables``.
        topological_order: The ops, ``[num_ops]``.
        work: That of each op, ``[num_ops]``.
        longest: Gets the most work, ``[num_ops]``.
    """
    t = find_tables(tables)
    for op in topological_order[::-1]:
        most = 0.0
        for edge in range(t.edge_offsets[op], t.edge_offsets[op + 1]):
            most = max(most, longest[t.edge_consumer[edge]])
        longest[op] = work[op] + most
