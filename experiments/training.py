"""Training with a record on disk that survives being stopped."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.measuring import MeasuringConfig
from experiments.run import RunConfig, RunFolder
from placer.api import Solution, best_heuristic, solve
from placer.errors import FormatError, UnknownNameError, UsageError
from placer.heuristics import HeuristicResult
from placer.placement import Placement
from placer.problem import Problem, Progress, Search, SearchResult
from placer.strategies import STRATEGIES, resolve
from policies.config import PRESETS, TrainingConfig

SECONDS_BETWEEN_CHECKPOINTS = 10.0


def check_start(start: RunFolder, config: RunConfig) -> None:
    """Checks that a run may start from another one.

    Raises:
        UsageError: It is not finished, or its problem is another one.
        FormatError: It is no run.
    """
    began = start.read_config()
    for name in ("graph_fingerprint", "cluster_fingerprint", "groups", "order"):
        if getattr(began, name) != getattr(config, name):
            raise UsageError(
                f"{start.path}: a run with another {name.removesuffix('_fingerprint')}; expected "
                f"one on {config.graph!r} and {config.cluster!r} with the same groups and order"
            )
    if not start.finished:
        raise UsageError(f"{start.path}: not finished; expected a run that is")
    if began.training != config.training:  # its policy is what training goes on with
        raise UsageError(
            f"{start.path}: a run of {began.strategy}; {config.strategy} cannot start from it, as "
            "it trains with other settings"
        )


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run.

    Attributes:
        config: What was asked.
        solution: What was tried, and the best of it.
        seconds: Wall-clock seconds of heuristics and training.
    """

    config: RunConfig
    solution: Solution
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The figures for ``--json``; what is not feasible is None."""
        best, found = self.solution.step_time_seconds, self.solution.search
        return {
            "workload": self.config.graph,
            "cluster": self.config.cluster,
            "strategy": self.config.strategy,
            "order": self.config.order,
            "seed": self.config.seed,
            "best_step_time_seconds": best,
            "found_by": self.solution.found_by,
            "learned_step_time_seconds": found.step_time_seconds if found else None,
            "speedup_over": {
                row.name: row.step_time_seconds / best if row.feasible else None
                for row in self.solution.heuristics
            },
            "heuristics": [
                {
                    "name": row.name,
                    "step_time_seconds": row.step_time_seconds if row.feasible else None,
                    "feasible": row.feasible,
                    "infeasible_because": row.reason,
                }
                for row in self.solution.heuristics
            ],
            "evaluations": self.solution.evaluations,
            "seconds": self.seconds,
        }


def new_config(
    problem: Problem,
    *,
    strategy: str,
    evaluations: int,
    seed: int,
    num_groups: int | None = None,
    measuring: MeasuringConfig | None = None,
) -> RunConfig:
    """What a new run on a problem is asked, with the settings of its strategy.

    Raises:
        UnknownNameError: No such strategy.
    """
    return RunConfig(
        format="placer.run/1",
        graph=problem.graph.name,
        graph_fingerprint=problem.graph.fingerprint,
        cluster=problem.cluster.name,
        cluster_fingerprint=problem.cluster.fingerprint,
        strategy=strategy,
        evaluations=evaluations,
        seed=seed,
        order=problem.order,
        groups=num_groups,
        training=training_settings(strategy),
        measuring=measuring,
    )


def training_settings(strategy: str) -> dict[str, int | float | str]:
    """The settings with which a strategy trains, by name; none if it does not train a policy.

    Raises:
        UnknownNameError: No such strategy.
    """
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)
    for preset in PRESETS.values():
        if preset.method == strategy:
            return _settings(preset)
    return {}


def _settings(config: TrainingConfig) -> dict[str, float | str]:
    """The settings that TOML has a word for: what is None is left out."""
    return {k: v for k, v in dataclasses.asdict(config).items() if v is not None}


def count_evaluations(heuristics: Sequence[HeuristicResult]) -> int:
    """How many placements the heuristics evaluated."""
    return sum(row.choices is not None for row in heuristics)


def trains_policy(strategy: str) -> bool:
    """Whether a strategy trains a policy, and so needs TensorFlow."""
    return any(preset.method == strategy for preset in PRESETS.values())


def train(
    problem: Problem,
    config: RunConfig,
    folder: RunFolder,
    on_heuristics: Callable[[Sequence[HeuristicResult]], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    start: RunFolder | None = None,
) -> TrainingResult:
    """Evaluates the heuristics, trains from the best of them, and writes both to the folder.

    Where the folder has a checkpoint, training goes on from there; the outcome is the same as
    without a stop. The evaluations in `on_progress` include those of the heuristics.

    Args:
        problem: The problem.
        config: What is asked.
        folder: Where to write.
        on_heuristics: Called once the heuristics are evaluated.
        on_progress: Called after each batch.
        start: A finished run, on another evaluator, from whose policy and best placement training
            starts instead.

    Raises:
        KeyboardInterrupt: Stopped by SIGINT or SIGTERM; the batch was finished and saved.
        InfeasibleError: No feasible placement was found.
        PlacerError: The folder cannot be written.
    """
    record = _Record(problem, config, folder, on_progress)

    def evaluated(heuristics: Sequence[HeuristicResult]) -> None:
        record.start(heuristics)
        if on_heuristics is not None:
            on_heuristics(heuristics)

    def search(problem: Problem, **keywords: Any) -> SearchResult:
        record.problem = problem  # with the priorities that it is searched with
        kind: Search = _PolicySearch(record, start) if config.training else _PlainSearch(record)
        if start is not None:
            keywords["start"] = _best_choices(start, problem)
        return kind(problem, **keywords)

    search.__name__ = config.strategy  # solve() names by it who found the best
    try:
        solution = solve(
            problem,
            strategy=search,
            evaluations=config.evaluations,
            seed=config.seed,
            on_heuristics=evaluated,
        )
    finally:
        folder.close()
    folder.write_placement(solution.placement())
    result = TrainingResult(config, solution, record.wall_seconds)
    folder.write_result(result.to_dict() | {"paths": folder.paths()})
    return result


class _Record:
    """Keeps the folder and the listener up to date with the search."""

    def __init__(
        self,
        problem: Problem,
        config: RunConfig,
        folder: RunFolder,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.problem, self.config, self.folder = problem, config, folder
        self.on_progress = on_progress
        self.began = time.perf_counter()

    def start(self, heuristics: Sequence[HeuristicResult]) -> None:
        """Writes what the heuristics gave."""
        self.folder.write_heuristics(heuristics, self.problem.reference_seconds)
        self.best = best_heuristic(heuristics)
        feasible = [row.step_time_seconds for row in heuristics if row.feasible]
        self.wall_seconds = time.perf_counter() - self.began
        self.first_row: dict[str, float] = {
            "step": 0,
            "evaluations": count_evaluations(heuristics),
            "best_step_time_seconds": min(feasible, default=math.inf),
            "mean_step_time_seconds": float(np.mean(feasible)) if feasible else math.nan,
            "num_feasible": len(feasible),
            "wall_seconds": self.wall_seconds,
        }
        if not self.folder.checkpoint.exists():  # its rows stay until it is read
            self.begin([])

    def begin(self, rows: Sequence[dict[str, float]]) -> None:
        """Writes the rows of a search so far."""
        self.folder.start_metrics([self.first_row, *map(self._of_run, rows)])

    def add(self, row: dict[str, float], progress: Progress) -> None:
        """Writes a row of the search and tells the listener."""
        row = self._of_run(row)
        self.folder.append_metrics(row)
        if self.on_progress is not None:
            self.on_progress(
                dataclasses.replace(
                    progress,
                    evaluations=int(row["evaluations"]),
                    best_seconds=row["best_step_time_seconds"],
                )
            )

    def _of_run(self, row: dict[str, float]) -> dict[str, float]:
        """Counts the heuristics in."""
        first = self.first_row
        best = min(row["best_step_time_seconds"], first["best_step_time_seconds"])
        self.wall_seconds = row["wall_seconds"] + first["wall_seconds"]
        return row | {
            "evaluations": row["evaluations"] + first["evaluations"],
            "best_step_time_seconds": best,
            "wall_seconds": self.wall_seconds,
        }

    def write_best(self, choices: NDArray[np.int32] | None, seconds: float) -> None:
        """Writes the best placement so far, be it found by a heuristic or by the search."""
        found_by = self.config.strategy
        if self.best is not None and self.best.step_time_seconds <= seconds:
            choices, seconds = self.best.choices, self.best.step_time_seconds
            found_by = self.best.name
        if choices is not None:
            problem = self.problem
            self.folder.write_placement(
                Placement(
                    problem.graph,
                    problem.cluster,
                    problem.expand(choices),
                    order=problem.order,
                    priorities=problem.priorities,
                    step_time=seconds,
                    found_by=found_by,
                )
            )


def _best_choices(run: RunFolder, problem: Problem) -> NDArray[np.int32]:
    """The choices of the best placement of a run on the same op groups, ``[num_groups]``."""
    placement = Placement.load(run.placement, problem.graph, problem.cluster)
    _, first = np.unique(problem.groups.group_of_op, return_index=True)
    return np.asarray(placement.devices[first])


class _PolicySearch:
    """Trains a policy, from a checkpoint if there is one."""

    def __init__(self, record: _Record, taught_by: RunFolder | None = None) -> None:
        self.record, self.taught_by = record, taught_by

    def __call__(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None = None,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        from policies.reinforce import Trainer

        record, checkpoint = self.record, self.record.folder.checkpoint
        if checkpoint.exists():
            trainer = Trainer.restore(checkpoint, problem)
            if _settings(trainer.config) != record.config.training:
                raise FormatError(
                    f"{record.folder.path / 'config.toml'}: its training settings are not those "
                    "that the checkpoint was made with"
                )
            record.begin([dataclasses.asdict(row) for row in trainer.rows])
        elif self.taught_by is not None and start is not None:
            trainer = Trainer.with_policy_of(
                self.taught_by.checkpoint, problem, evaluations=evaluations, seed=seed, first=start
            )
        else:
            settings: dict[str, Any] = dict(record.config.training)
            try:
                config = TrainingConfig(**settings)
            except TypeError as error:
                path = record.folder.path / "config.toml"
                raise FormatError(f"{path}: training: {error}") from None
            trainer = Trainer(problem, config, evaluations=evaluations, seed=seed, start=start)
        saved_at = time.perf_counter()
        with deferred_interrupts() as stop:
            ended = trainer.done or trainer.out_of_time(seconds)
            while not ended:
                row = trainer.step()
                ended = trainer.done or trainer.out_of_time(seconds)
                progress = trainer.progress()
                record.add(dataclasses.asdict(row), progress)
                overdue = time.perf_counter() - saved_at > SECONDS_BETWEEN_CHECKPOINTS
                if overdue or stop.is_set() or ended:
                    trainer.save(checkpoint)
                    record.write_best(progress.choices, progress.best_seconds)
                    saved_at = time.perf_counter()
                if stop.is_set() and not ended:
                    raise KeyboardInterrupt
        return trainer.result()


class _PlainSearch:
    """Runs a search that keeps no state: resumed, it begins anew, to the same end."""

    def __init__(self, record: _Record) -> None:
        self.record = record

    def __call__(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        seconds: float | None = None,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        search: Search = resolve("strategy", self.record.config.strategy, STRATEGIES)
        began, step = time.perf_counter(), 0

        def add(progress: Progress) -> None:
            nonlocal step
            step += 1
            row = {
                "step": step,
                "evaluations": progress.evaluations,
                "best_step_time_seconds": progress.best_seconds,
                "mean_step_time_seconds": progress.mean_seconds,
                "wall_seconds": time.perf_counter() - began,
            }
            self.record.add(row, progress)
            if stop.is_set():
                self.record.write_best(progress.choices, progress.best_seconds)
                raise KeyboardInterrupt

        with deferred_interrupts() as stop:
            return search(
                problem,
                evaluations=evaluations,
                seed=seed,
                seconds=seconds,
                start=start,
                on_progress=add,
            )


@contextmanager
def deferred_interrupts() -> Iterator[threading.Event]:
    """Gives an event that the first SIGINT or SIGTERM sets; a second one interrupts at once.

    So a batch is never left half done. Outside the main thread, which alone gets signals, the
    event stays unset.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
