"""The cross-entropy method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger
from placer.search.neighbours import devices_at, first_probabilities

_BATCH = 100
_ELITES = 10
_SMOOTHING = 0.3  # weight of the elites in the new chances


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Draws devices by chances per op group, and moves these towards the best of each batch.

    De Boer, Kroese, Mannor and Rubinstein, *A tutorial on the cross-entropy method*, Annals of
    Operations Research 134, 2005, section 3: each op group draws its device on its own; the chances
    become the frequencies among the best tenth of a batch, smoothed with what they were. Gao,
    Chen and Li, *Post: device placement with cross-entropy minimization and proximal policy
    optimization*, NeurIPS 2018, place with it. With a `start`, the chances begin near it.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "cross_entropy",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    origin = None if start is None else problem.check_start(start)
    chances = first_probabilities(problem, origin)
    groups = np.arange(problem.num_groups)
    while ledger.left:
        choices = devices_at(chances, rng.random((_BATCH, problem.num_groups)))
        if origin is not None and not ledger.count:
            choices[0] = origin
        costs = ledger.evaluate(choices)
        elites = choices[np.argsort(costs, kind="stable")[:_ELITES]]
        frequencies = np.zeros_like(chances)
        np.add.at(frequencies, (groups, elites), 1 / max(len(elites), 1))
        chances += _SMOOTHING * (frequencies - chances)
    return ledger.result()
