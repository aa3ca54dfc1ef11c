"""What all searches share: the budget, the best so far and the history."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from placer.errors import InfeasibleError
from placer.problem import Problem, Progress, SearchResult, check_budget

INFEASIBLE_COST = 1e7
"""More than any step time in seconds, which are below 2^53 ns; see :meth:`Ledger.evaluate`."""

_BATCH = 64  # evaluations between two calls of on_progress, if they come one by one


class Ledger:
    """Spends the budget of a search, and keeps the best placement and the history.

    Args:
        method: Name of the search.
        problem: The problem.
        evaluations: The budget.
        seed: Checked only.
        seconds: Nothing is left of the budget after so many seconds, but for a first batch.
        on_progress: Called every 64 evaluations or, where batches are larger, after each batch.

    Raises:
        UsageError: As :func:`placer.problem.check_budget`.
    """

    def __init__(
        self,
        method: str,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        check_budget(evaluations, seed, seconds)
        self.problem = problem
        self.count = 0
        self._method = method
        self._evaluations = evaluations
        self._seconds = np.inf if seconds is None else seconds
        self._on_progress = on_progress
        self._began = time.perf_counter()
        self._step_times = np.empty(evaluations)
        self._seconds_so_far = np.empty(evaluations)
        self._num_told = 0
        self._best_seconds = np.inf
        self._best_choices: NDArray[np.int32] | None = None
        self._least_excess = np.inf
        self._reason: str | None = None

    @property
    def left(self) -> int:
        """How many evaluations are left."""
        if self.count and self.is_late:
            return 0
        return self._evaluations - self.count

    @property
    def is_late(self) -> bool:
        """Whether the budget of seconds is spent."""
        return time.perf_counter() - self._began >= self._seconds

    def spent(self, count: int) -> NDArray[np.float64]:
        """The part of the budget, of evaluations or of seconds, that each of the next ones ends at.

        Args:
            count: How many evaluations. The seconds are those of now.

        Returns:
            From 0 to 1, ``[count]``.
        """
        by_seconds = (time.perf_counter() - self._began) / self._seconds
        evaluations = np.arange(self.count + 1, self.count + count + 1)
        spent: NDArray[np.float64] = np.clip(evaluations / self._evaluations, by_seconds, 1.0)
        return spent

    def evaluate(self, choices: NDArray[np.int32]) -> NDArray[np.float64]:
        """Evaluates as many of the choices ``[batch, num_groups]`` as the budget permits.

        Returns:
            What to minimise, one for each that was evaluated: the step time in seconds; for an
            infeasible placement more than any step time, and the more the more memory it lacks.
        """
        choices = choices[: self.left]
        if not len(choices):
            return np.zeros(0)
        result = self.problem.evaluate(choices)
        feasible = result.feasible & np.isfinite(result.step_time_seconds)
        excess = np.zeros(len(choices)) if result.excess_bytes is None else result.excess_bytes
        for row in np.flatnonzero(~feasible).tolist():
            if excess[row] < self._least_excess:
                self._least_excess, self._reason = float(excess[row]), result.reasons[row]
        seconds = np.where(feasible, result.step_time_seconds, np.inf)
        self.add(seconds, choices.__getitem__)
        return np.where(feasible, seconds, INFEASIBLE_COST + excess)

    def add(
        self, seconds: NDArray[np.float64], choices_of: Callable[[int], NDArray[np.int32]]
    ) -> None:
        """Enters evaluations, one or more.

        Args:
            seconds: The step times, infinite if infeasible, ``[batch]``.
            choices_of: Gives the choices of one of them, ``[num_groups]``.
        """
        now = slice(self.count, self.count + len(seconds))
        self._step_times[now] = seconds
        self._seconds_so_far[now] = time.perf_counter() - self._began
        self.count = now.stop
        best = int(seconds.argmin())
        if seconds[best] < self._best_seconds:
            self._best_seconds = float(seconds[best])
            self._best_choices = choices_of(best).copy()
        if self.count - self._num_told >= _BATCH:
            self._tell()

    def _tell(self) -> None:
        new = self._step_times[self._num_told : self.count]
        self._num_told = self.count
        if self._on_progress is not None and len(new):
            feasible = new[np.isfinite(new)]
            mean = float(feasible.mean()) if len(feasible) else np.nan
            self._on_progress(Progress(self.count, self._best_seconds, mean, self._best_choices))

    @property
    def best_choices(self) -> NDArray[np.int32] | None:
        """The best feasible choices so far, ``[num_groups]``, if any."""
        return self._best_choices

    def result(self) -> SearchResult:
        """What the search found.

        Raises:
            InfeasibleError: Nothing feasible; the message says what the nearest lacked.
        """
        self._tell()
        if self._best_choices is None:
            raise InfeasibleError.after(
                self.count,
                f"none of {self.count} placements tried by {self._method} is feasible; "
                f"of the nearest: {self._reason}",
            )
        return SearchResult(
            method=self._method,
            choices=self._best_choices,
            step_time_seconds=self._best_seconds,
            evaluations=self.count,
            seconds=time.perf_counter() - self._began,
            best_so_far=np.minimum.accumulate(self._step_times[: self.count]),
            seconds_so_far=self._seconds_so_far[: self.count].copy(),
        )
