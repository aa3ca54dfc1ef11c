"""Simulated annealing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.search._walk import LEAST, Walk
from placer.search.neighbours import Neighbours

_BLOCK = 512  # moves that are drawn at a time
_SAMPLED_BLOCK = 64  # while the first temperature is not known
_SAMPLES = 50  # moves uphill that tell the first temperature
_ACCEPTED = 1e-3  # chance at first of the median of the moves uphill
_COLDEST = 1e-2  # the last temperature over the first


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Moves one op group at a time; a slower placement is accepted by Metropolis's chance.

    Kirkpatrick, Gelatt and Vecchi, *Optimization by simulated annealing*, Science 220, 1983: a
    move that costs `change` seconds is made with the chance ``exp(-change / temperature)``
    (Metropolis et al. 1953), that is if it costs less than the temperature times an exponential
    random number. The temperature falls geometrically as the budget is spent. The first fifty
    moves uphill, and the others in their block of 64 draws, are samples and not made; their median
    and the chance that such a move is to have set the first temperature (Johnson et al.,
    *Optimization by simulated annealing: part I*, Operations Research 37, 1989). That chance is
    low, as a high temperature would forget a good `start`. From a feasible placement no infeasible
    one is accepted; among infeasible ones the memory that they lack is annealed likewise.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "annealing",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    begin = draw_choices(problem, rng, 1)[0] if start is None else problem.check_start(start)
    walk, neighbours = Walk(ledger, begin), Neighbours(problem)
    # seconds for feasible placements, bytes that are lacking for infeasible ones
    uphill: tuple[list[float], list[float]] = ([], [])
    hottest = [0.0, 0.0]
    while ledger.left and neighbours.movable:
        size = _BLOCK if hottest[int(walk.cost >= INFEASIBLE_COST)] else _SAMPLED_BLOCK
        proposals, energies = neighbours.draw(rng, size), rng.standard_exponential(size)
        while len(proposals) and ledger.left:
            unit = int(walk.cost >= INFEASIBLE_COST)
            temperatures = hottest[unit] * _COLDEST ** ledger.spent(len(proposals))
            changes = walk.take(proposals, np.maximum(temperatures * energies, LEAST))
            proposals, energies = proposals[len(changes) :], energies[len(changes) :]
            if not hottest[unit]:
                uphill[unit].extend(changes[(changes > 0) & np.isfinite(changes)].tolist())
        for unit, found in enumerate(uphill):
            if len(found) >= _SAMPLES and not hottest[unit]:
                hottest[unit] = float(np.median(found)) / -math.log(_ACCEPTED)
    return ledger.result()
