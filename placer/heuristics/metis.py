"""Balanced minimum cut by METIS, over all devices or over the accelerators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer._coarsen import partition
from placer.heuristics._figures import accelerators, group_edges, group_seconds
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def metis(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: as few bytes cut as balanced work permits, over all devices.

    METIS (Karypis and Kumar, *A fast and high quality multilevel scheme for partitioning irregular
    graphs*, SIAM J. Sci. Comput. 20(1), 1998) partitions the groups, each device with a share of
    the work as its speed. A vertex weighs its seconds, an edge its bytes. The cut knows nothing of
    time: a chain split in balance runs its parts one after the other. Mirhoseini et al. (ICML
    2017, section 4.2) compare with Scotch (Pellegrini), another multilevel partitioner, so.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    return _cut(problem, np.arange(problem.num_devices))


def min_cut(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: as :func:`metis`, over the devices of the fastest kind alone.

    The *MinCut* of Mirhoseini et al. (ICML 2017, section 4.2), which leaves out the CPU.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    return _cut(problem, accelerators(problem))


def _cut(problem: Problem, devices: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    seconds = group_seconds(problem)[:, devices]
    speeds = 1.0 / np.maximum(seconds.sum(axis=0), 1e-9)
    parts = partition(
        len(devices), seconds.mean(axis=1), group_edges(problem), speeds / speeds.sum()
    )
    return keep_to_limits(problem, devices[parts])[None]
