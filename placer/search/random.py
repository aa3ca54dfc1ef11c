"""Random search: the least that a search must beat."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.errors import InfeasibleError, UsageError
from placer.problem import Problem, Progress, SearchResult

_BATCH = 64


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Evaluates choices drawn uniformly from those allowed and keeps the best.

    Bergstra and Bengio, *Random search for hyper-parameter optimization*, JMLR 13, 2012, show why
    it is the search to compare others with.

    Args:
        problem: The problem.
        evaluations: The budget, all of it used.
        seed: All randomness comes from it.
        start: Ignored, as every draw is independent.
        on_progress: Called after each batch.

    Raises:
        UsageError: A budget below 1.
        InfeasibleError: No choices drawn were feasible; the message says why for the last.
    """
    if evaluations < 1:
        raise UsageError(f"evaluations is {evaluations}; expected at least 1")
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    best_seconds, best_choices = np.inf, None
    reason: str | None = None
    step_times = np.empty(evaluations)
    for done in range(0, evaluations, _BATCH):
        choices = draw_choices(problem, rng, min(_BATCH, evaluations - done))
        result = problem.evaluate(choices)
        seconds = np.where(result.feasible, result.step_time_seconds, np.inf)
        step_times[done : done + len(choices)] = seconds
        best = int(seconds.argmin())
        if seconds[best] < best_seconds:
            best_seconds, best_choices = float(seconds[best]), choices[best]
        reason = result.reasons[best] or reason
        if on_progress is not None:
            feasible = seconds[result.feasible]
            mean = float(feasible.mean()) if len(feasible) else np.nan
            on_progress(Progress(done + len(choices), best_seconds, mean, best_choices))
    if best_choices is None:
        raise InfeasibleError(
            f"none of {evaluations} random placements is feasible; of one of them: {reason}"
        )
    return SearchResult(
        method="random",
        choices=best_choices,
        step_time_seconds=best_seconds,
        evaluations=evaluations,
        seconds=time.perf_counter() - began,
        best_so_far=np.minimum.accumulate(step_times),
    )
