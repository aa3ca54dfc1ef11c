"""Hill climbing, again and again from near the best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer._move_tables import Records
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger
from placer.search._walk import Walk
from placer.search.neighbours import Neighbours


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Takes every move of an op group that helps; where none does, begins again near the best.

    Moves are tried in a random order, and the first that helps is made. After a round of all moves
    in which none did, four op groups of the best placement so far get devices drawn at random, and
    the next climb begins: iterated local search (Lourenço, Martin and Stützle, *Iterated local
    search*, Handbook of Metaheuristics, 2003). `start` is where the first climb begins, else a
    random placement.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "hill_climbing",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    begin = draw_choices(problem, rng, 1)[0] if start is None else problem.check_start(start)
    neighbours = Neighbours(problem)
    moves = neighbours.all()
    while ledger.left:
        walk = Walk(ledger, begin)
        _climb(walk, moves, rng)
        if not len(moves):
            break
        begin = neighbours.near(
            rng, walk.choices if ledger.best_choices is None else ledger.best_choices
        )
    return ledger.result()


def _climb(walk: Walk, moves: Records, rng: np.random.Generator) -> None:
    """Moves while that helps, and there is budget."""
    limits = np.zeros(len(moves))
    helped = True
    while helped:
        helped = False
        left = rng.permutation(moves)
        while len(left):
            changes = walk.take(left, limits[: len(left)])
            if not len(changes):
                return
            helped = helped or bool((changes < 0).any())
            left = left[len(changes) :]
