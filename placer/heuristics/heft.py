"""HEFT: list scheduling by upward rank, with insertion into idle gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._list_scheduling import Tasks, schedule, upward_ranks
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def heft(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: Heterogeneous Earliest Finish Time.

    Topcuoglu, Hariri and Wu, *Performance-effective and low-complexity task scheduling for
    heterogeneous computing*, IEEE TPDS 13(3), 2002, section 4.2, op by op. The first op of a group
    that is scheduled chooses the device for all of it, by the least sum of its own finish time and
    the seconds of the rest of the group there, among the devices with memory left for the group.
    As in the paper, transfers do not queue.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    tasks = Tasks.of_ops(problem)
    return keep_to_limits(problem, schedule(tasks, upward_ranks(tasks)).device_of_group)[None]


def order(problem: Problem) -> NDArray[np.float64]:
    """Upward ranks as priorities, ``[num_ops]``."""
    return upward_ranks(Tasks.of_ops(problem))
