"""What a process does for a comparison."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from experiments.comparison.tasks import BOUND, Outcome, Task
from placer.api import best_start
from placer.errors import InfeasibleError, UnprovenError, UsageError
from placer.heuristics import evaluate_heuristics, with_order_of
from placer.strategies import STRATEGIES, USES_TENSORFLOW, resolve

if TYPE_CHECKING:
    from placer.cluster import Cluster
    from placer.graph import OpGraph
    from placer.problem import Problem, SearchResult


class Piece(msgspec.Struct, frozen=True):
    """A task, and for a strategy what came of all heuristics with its seed."""

    task: Task
    heuristics: list[Outcome] = []


class Runner:
    """Does tasks on some graphs and clusters; keeps the problem of the last.

    Args:
        graphs: The graphs.
        clusters: The clusters.
    """

    def __init__(self, graphs: Iterable[OpGraph], clusters: Iterable[Cluster]) -> None:
        self._graphs = {graph.fingerprint: graph for graph in graphs}
        self._clusters = {cluster.fingerprint: cluster for cluster in clusters}
        self._key: tuple[str, str, str, int | None] | None = None
        self._problem: Problem

    def __call__(self, piece: Piece) -> Outcome:
        """What comes of a task."""
        task = piece.task
        problem = self._problem_of(task)
        if task.method == BOUND:
            return _bound(problem, task)
        if not task.evaluations:
            return _run_heuristic(problem, task)
        if task.method in USES_TENSORFLOW:
            from experiments import terminal

            terminal.load_tensorflow()
        return _run_search(problem, task, piece.heuristics)

    def _problem_of(self, task: Task) -> Problem:
        from placer.problem import Problem
        from placer.search import hill_climbing

        key = task.graph, task.cluster, task.order, task.groups
        if key != self._key:
            self._problem = Problem.build(
                self._graphs[task.graph],
                self._clusters[task.cluster],
                num_groups=task.groups,
                order=task.order,
            )
            # so that no method is charged for loading compiled code
            choices = self._problem.allowed.argmax(axis=1)
            with contextlib.suppress(InfeasibleError):
                hill_climbing.search(self._problem, evaluations=2, seed=0, start=choices)
            self._key = key
        return self._problem


def _bound(problem: Problem, task: Task) -> Outcome:
    from placer.bounds import lower_bound

    began = time.perf_counter()
    seconds: float | None = None
    reason: str | None = None
    try:
        seconds = lower_bound(problem).seconds
    except InfeasibleError as error:
        reason = str(error)
    return Outcome(task, seconds, None, reason, 0, time.perf_counter() - began)


def _run_heuristic(problem: Problem, task: Task) -> Outcome:
    began = time.perf_counter()
    # the stream that placer.api.solve gives the heuristics
    rng = np.random.default_rng(np.random.SeedSequence(task.seed).spawn(1)[0])
    rows = evaluate_heuristics(problem, rng, [task.method])
    seconds = time.perf_counter() - began
    num_evaluated = sum(row.choices is not None for row in rows)
    start = best_start(problem, rows)
    choices = None if start is None or start.choices is None else start.choices.tolist()
    name = None if start is None else start.name
    if start is not None and start.feasible:
        best = start.step_time_seconds
        curve = [(num_evaluated, seconds, best)]
        return Outcome(task, best, name, None, num_evaluated, seconds, choices, curve=curve)
    excess = 0.0 if start is None else start.excess_bytes
    reason = "; ".join(f"{row.name}: {row.reason}" for row in rows)
    return Outcome(task, None, name, reason, num_evaluated, seconds, choices, excess)


def _run_search(problem: Problem, task: Task, heuristics: Sequence[Outcome]) -> Outcome:
    """A search from the best heuristic, or else from the one that lacks the least memory."""
    spent = sum(outcome.evaluations for outcome in heuristics)
    if spent >= task.evaluations:
        reason = f"the heuristics took {spent} evaluations, all of the budget or more"
        return Outcome(task, None, None, reason, spent, 0.0)
    start = _start(heuristics)
    if start is not None and start.found_by is not None:
        problem = with_order_of(start.found_by, problem)
    began = time.perf_counter()
    try:
        found: SearchResult = resolve("strategy", task.method, STRATEGIES)(
            problem,
            evaluations=task.evaluations - spent,
            seed=task.seed,
            start=None if start is None else np.array(start.choices, np.int32),
        )
    except (InfeasibleError, UsageError) as error:  # none found, or not for such a problem
        seconds = time.perf_counter() - began
        evaluations = task.evaluations
        if isinstance(error, UsageError):
            evaluations = spent + (error.evaluations if isinstance(error, UnprovenError) else 0)
        return Outcome(task, None, None, str(error), evaluations, seconds)
    seconds = time.perf_counter() - began
    no_better = start is not None and start.step_time_seconds == found.step_time_seconds
    return Outcome(
        task,
        found.step_time_seconds,
        start.found_by if start is not None and no_better else task.method,
        None,
        spent + found.evaluations,
        seconds,
        curve=_curve(found, spent, seconds),
    )


def _start(heuristics: Sequence[Outcome]) -> Outcome | None:
    """As :func:`placer.api.solve` starts: the first of the best, or of those that lack least."""
    feasible = [
        (outcome.step_time_seconds, i)
        for i, outcome in enumerate(heuristics)
        if outcome.step_time_seconds is not None
    ]
    lacking = [
        (outcome.excess_bytes, i)
        for i, outcome in enumerate(heuristics)
        if outcome.choices is not None
    ]
    order = min(feasible or lacking, default=None)
    return None if order is None else heuristics[order[1]]


def _curve(found: SearchResult, spent: int, seconds: float) -> list[tuple[int, float, float]]:
    """Where the best so far changed, and the end, after the evaluations that were spent before."""
    best = found.best_so_far
    changes = np.flatnonzero(best != np.concatenate([[np.inf], best[:-1]])).tolist()
    curve = [(spent + i + 1, float(found.seconds_so_far[i]), float(best[i])) for i in changes]
    return [*curve, (spent + found.evaluations, seconds, found.step_time_seconds)]
