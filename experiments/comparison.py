"""Many methods under one budget, over several seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from experiments.journal import Journal
from experiments.running import Piece, Runner
from experiments.shortage import find_shortage
from experiments.tasks import BOUND, Outcome, Setting, Task
from experiments.workers import FailedError, Workers
from placer.api import MOST_EVALUATIONS
from placer.cluster import Cluster
from placer.errors import InfeasibleError, UnknownNameError, UsageError
from placer.graph import OpGraph
from placer.heuristics import HEURISTICS
from placer.placement import Order
from placer.strategies import STRATEGIES

_SINGLE = "single_device"


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


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to compare.

    Attributes:
        graphs: Graphs.
        clusters: Clusters; each graph is placed on each.
        methods: Heuristics and strategies, as of :func:`parse_methods`.
        evaluations: Budgets.
        num_seeds: Seeds are 0 to one less.
        orders: Which ready op a device starts first.
        groups: At most so many op groups; None for the grouping's own choice.

    Raises:
        UsageError: Graphs or clusters that differ have one name, by which rows are told apart.
    """

    graphs: Sequence[OpGraph]
    clusters: Sequence[Cluster]
    methods: Sequence[str]
    evaluations: Sequence[int]
    num_seeds: int = 1
    orders: Sequence[Order] = ("fifo",)
    groups: int | None = None

    def __post_init__(self) -> None:
        _check_names("graphs", self.graphs)
        _check_names("clusters", self.clusters)

    @property
    def settings(self) -> list[Setting]:
        """Every graph on every cluster in every order; what is the same but for its name, once."""
        settings: dict[Task, Setting] = {}
        for graph in self.graphs:
            for cluster in self.clusters:
                for order in self.orders:
                    setting = Setting(graph, cluster, order, self.groups)
                    settings.setdefault(setting.task(BOUND), setting)
        return list(settings.values())

    def sort(self, rows: Iterable[ComparisonRow]) -> list[ComparisonRow]:
        """Rows by setting, method, budget and seed, as they were asked for."""
        settings = [(s.graph.name, s.cluster.name, s.order) for s in self.settings]
        return sorted(
            rows,
            key=lambda row: (
                settings.index((row.workload, row.cluster, row.order)),
                self.methods.index(row.method),
                row.evaluations,
                row.seed,
            ),
        )

    @property
    def num_rows(self) -> int:
        """How many rows there will be."""
        return len(self.settings) * len(self.methods) * len(self.evaluations) * self.num_seeds


def _check_names(what: str, given: Sequence[OpGraph] | Sequence[Cluster]) -> None:
    fingerprints: dict[str, str] = {}
    for one in given:
        if fingerprints.setdefault(one.name, one.fingerprint) != one.fingerprint:
            raise UsageError(
                f"two {what} that differ are named {one.name!r}; expected another name for each, "
                "as results go by it"
            )


def parse_methods(text: str) -> tuple[str, ...]:
    """Methods from a list with commas; ``all`` are all heuristics and strategies.

    A name of both, as ``random``, is the strategy: it has the budget that it is compared under.

    Raises:
        UnknownNameError: No such method.
        UsageError: No method.
    """
    known = (*HEURISTICS, *STRATEGIES)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"methods is {text!r}; expected names with commas between, or 'all'")
    if names == ("all",):
        return tuple(dict.fromkeys(known))
    for name in names:
        if name not in known:
            raise UnknownNameError("method", name, {*known, "all"})
    return names


