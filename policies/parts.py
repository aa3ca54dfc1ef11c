"""Parts of a graph: op groups that exchange much with each other, and little with others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._coarsen import partition
from placer.heuristics._figures import group_edges
from placer.problem import Problem


def partitions(problem: Problem, counts: tuple[int, ...]) -> list[NDArray[np.int32]]:
    """Splits the op groups by METIS into parts of as many each, with few bytes between them.

    Args:
        problem: The problem.
        counts: How many parts; where there are not more op groups, each is one.

    Returns:
        For each count the part of each op group, ``[num_groups]``.
    """
    edges, ones = group_edges(problem), np.ones(problem.num_groups)
    alone = np.arange(problem.num_groups, dtype=np.int32)
    return [
        partition(count, ones, edges) if count < problem.num_groups else alone for count in counts
    ]
