"""Large-neighbourhood search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger
from placer.search.neighbours import Neighbours

_MOST_REMOVED = 8


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Takes related op groups out of the placement and places them again, one after the other.

    Shaw, *Using constraint programming and local search methods to solve vehicle routing
    problems*, CP 1998. Two to eight op groups that exchange tensors are taken out: they all go to
    the device, another than now, where that takes the least time. Then each in turn, in a random
    order, goes to its best device, found by evaluating all. The result is kept if it is no worse
    (Pisinger and Ropke, *Large neighborhood search*, Handbook of Metaheuristics, 2010). `start` is
    where it begins, else a random placement.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "large_neighbourhood",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    begin = draw_choices(problem, rng, 1)[0] if start is None else problem.check_start(start)
    neighbours = Neighbours(problem)
    current, cost = begin, float(ledger.evaluate(begin[None])[0])
    while ledger.left and neighbours.movable:
        removed = neighbours.related(rng, int(rng.integers(2, _MOST_REMOVED + 1)))
        candidate, candidate_cost = _remove(ledger, current, removed, problem)
        for group in rng.permutation(removed).tolist():
            candidate, candidate_cost = _place(
                ledger, candidate, candidate_cost, group, neighbours.devices[group]
            )
        if candidate_cost <= cost:
            current, cost = candidate, candidate_cost
    return ledger.result()


def _remove(
    ledger: Ledger, current: NDArray[np.int32], removed: list[int], problem: Problem
) -> tuple[NDArray[np.int32], float]:
    """All removed op groups on the device, if they may go there, where that costs the least."""
    candidates = np.repeat(current[None], problem.num_devices, axis=0)
    for device in range(problem.num_devices):
        for group in removed:
            if problem.allowed[group, device]:
                candidates[device, group] = device
    return _best(ledger, candidates[(candidates != current).any(axis=1)], current, np.inf)


def _place(
    ledger: Ledger, choices: NDArray[np.int32], cost: float, group: int, devices: list[int]
) -> tuple[NDArray[np.int32], float]:
    """An op group on the device where it costs the least, if less than where it is."""
    others = [device for device in devices if device != choices[group]]
    candidates = np.repeat(choices[None], len(others), axis=0)
    candidates[:, group] = others
    return _best(ledger, candidates, choices, cost)


def _best(
    ledger: Ledger, candidates: NDArray[np.int32], choices: NDArray[np.int32], cost: float
) -> tuple[NDArray[np.int32], float]:
    """The candidate that costs the least, or else the choices that it must improve on."""
    costs = ledger.evaluate(candidates)
    if len(costs) and costs.min() < cost:
        best = int(costs.argmin())
        return candidates[best], float(costs[best])
    return choices, cost
