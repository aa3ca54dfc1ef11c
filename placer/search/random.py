"""Random search: the least that a search must beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import Ledger

_BATCH = 64


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Evaluates choices drawn uniformly from those allowed and keeps the best.

    Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 13, 2012, show why
    it is the search to compare others with. Every draw is independent: `start` is not used.

    See :class:`placer.problem.Search` for arguments, result and errors.
    """
    ledger = Ledger(
        "random",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    rng = np.random.default_rng(seed)
    while ledger.left:
        ledger.evaluate(draw_choices(problem, rng, min(_BATCH, ledger.left)))
    return ledger.result()
