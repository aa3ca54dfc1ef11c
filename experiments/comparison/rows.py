"""What came of a comparison, a row for each run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from experiments.comparison.asked import Comparison
from experiments.comparison.journal import Journal
from experiments.comparison.tasks import BOUND, SINGLE, Setting, Task
from placer.placement import Order
from placer.strategies import STRATEGIES


class ComparisonRow(msgspec.Struct, frozen=True):
    """What one method found with one seed.

    Attributes:
        workload: Name of the graph.
        cluster: Name of the cluster.
        order: Which ready op a device starts first.
        method: A heuristic or a strategy.
        evaluations: The budget; a heuristic uses less, and a strategy's includes the heuristics.
        seed: All randomness comes from it.
        step_time_seconds: Of the best placement that the method itself evaluated; None if none was
            feasible.
        speedup: Step time of the best feasible single device over this one; None without both.
        lower_bound_seconds: What no placement can be faster than.
        gap: How much longer than the bound this step takes, as a share of the bound.
        found_by: Which heuristic or strategy found the placement: a strategy may do no better than
            the heuristic it started from.
        infeasible_because: Why none was feasible.
        failed_because: Why the run came to no end; it is run again the next time.
        evaluations_used: How many placements were evaluated.
        seconds: Wall-clock seconds; a strategy's do not include the heuristics.
    """

    workload: str
    cluster: str
    order: Order
    method: str
    evaluations: int
    seed: int
    step_time_seconds: float | None
    speedup: float | None
    lower_bound_seconds: float | None
    gap: float | None
    found_by: str | None
    infeasible_because: str | None
    failed_because: str | None
    evaluations_used: int
    seconds: float


class Table:
    """Makes rows of what is finished."""

    def __init__(
        self, comparison: Comparison, settings: Iterable[Setting], journal: Journal
    ) -> None:
        self._comparison = comparison
        self._journal = journal
        self._settings = {setting.task(BOUND): setting for setting in settings}

    def without_a_run(self, setting: Setting, reason: str) -> Iterator[ComparisonRow]:
        """The rows of a setting in which nothing can be feasible."""
        for method in self._comparison.methods:
            for evaluations in self._comparison.evaluations:
                for seed in range(self._comparison.num_seeds):
                    task = setting.task(method, seed, evaluations)
                    yield self._row(setting, task, evaluations, infeasible_because=reason)

    def rows(self, task: Task) -> Iterator[ComparisonRow]:
        """The rows of a task that was asked for: of a heuristic, one for each budget."""
        is_search = task.evaluations > 0
        if task.method not in self._comparison.methods or is_search != (task.method in STRATEGIES):
            return
        setting = self._settings[msgspec.structs.replace(task, method=BOUND, evaluations=0, seed=0)]
        budgets = [task.evaluations] if is_search else self._comparison.evaluations
        for evaluations in budgets:
            failure = self._journal.failures.get(task)
            if failure is not None:
                yield self._row(setting, task, evaluations, failed_because=failure)
                continue
            outcome = self._journal.outcomes[task]
            yield self._row(
                setting,
                task,
                evaluations,
                step_time=outcome.step_time_seconds,
                found_by=None if outcome.step_time_seconds is None else outcome.found_by,
                infeasible_because=outcome.infeasible_because,
                evaluations_used=outcome.evaluations,
                seconds=outcome.seconds,
            )

    def _row(
        self,
        setting: Setting,
        task: Task,
        evaluations: int,
        *,
        step_time: float | None = None,
        found_by: str | None = None,
        infeasible_because: str | None = None,
        failed_because: str | None = None,
        evaluations_used: int = 0,
        seconds: float = 0.0,
    ) -> ComparisonRow:
        bound, single = (
            outcome.step_time_seconds if outcome is not None else None
            for outcome in (
                self._journal.outcomes.get(setting.task(method)) for method in (BOUND, SINGLE)
            )
        )
        return ComparisonRow(
            workload=setting.graph.name,
            cluster=setting.cluster.name,
            order=setting.order,
            method=task.method,
            evaluations=evaluations,
            seed=task.seed,
            step_time_seconds=step_time,
            speedup=single / step_time if single and step_time else None,
            lower_bound_seconds=bound,
            gap=step_time / bound - 1 if bound and step_time else None,
            found_by=found_by,
            infeasible_because=infeasible_because,
            failed_because=failed_because,
            evaluations_used=evaluations_used,
            seconds=seconds,
        )
