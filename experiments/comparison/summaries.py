"""What a comparison found, over seeds, and its files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from experiments.comparison.rows import ComparisonRow
from placer import files
from placer.placement import Order
from placer.strategies import STRATEGIES


class MethodSummary(msgspec.Struct, frozen=True):
    """What one method found over all seeds; nan where nothing was feasible.

    Attributes:
        workload: Name of the graph.
        cluster: Name of the cluster.
        order: Which ready op a device starts first.
        method: The method.
        evaluations: How many placements were evaluated, median.
        budget: How many it might have evaluated.
        num_seeds: How many seeds were run.
        num_feasible: In how many of them a feasible placement was found.
        best_seconds: Least step time.
        median_seconds: Median step time, where seeds that found nothing are the slowest; nan if it
            is one of these.
        high_seconds: Greatest step time.
        speedup: Over the best single device, median as above.
        lower_bound_seconds: What no placement can be faster than.
        gap: How much longer than the bound the best step takes, as a share of the bound.
        seconds: Wall-clock seconds, median; a strategy's do not include the heuristics.
        found_by: Which heuristic or strategy found the best.
        infeasible_because: A reason, where there was one.
        failed_because: A reason, where there was one.
    """

    workload: str
    cluster: str
    order: Order
    method: str
    evaluations: int
    budget: int
    num_seeds: int
    num_feasible: int
    best_seconds: float
    median_seconds: float
    high_seconds: float
    speedup: float
    lower_bound_seconds: float
    gap: float
    seconds: float
    found_by: str | None
    infeasible_because: str | None
    failed_because: str | None


def summarize(rows: Iterable[ComparisonRow]) -> list[MethodSummary]:
    """Best, median and range of each method over its seeds, in the order of the rows.

    Each budget of a strategy is a method of its own; heuristics do not depend on it.
    """
    by_method: dict[tuple[str, str, str, str, int], dict[int, ComparisonRow]] = {}
    for row in rows:
        budget = row.evaluations if row.method in STRATEGIES else 0
        key = row.workload, row.cluster, row.order, row.method, budget
        by_method.setdefault(key, {}).setdefault(row.seed, row)
    return [_summarize(list(by_seed.values())) for by_seed in by_method.values()]


def write_rows(rows: Sequence[ComparisonRow], path: Path) -> None:
    """Writes the rows as CSV; what is None is empty.

    Raises:
        PlacerError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ComparisonRow.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(row) for row in rows)
    files.write_bytes(path, text.getvalue().encode())


def write_summaries(summaries: Sequence[MethodSummary], path: Path) -> None:
    """Writes the summaries as JSON, one a line; nan as null.

    Raises:
        PlacerError: The file cannot be written.
    """
    lines = b",\n".join(map(msgspec.json.encode, summaries))
    files.write_bytes(path, b"[\n" + lines + b"\n]\n")


def _summarize(rows: Sequence[ComparisonRow]) -> MethodSummary:
    first = rows[0]
    found = [(row.step_time_seconds, row) for row in rows if row.step_time_seconds is not None]
    times = [seconds for seconds, _ in found]
    # a seed that found nothing counts as slower than any
    missing = len(rows) - len(found)
    median = _median([*times, *[math.inf] * missing])
    speedups = [row.speedup for _, row in found if row.speedup is not None]
    are_most_found = math.isfinite(median) and speedups
    finished = [row for row in rows if row.failed_because is None]
    gaps = [row.gap for row in rows if row.gap is not None]
    bound = first.lower_bound_seconds
    return MethodSummary(
        workload=first.workload,
        cluster=first.cluster,
        order=first.order,
        method=first.method,
        evaluations=round(_median(row.evaluations_used for row in finished) if finished else 0),
        budget=first.evaluations,
        num_seeds=len(rows),
        num_feasible=len(times),
        best_seconds=min(times, default=math.nan),
        median_seconds=median if math.isfinite(median) else math.nan,
        high_seconds=max(times, default=math.nan),
        speedup=_median([*speedups, *[0.0] * missing]) if are_most_found else math.nan,
        lower_bound_seconds=math.nan if bound is None else bound,
        gap=min(gaps, default=math.nan),
        seconds=_median(row.seconds for row in finished),
        found_by=min(found, key=lambda pair: pair[0])[1].found_by if found else None,
        infeasible_because=next((r.infeasible_because for r in rows if r.infeasible_because), None),
        failed_because=next((r.failed_because for r in rows if r.failed_because), None),
    )


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return float(np.median(known)) if known else math.nan
