"""Runs a comparison: what is missing, in which order, and what comes before what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from experiments.comparison.asked import Comparison
from experiments.comparison.journal import Journal
from experiments.comparison.rows import ComparisonRow, Table
from experiments.comparison.runner import Piece, Runner
from experiments.comparison.shortage import find_shortage
from experiments.comparison.tasks import BOUND, SINGLE, Outcome, Setting, Task
from experiments.comparison.workers import FailedError, Workers
from placer.errors import InfeasibleError
from placer.heuristics import HEURISTICS
from placer.strategies import STRATEGIES


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
    """The rows, first of settings in which nothing fits, then of the others."""
    table = Table(comparison, settings, journal)
    for setting, shortage in shortages:
        yield from table.without_a_run(setting, shortage)
    with Workers(Runner(comparison.graphs, comparison.clusters), jobs) as workers:
        references = [setting.task(method) for setting in settings for method in (BOUND, SINGLE)]
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
