"""Topological blocks, one accelerator after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._figures import accelerators, group_seconds
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def topological_blocks(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: blocks of equal work in topological order, one to each accelerator.

    There are as many blocks as devices of the fastest kind: more and smaller blocks would only
    cross between devices more often. This is how GPipe (Huang et al., NeurIPS 2019, arXiv
    1811.06965, section 2.2) cuts a network into its cells.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    devices = accelerators(problem)
    work = group_seconds(problem)[:, devices].mean(axis=1)
    blocks = equal_blocks(work, len(devices))
    return keep_to_limits(problem, devices[blocks])[None]


def equal_blocks(work: NDArray[np.float64], num_blocks: int) -> NDArray[np.int64]:
    """Cuts a sequence into contiguous blocks of about equal work.

    An item belongs to the block in which the middle of its work lies.

    Args:
        work: Work of each item, ``[num_items]``.
        num_blocks: How many blocks.

    Returns:
        Block of each item, ascending, ``[num_items]``.
    """
    middle = np.cumsum(work) - work / 2
    blocks = (middle / work.sum() * num_blocks).astype(np.int64)
    clipped: NDArray[np.int64] = np.clip(blocks, 0, num_blocks - 1)
    return clipped
