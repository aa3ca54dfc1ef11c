"""PEFT: list scheduling that looks ahead by an optimistic cost table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._list_scheduling import Tasks, schedule
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def peft(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: Predict Earliest Finish Time.

    Arabnejad and Barbosa, *List scheduling algorithm for heterogeneous systems by an optimistic
    cost table*, IEEE TPDS 25(3), 2014, section 4, op by op. The ready op of the highest mean cost
    is next. Op groups are placed as in HEFT, but what the table expects after the op on a device
    is added to the finish time there.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    tasks = Tasks.of_ops(problem)
    table = optimistic_costs(tasks)
    result = schedule(tasks, mean_costs(tasks, table), lookahead=table)
    return keep_to_limits(problem, result.device_of_group)[None]


def order(problem: Problem) -> NDArray[np.float64]:
    """Mean costs as priorities, ``[num_ops]``."""
    tasks = Tasks.of_ops(problem)
    return mean_costs(tasks, optimistic_costs(tasks))


def optimistic_costs(tasks: Tasks) -> NDArray[np.float64]:
    """The least seconds from the finish of each task on each device to the end of all.

    Section 4.1 of the paper: every later task on the device that is best for it, as if no other
    ran. One of the same group stays on the device.

    Returns:
        Seconds, infinite where a task may not go, ``[num_tasks, num_devices]``.
    """
    allowed = tasks.allowed_tasks
    transfers = np.where(tasks.inside, np.inf, tasks.mean_transfer_seconds())
    by_producer = np.argsort(tasks.producers, kind="stable")
    ends = np.cumsum(np.bincount(tasks.producers, minlength=len(allowed))).tolist()
    # seconds of each task and all after it, by its own device
    through = np.where(allowed, tasks.seconds, np.inf)
    costs = np.where(allowed, 0.0, np.inf)
    for task in reversed(tasks.order.tolist()):
        edges = by_producer[ends[task - 1] if task else 0 : ends[task]]
        if len(edges):
            after = through[tasks.consumers[edges]]
            moved = after.min(axis=1) + transfers[edges]
            costs[task] += np.minimum(after, moved[:, None]).max(axis=0)
            through[task] += costs[task]
    return costs


def mean_costs(tasks: Tasks, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each task: the mean of its costs over its devices, ``[num_tasks]``."""
    allowed = tasks.allowed_tasks
    means: NDArray[np.float64] = np.where(allowed, table, 0.0).sum(axis=1) / allowed.sum(axis=1)
    return means
