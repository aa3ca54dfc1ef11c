"""Balanced minimum cut by METIS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._coarsen import partition
from placer.heuristics._figures import accelerators, group_edges, group_seconds, move_to_allowed
from placer.problem import Problem


def metis(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: as few bytes cut as balanced work permits.

    METIS (Karypis and Kumar, *A fast and high quality multilevel scheme for partitioning irregular
    graphs*, SIAM J. Sci. Comput. 1998) partitions the groups over the devices of the fastest
    kind, each with a share of the work as its speed. A vertex weighs its seconds, an edge its
    bytes. The paper compares with Scotch (Pellegrini), another multilevel partitioner, over CPU
    and GPUs, and with a min-cut over the GPUs alone; this is the latter. The cut knows nothing of
    time: a chain split in balance runs its parts one after the other.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    devices = accelerators(problem)
    seconds = group_seconds(problem)[:, devices]
    speeds = 1.0 / np.maximum(seconds.sum(axis=0), 1e-9)
    parts = partition(
        len(devices), seconds.mean(axis=1), group_edges(problem), speeds / speeds.sum()
    )
    return move_to_allowed(problem, devices[parts].astype(np.int32))[None]
