"""m-SCT: as m-ETF, but a device may wait for the favourite child of its last op group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.errors import PlacerError, UsageError
from placer.heuristics._figures import on_accelerators
from placer.heuristics._list_scheduling import Tasks, schedule_earliest
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem

MOST_EDGES = 10_000
"""The most edges between op groups for which the linear program is solved."""

_BELOW_HALF = 0.5 - 1e-6  # the solver keeps to constraints but for 1e-7


def m_sct(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: Small Communication Times with memory.

    Jeon et al., *Baechi: fast device placement of machine learning graphs*, SoCC 2020, there
    m-SCT, after Hanen and Munier, *An approximation algorithm for scheduling dependent tasks on m
    processors with small communication delays*, ETFA 1995. A linear program names at most one
    favourite child of each group, which should follow it on the same device; then it goes on as
    :func:`placer.heuristics.m_etf.m_etf`, with devices that wait for favourites.

    Returns:
        Device per op group, ``[1, num_groups]``.

    Raises:
        UsageError: More than `MOST_EDGES` edges between the op groups.
        PlacerError: The linear program has no solution within the solver's tolerances.
    """
    tasks = Tasks.of_groups(problem, on_accelerators(problem))
    if len(tasks.bytes) > MOST_EDGES:
        raise UsageError(
            f"m_sct solves a linear program of at most {MOST_EDGES:,} edges between op groups; "
            f"there are {len(tasks.bytes):,}: use fewer op groups"
        )
    result = schedule_earliest(tasks, favourite_children(tasks))
    return keep_to_limits(problem, result.device_of_group)[None]


def favourite_children(tasks: Tasks) -> NDArray[np.int32]:
    """The favourite child of each task, -1 for none, ``[num_tasks]``.

    The relaxation of Hanen and Munier's program for devices without end: the least makespan where
    an edge costs its transfer unless it leads to the favourite, one at most from and to each task.
    Of an edge's figure from 0, the favourite, to 1, what is below one half is 0; there is at most
    one such edge from and to each task. Solved by the simplex method of
    OR-tools (GLOP).

    Args:
        tasks: The tasks, which count by their least seconds; transfers by their mean.
    """
    from ortools.linear_solver import pywraplp

    seconds = np.where(tasks.allowed_tasks, tasks.seconds, np.inf).min(axis=1)
    scale = 1.0 / seconds.sum()  # figures near 1, as the solver's tolerances want them
    seconds, transfers = seconds * scale, tasks.mean_transfer_seconds() * scale
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    makespan = solver.NumVar(0, infinity, "")
    starts = [solver.NumVar(0, infinity, "") for _ in seconds]
    apart = [solver.NumVar(0, 1, "") for _ in transfers]
    for start, duration in zip(starts, seconds.tolist(), strict=True):
        solver.Add(start + duration <= makespan)
    edges = list(zip(tasks.producers.tolist(), tasks.consumers.tolist(), strict=True))
    for edge, (producer, consumer) in enumerate(edges):
        delay = seconds[producer] + transfers[edge] * apart[edge]
        solver.Add(starts[producer] + delay <= starts[consumer])
    for ends in (tasks.producers, tasks.consumers):
        for task in np.unique(ends):
            at = np.flatnonzero(ends == task).tolist()
            solver.Add(sum(apart[edge] for edge in at) >= len(at) - 1)
    solver.Minimize(makespan)
    # two to four times as fast here as the primal simplex
    solver.SetSolverSpecificParametersAsString("use_dual_simplex: true")
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise PlacerError("m_sct found no favourite children: its linear program was not solved")
    favourites = np.full(len(seconds), -1, np.int32)
    for edge, (producer, consumer) in enumerate(edges):
        if apart[edge].solution_value() < _BELOW_HALF:
            favourites[producer] = consumer
    return favourites
