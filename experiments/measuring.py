"""Measures placements of workloads for ``placer measure``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.workloads import get_workload
from placer.errors import UsageError
from placer.tf import Measurement


def build_step(workload: str, sizes: Iterable[str]) -> tuple[Any, tuple[Any, ...]]:
    """The training step of a workload and the specs of its arguments.

    Args:
        workload: Its name.
        sizes: What differs from the bundled sizes, such as ``"batch_size=8"``.

    Raises:
        UnknownNameError: There is no such workload.
        UsageError: A size that is none, or that the workload does not have.
    """
    found = get_workload(workload)
    known = found.sizes
    given = {}
    for size in sizes:
        name, _, value = size.partition("=")
        if name not in known or not value.isdecimal():
            raise UsageError(
                f"--size {size} for workload {workload!r}; expected NAME=NUMBER with a name of: "
                f"{', '.join(known)}"
            )
        given[name] = int(value)
    return found.build(**given)


def parse_workers(workers: str | None) -> int | Sequence[str]:
    """What ``--workers`` says: how many, or where they are."""
    if workers is None:
        return 0
    return int(workers) if workers.isdecimal() else workers.split(",")


def summarize(measurement: Measurement) -> dict[str, Any]:
    """What ``placer measure --json`` prints."""
    feasible = measurement.reason is None
    return {
        "step_time_seconds": measurement.step_time_seconds if feasible else None,
        "spread_seconds": measurement.spread_seconds if feasible else None,
        "feasible": feasible,
        "infeasible_because": measurement.reason,
        "warmup_seconds": measurement.warmup_seconds,
        "step_seconds": measurement.step_seconds,
    }
