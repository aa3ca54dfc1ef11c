"""Measures steps of workloads: what commands that measure have in common."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import ArrayLike

from experiments.workloads import get_workload
from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.placement import Order, Placement
from placer.problem import Problem
from placer.tf import LocalWorkers, MeasuredEvaluator, Measurement, calibrate, profile
from placer.tf._processes import MOST_SECONDS
from placer.tf._same import check_graph
from placer.tf.workers import check_shares


class MeasuringConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which step is measured, on what and how.

    Attributes:
        workload: Name of the workload.
        sizes: What differs from its bundled sizes.
        workers: How many processes to start, or where servers run, with commas between; empty for
            the devices of this process.
        shares: The share of the time that each process may run; empty for all of it.
        devices: TensorFlow's device for each of the cluster's; empty for the usual ones.
        warmup: Steps that warm up.
        steps: Steps that count.
        seconds_limit: How long a placement may take in all.
    """

    workload: str
    sizes: dict[str, int] = {}
    workers: str = ""
    shares: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    warmup: int = 3
    steps: int = 10
    seconds_limit: float = 60.0

    @property
    def num_processes(self) -> int:
        """How many workers to start."""
        return int(self.workers) if self.workers.isdecimal() else 0

    def check(self) -> None:
        """Checks all that can be without TensorFlow, before anything is started or written.

        Raises:
            UnknownNameError: There is no such workload.
            UsageError: It has no size of such a name, or another figure is outside its range.
        """
        known = get_workload(self.workload).sizes if self.workload else {}
        for name, value in self.sizes.items():
            if name not in known or not 1 <= value < 2**31:
                raise UsageError(
                    f"--size {name}={value} for workload {self.workload!r}; expected NAME=NUMBER "
                    f"with a name of: {', '.join(known)}"
                )
        if self.workers.isdecimal() and not self.num_processes:
            raise UsageError(f"--workers {self.workers}; expected at least 1, or HOST:PORT,...")
        if self.shares:
            if not self.num_processes:
                raise UsageError("--shares are of processes: give --workers N")
            check_shares(self.shares, self.num_processes)
        if not 0 < self.seconds_limit <= MOST_SECONDS:
            raise UsageError(
                f"--seconds-limit {self.seconds_limit:g}; expected more than 0, at most "
                f"{MOST_SECONDS:,}"
            )

    def build_step(self) -> tuple[Any, tuple[Any, ...]]:
        """The training step of the workload, and the specs of its arguments.

        Raises:
            UnknownNameError: There is no such workload.
            UsageError: It has no size of such a name.
        """
        self.check()
        return get_workload(self.workload).build(**self.sizes)

    @contextmanager
    def open_workers(self) -> Iterator[Sequence[str]]:
        """Where the workers are, while the block runs; none for the devices of this process."""
        if self.num_processes:
            with LocalWorkers(self.num_processes, shares=self.shares or None) as workers:
                yield workers
        elif self.workers and not self.workers.isdecimal():
            yield self.workers.split(",")
        else:
            yield ()

    def read_graph(self) -> OpGraph:
        """The graph of the workload.

        Raises:
            PlacerError: As :meth:`build_step`.
        """
        import placer.tf

        step, specs = self.build_step()
        return placer.tf.read(step, *specs, name=self.workload)

    def check_graph(self, graph: OpGraph) -> None:
        """Checks that a graph is what ``placer profile`` wrote of the workload.

        Raises:
            UsageError: It is of another program.
            PlacerError: As :meth:`build_step`.
        """
        check_graph(graph, self.read_graph())

    def calibrate(
        self, workers: Sequence[str], cluster: Cluster | None = None
    ) -> tuple[OpGraph, Cluster]:
        """The graph with what its ops take on the devices, and the cluster that these are.

        Args:
            workers: Where they are.
            cluster: What is known of the devices; None to describe them first.

        Raises:
            PlacerError: As ``placer.tf.profile`` and ``placer.tf.calibrate``.
        """
        step, specs = self.build_step()
        where: dict[str, Any] = {"devices": self.devices or None, "workers": workers or None}
        graph = profile(step, *specs, **where, name=self.workload)
        if cluster is None:
            cluster = Cluster.from_tensorflow(**where)
        return graph, calibrate([graph], cluster, **where)

    @contextmanager
    def open_evaluator(
        self,
        cluster: Cluster,
        workers: Sequence[str],
        *,
        graph: OpGraph | None = None,
        order: Order = "fifo",
        priorities: ArrayLike | None = None,
        patience_seconds: float = 0.0,
        on_wait: Callable[[float], None] | None = None,
        log: str | os.PathLike[str] | None = None,
    ) -> Iterator[MeasuredEvaluator]:
        """What measures the workload; other arguments as ``MeasuredEvaluator`` has them."""
        step, specs = self.build_step()
        with MeasuredEvaluator(
            step,
            cluster,
            *specs,
            devices=self.devices or None,
            workers=workers,
            graph=graph,
            order=order,
            priorities=priorities,
            warmup=self.warmup,
            steps=self.steps,
            seconds_limit=self.seconds_limit,
            patience_seconds=patience_seconds,
            on_wait=on_wait,
            log=log,
        ) as evaluator:
            yield evaluator


