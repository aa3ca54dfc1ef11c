"""Critical-path list scheduling: the longest remaining path first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._list_scheduling import Tasks, schedule, static_levels
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def critical_path(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: op groups by static level, each where it finishes first.

    HLFET, the best of the list schedules that Adam, Chandy and Dickson compare (*A comparison of
    list schedules for parallel processing systems*, CACM 17(12), 1974), with transfers and unlike
    devices: the ready group with the longest path to an end, transfers aside, goes to the device
    with memory left where it finishes first, after all that is there. A group runs as a whole,
    forward and backward pass at once, which suits recurrent networks.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    tasks = Tasks.of_groups(problem, problem.allowed)
    result = schedule(tasks, static_levels(tasks), insertion=False)
    return keep_to_limits(problem, result.device_of_group)[None]
