"""Many methods under one budget, over several seeds."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from placer import files
from placer.api import best_heuristic, solve
from placer.errors import InfeasibleError, UnknownNameError, UsageError
from placer.heuristics import HEURISTICS, HeuristicResult, evaluate_heuristics
from placer.problem import Problem
from placer.strategies import STRATEGIES


class ComparisonRow(msgspec.Struct, frozen=True):
    """What one method found with one seed.

    Attributes:
        workload: Name of the graph.
        cluster: Name of the cluster.
        method: A heuristic or a strategy.
        evaluations: The budget; a heuristic uses less, and a strategy's includes the heuristics.
        seed: All randomness comes from it.
        step_time_seconds: Of the best placement that the method itself evaluated; None if none was
            feasible.
        speedup: Step time of the best feasible single device over this one; None without both.
        found_by: Which heuristic or strategy found the placement: a strategy may do no better than
            the heuristic it started from.
        infeasible_because: Why none was feasible.
        seconds: Wall-clock seconds.
    """

    workload: str
    cluster: str
    method: str
    evaluations: int
    seed: int
    step_time_seconds: float | None
    speedup: float | None
    found_by: str | None
    infeasible_because: str | None
    seconds: float


@dataclass(frozen=True)
class MethodSummary:
    """What one method found over all seeds; nan where nothing was feasible.

    Attributes:
        workload: Name of the graph.
        cluster: Name of the cluster.
        method: The method.
        num_seeds: How many seeds were run.
        num_feasible: In how many of them a feasible placement was found.
        best_seconds: Least step time.
        median_seconds: Median step time.
        high_seconds: Greatest step time.
        speedup: Median over the seeds.
        found_by: Which heuristic or strategy found the best.
        infeasible_because: A reason, where there was one.
    """

    workload: str
    cluster: str
    method: str
    num_seeds: int
    num_feasible: int
    best_seconds: float
    median_seconds: float
    high_seconds: float
    speedup: float
    found_by: str | None
    infeasible_because: str | None


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


def compare(
    problems: Sequence[Problem], methods: Sequence[str], evaluations: int, seeds: Iterable[int]
) -> Iterator[ComparisonRow]:
    """Runs every method on every problem with every seed, a row each."""
    seeds = tuple(seeds)
    for problem in problems:
        single = best_heuristic(_heuristic(problem, "single_device", 0))
        reference = single.step_time_seconds if single else None
        for method in methods:
            for seed in seeds:
                yield _run(problem, method, evaluations, seed, reference)


def summarize(rows: Iterable[ComparisonRow]) -> list[MethodSummary]:
    """Best, median and range of each method over its seeds, in the order of the rows."""
    by_method: dict[tuple[str, str, str], list[ComparisonRow]] = {}
    for row in rows:
        by_method.setdefault((row.workload, row.cluster, row.method), []).append(row)
    return [_summarize(group) for group in by_method.values()]


def write_csv(rows: Sequence[ComparisonRow], path: str | os.PathLike[str]) -> None:
    """Writes the rows as CSV; what is None is empty.

    Raises:
        PlacerError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ComparisonRow.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(row) for row in rows)
    files.write_bytes(path, text.getvalue().encode())


def _run(
    problem: Problem, method: str, evaluations: int, seed: int, reference: float | None
) -> ComparisonRow:
    began = time.perf_counter()
    seconds: float | None = None
    found_by: str | None = None
    reason: str | None = None
    if method in STRATEGIES:
        try:
            seconds, found_by = _search(problem, method, evaluations, seed)
        except InfeasibleError as error:
            reason = str(error)
    else:
        rows = _heuristic(problem, method, seed)
        best = best_heuristic(rows)
        if best is None:
            reason = "; ".join(f"{row.name}: {row.reason}" for row in rows)
        else:
            seconds, found_by = best.step_time_seconds, best.name
    return ComparisonRow(
        workload=problem.graph.name,
        cluster=problem.cluster.name,
        method=method,
        evaluations=evaluations,
        seed=seed,
        step_time_seconds=seconds,
        speedup=reference / seconds if reference and seconds else None,
        found_by=found_by,
        infeasible_because=reason,
        seconds=time.perf_counter() - began,
    )


def _search(problem: Problem, method: str, evaluations: int, seed: int) -> tuple[float, str]:
    """Step time of the best placement that a strategy itself evaluated, and who found it.

    The heuristics, though in the budget, do not stand in for it where it did worse.
    """
    solution = solve(problem, strategy=method, evaluations=evaluations, seed=seed)
    found = solution.search
    if found is None:
        num_taken = solution.evaluations
        spent = f"the heuristics took {num_taken} evaluations, all of the budget or more"
        raise InfeasibleError(spent if num_taken >= evaluations else "no sample was feasible")
    started_there = found.step_time_seconds == solution.step_time_seconds
    return found.step_time_seconds, solution.found_by if started_there else method


def _heuristic(problem: Problem, name: str, seed: int) -> list[HeuristicResult]:
    return evaluate_heuristics(problem, np.random.default_rng(seed), [name])


def _summarize(rows: Sequence[ComparisonRow]) -> MethodSummary:
    found = [(row.step_time_seconds, row) for row in rows if row.step_time_seconds is not None]
    times = [seconds for seconds, _ in found]
    speedups = [row.speedup for row in rows if row.speedup is not None]
    reasons = [row.infeasible_because for row in rows if row.infeasible_because]
    return MethodSummary(
        workload=rows[0].workload,
        cluster=rows[0].cluster,
        method=rows[0].method,
        num_seeds=len(rows),
        num_feasible=len(times),
        best_seconds=min(times, default=math.nan),
        median_seconds=float(np.median(times)) if times else math.nan,
        high_seconds=max(times, default=math.nan),
        speedup=float(np.median(speedups)) if speedups else math.nan,
        found_by=min(found, key=lambda pair: pair[0])[1].found_by if found else None,
        infeasible_because=reasons[0] if reasons else None,
    )