def parse_sizes(sizes: Iterable[str]) -> dict[str, int]:
    """What ``--size NAME=NUMBER`` says, as often as it is given.

    Raises:
        UsageError: One that is none.
    """
    given = {}
    for size in sizes:
        name, _, value = size.partition("=")
        if not name or not value.isdecimal():
            raise UsageError(f"--size {size}; expected NAME=NUMBER")
        given[name] = int(value)
    return given


def parse_shares(shares: str | None) -> tuple[float, ...]:
    """What ``--shares`` says: a number for each worker.

    Raises:
        UsageError: They are no numbers.
    """
    try:
        return tuple(float(share) for share in shares.split(",")) if shares else ()
    except ValueError:
        raise UsageError(f"--shares {shares}; expected numbers with commas between") from None


@contextmanager
def measured(
    problem: Problem,
    config: MeasuringConfig,
    log: str | os.PathLike[str],
    *,
    patience_seconds: float = 0.0,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[tuple[Problem, MeasuredEvaluator]]:
    """The problem with measured step times, and what measures them.

    Raises:
        UsageError: The workload in these sizes is another program than the problem's.
        PlacerError: As ``MeasuredEvaluator``.
    """
    with (
        config.open_workers() as workers,
        config.open_evaluator(
            problem.cluster,
            workers,
            graph=problem.graph,
            order=problem.order,
            priorities=problem.priorities,
            patience_seconds=patience_seconds,
            on_wait=on_wait,
            log=log,
        ) as evaluator,
    ):
        yield dataclasses.replace(problem, evaluator=evaluator), evaluator


def with_priorities_of(path: Path, problem: Problem) -> Problem:
    """The problem with the priorities of a placement file, with which its placement was found.

    Raises:
        PlacerError: The file is no placement of the problem's graph on its cluster.
    """
    found = Placement.load(path, problem.graph, problem.cluster)
    if found.priorities is None:
        return problem
    return problem.with_priorities(found.priorities)


def summarize(measurement: Measurement) -> dict[str, Any]:
    """What ``placer measure --json`` prints."""
    feasible = measurement.reason is None
    return {
        "step_time_seconds": measurement.step_time_seconds if feasible else None,
        "spread_seconds": measurement.spread_seconds if feasible else None,
        "feasible": feasible,
        "infeasible_because": measurement.reason,
        "busy": measurement.busy,
        "others_share": measurement.others_share,
        "warmup_seconds": measurement.warmup_seconds,
        "step_seconds": measurement.step_seconds,
    }


def busy_note(measurements: Iterable[Measurement]) -> str | None:
    """What to tell where the machine was too busy during measurements; None if it was not."""
    all_of_them = list(measurements)
    shares = [found.others_share or 0.0 for found in all_of_them if found.busy]
    if not shares:
        return None
    return (
        f"the machine was too busy to tell in {len(shares)} of {len(all_of_them)} measurements: "
        f"others took {_percent(shares)} of its processors"
    )


def _percent(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"