def parse_budgets(text: str) -> tuple[int, ...]:
    """Budgets from a list with commas, least first.

    Raises:
        UsageError: One is no number from 1 to 100 million.
    """
    cells = [cell.strip() for cell in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", c) and 1 <= int(c) <= MOST_EVALUATIONS for c in cells):
        raise UsageError(
            f"evaluations is {text!r}; expected whole numbers from 1 to {MOST_EVALUATIONS:,} with "
            "commas between"
        )
    return tuple(sorted({int(cell) for cell in cells}))


def parse_orders(text: str) -> tuple[Order, ...]:
    """Orders from a list with commas.

    Raises:
        UnknownNameError: No such order.
    """
    known: tuple[Order, ...] = ("fifo", "priority")
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError("order", name, known)
    return tuple(order for order in known if order in names)


def compare(comparison: Comparison, journal: Journal, jobs: int = 1) -> Iterator[ComparisonRow]:
    """Runs every method in every setting with every budget and seed, and gives a row for each.

    What the journal has is not run again; what is run is entered there. Rows come as soon as they
    are known. A strategy starts from the best of all heuristics with its seed, which are run first.

    Args:
        comparison: What to compare.
        journal: What is finished, and where to enter what is run.
        jobs: How many processes; with one, all is run in this process.

    Raises:
        InfeasibleError: Nothing can be feasible in any setting; the message says why.
    """
    settings: list[Setting] = []
    shortages: list[tuple[Setting, str]] = []
    for setting in comparison.settings:
        shortage = find_shortage(setting.graph, setting.cluster, setting.groups)
        if shortage is None:
            settings.append(setting)
        else:
            shortages.append((setting, shortage))
    if not settings:
        raise InfeasibleError("; ".join(dict.fromkeys(shortage for _, shortage in shortages)))
    return _compare(comparison, settings, shortages, journal, jobs)


def _compare(
    comparison: Comparison,
    settings: Sequence[Setting],
    shortages: Sequence[tuple[Setting, str]],
    journal: Journal,
    jobs: int,
) -> Iterator[ComparisonRow]:
    """The rows, first of settings that lack memory, then of the others."""
    table = _Table(comparison, settings, journal)
    for setting, shortage in shortages:
        yield from table.without_a_run(setting, shortage)
    with Workers(Runner(comparison.graphs, comparison.clusters), jobs) as workers:
        references = [setting.task(method) for setting in settings for method in (BOUND, _SINGLE)]
        for _ in _run(references, (), journal, workers):
            pass  # rows need both
        for tasks in (_heuristics(comparison, settings), _searches(comparison, settings)):
            for task in _run(tasks, settings, journal, workers):
                yield from table.rows(task)


def _heuristics(comparison: Comparison, settings: Iterable[Setting]) -> list[Task]:
    """Those asked for or, where a strategy starts from the best of them, all."""
    strategies = [method for method in comparison.methods if method in STRATEGIES]
    names = HEURISTICS if strategies else comparison.methods
    return [
        setting.task(name, seed)
        for setting in settings
        for name in names
        for seed in range(comparison.num_seeds)
    ]


def _searches(comparison: Comparison, settings: Iterable[Setting]) -> list[Task]:
    return [
        setting.task(method, seed, evaluations)
        for setting in settings
        for method in comparison.methods
        if method in STRATEGIES
        for evaluations in comparison.evaluations
        for seed in range(comparison.num_seeds)
    ]


def _run(
    tasks: Iterable[Task],
    settings: Iterable[Setting],
    journal: Journal,
    workers: Workers[Piece, Outcome],
) -> Iterator[Task]:
    """Runs what is missing, and gives each task once it is finished or has failed."""
    by_key = {setting.task(BOUND): setting for setting in settings}
    pieces = []
    for task in tasks:
        if task in journal.outcomes or task in journal.failures:
            yield task
            continue
        heuristics: list[Outcome] = []
        if task.evaluations:
            key = msgspec.structs.replace(task, method=BOUND, evaluations=0, seed=0)
            before = [by_key[key].task(name, task.seed) for name in HEURISTICS]
            failed = next((other for other in before if other in journal.failures), None)
            if failed is not None:
                why = journal.failures[failed]
                journal.fail(task, f"{failed.method}, which comes before it, has failed: {why}")
                yield task
                continue
            heuristics = [journal.outcomes[other] for other in before]
        pieces.append(Piece(task, heuristics))
    for piece, result in workers.map(pieces):
        if isinstance(result, FailedError):
            journal.fail(piece.task, str(result))
        else:
            journal.add(result)
        yield piece.task


class _Table:
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
                self._journal.outcomes.get(setting.task(method)) for method in (BOUND, _SINGLE)
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
