"""A genetic algorithm with biased random keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger
from placer.search.neighbours import devices_at, first_probabilities

_POPULATION = 100
_ELITES = 20
_MUTANTS = 20
_INHERITED = 0.7  # chance that a key comes from the parent among the elites


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Crosses the keys of good placements with those of others.

    BRKGA (Gonçalves and Resende, *Biased random-key genetic algorithms for combinatorial
    optimization*, Journal of Heuristics 17, 2011), with which REGAL places (Paliwal et al.,
    *Reinforced genetic algorithm learning for optimizing computation graphs*, ICLR 2020, arXiv
    1905.02494). An individual is a key in [0, 1) per op group, which the inverse of the cumulative
    chances of the devices turns into a device. As in REGAL, the chances are biased: with a `start`,
    towards it. A generation keeps the elites, adds random mutants, and fills up with children, each
    of a parent among the elites and one among the others, with the elite's key in 70% of the op
    groups.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "genetic",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    origin = None if start is None else problem.check_start(start)
    chances = first_probabilities(problem, origin)
    keys = rng.random((_POPULATION, problem.num_groups))
    if origin is not None:
        keys[0] = _keys_of(origin, chances)
    costs = ledger.evaluate(devices_at(chances, keys))
    while ledger.left:
        order = np.argsort(costs, kind="stable")
        keys, costs = keys[order], costs[order]
        num_children = _POPULATION - _ELITES - _MUTANTS
        elites = keys[rng.integers(_ELITES, size=num_children)]
        others = keys[rng.integers(_ELITES, _POPULATION, size=num_children)]
        children = np.where(rng.random(elites.shape) < _INHERITED, elites, others)
        mutants = rng.random((_MUTANTS, problem.num_groups))
        keys = np.concatenate([keys[:_ELITES], children, mutants])
        new_costs = ledger.evaluate(devices_at(chances, keys[_ELITES:]))
        costs = np.concatenate([costs[:_ELITES], new_costs])
    return ledger.result()


def _keys_of(choices: NDArray[np.int32], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys, ``[num_groups]``, that stand for choices: the middle of what stands for each device."""
    groups = np.arange(len(choices))
    ends = np.cumsum(chances, axis=1)[groups, choices]
    middle: NDArray[np.float64] = ends - chances[groups, choices] / 2
    return middle
