"""Simulated annealing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger
from placer.search._neighbours import Neighbours, uniforms
from placer.search._walk import Walk

_SAMPLED = 0.02  # part of the budget that tells what moves change, before anything is annealed
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
    (Metropolis et al. 1953). The temperature falls geometrically as the budget is spent. The first
    fiftieth of it samples moves, of which only those that help are made; the median of the others
    and the chance that such a move is to have set the first temperature (Johnson et al.,
    *Optimization by simulated annealing: part I*, Operations Research 37, 1989). That chance is
    low, as a high temperature would forget a good `start`. From a feasible placement no infeasible
    one is accepted; from an infeasible one, those that lack less memory are.

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
    uphill: list[float] = []
    hottest = 0.0
    for u, v, chance in uniforms(rng, 3):
        if not (ledger.left and neighbours.movable):
            break
        change = walk.try_move(*neighbours.pick(walk.choices, u, v)) - walk.cost
        if change <= 0:
            walk.accept()
            continue
        spent = ledger.spent
        if spent < _SAMPLED or not (hottest or uphill):
            if math.isfinite(change):
                uphill.append(change)
            continue
        if not hottest:
            hottest = float(np.median(uphill)) / -math.log(_ACCEPTED)
        if chance < math.exp(-change / (hottest * _COLDEST**spent)):
            walk.accept()
    return ledger.result()
