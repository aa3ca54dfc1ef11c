"""Training with a record on disk that survives being stopped."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.events import Histograms
from experiments.measuring import MeasuringConfig
from experiments.record import Record, count_evaluations
from experiments.run import HeuristicRow, RunConfig, RunFolder, RunResult
from placer import files
from placer.api import Solution, solve
from placer.errors import FormatError, InfeasibleError, UnknownNameError, UsageError
from placer.heuristics import HeuristicResult
from placer.placement import Placement
from placer.problem import Problem, Progress, Search, SearchResult, check_budget
from placer.strategies import STRATEGIES, resolve
from policies.config import PRESETS, TrainingConfig

if TYPE_CHECKING:
    from policies.metrics import Batch
    from policies.reinforce import Trainer

SECONDS_BETWEEN_CHECKPOINTS = 10.0


MEASURED_BATCH_SIZE = 16
"""Of training on measured step times: what is measured between two checkpoints takes a while."""

_NETWORK = "network", "hidden"
"""The settings of training that a policy brings with it."""


def start_from(start: RunFolder, config: RunConfig) -> RunConfig:
    """Checks that a run may start from another one.

    Returns:
        What is asked, with the network of that one, which may have begun with a pretrained policy.

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
    network = {name: began.training[name] for name in _NETWORK if name in began.training}
    config = msgspec.structs.replace(config, training=config.training | network)
    if _settings_of_policy(began) != _settings_of_policy(config):  # training goes on with it
        raise UsageError(
            f"{start.path}: a run of {began.strategy}; {config.strategy} cannot start from it, as "
            "it trains with other settings"
        )
    return config


def _settings_of_policy(config: RunConfig) -> dict[str, Any]:
    """The settings of training, but for the batch size, which differs where steps are measured."""
    return {name: value for name, value in config.training.items() if name != "batch_size"}


@dataclass(frozen=True)
class TrainingResult:
    """What came out of a run.

    Attributes:
        solution: What was tried, and the best of it.
        figures: What of it is written down.
    """

    solution: Solution
    figures: RunResult


def _figures(record: Record, solution: Solution) -> RunResult:
    config, folder = record.config, record.folder
    best, found = solution.step_time_seconds, solution.search
    no_budget = count_evaluations(solution.heuristics) >= config.evaluations
    reason = "the budget was spent" if no_budget else "no sample was feasible"
    heuristics = [
        HeuristicRow(
            name=row.name,
            step_time_seconds=float(row.step_time_seconds) if row.feasible else None,
            feasible=row.feasible,
            infeasible_because=row.reason,
        )
        for row in solution.heuristics
    ]
    return RunResult(
        workload=config.graph,
        cluster=config.cluster,
        strategy=config.strategy,
        order=config.order,
        seed=config.seed,
        best_step_time_seconds=float(best),
        found_by=solution.found_by,
        learned_step_time_seconds=float(found.step_time_seconds) if found else None,
        nothing_learned_because=None if found else reason,
        speedup_over={
            row.name: None if row.step_time_seconds is None else row.step_time_seconds / best
            for row in heuristics
        },
        heuristics=heuristics,
        evaluations=solution.evaluations,
        seconds=record.wall_seconds,
        ended_by=record.ended_by or "search",
        paths=folder.paths(),
    )


def new_config(
    problem: Problem,
    *,
    strategy: str,
    evaluations: int,
    seed: int,
    num_groups: int | None = None,
    seconds: float | None = None,
    plateau: int | None = None,
    measuring: MeasuringConfig | None = None,
    pretrained: Path | None = None,
) -> RunConfig:
    """What a new run on a problem is asked, with the settings of its strategy.

    Raises:
        UnknownNameError: No such strategy.
        UsageError: A budget or seed that no search takes, seconds that are no number above 0, a
            plateau below 1, or a pretrained policy for a strategy that trains none.
        FormatError: The file of the pretrained policy is none.
    """
    check_budget(evaluations, seed)
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds:g}; expected a number above 0")
    if plateau is not None and plateau < 1:
        raise UsageError(f"plateau is {plateau}; expected at least 1")
    training = training_settings(strategy)
    if measuring is not None and "batch_size" in training:
        training["batch_size"] = MEASURED_BATCH_SIZE
    if pretrained is not None:
        training |= _settings_of(pretrained, strategy)
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
        seconds=seconds,
        plateau=plateau,
        training=training,
        measuring=measuring,
    )


def _settings_of(pretrained: Path, strategy: str) -> dict[str, int | float | str]:
    """The settings of training that a pretrained policy brings with it."""
    if not trains_policy(strategy):
        raise UsageError(f"--from {pretrained}: strategy {strategy!r} trains no policy")
    from policies.pretrained import NETWORK, PretrainedPolicy

    return {"network": NETWORK, "hidden": PretrainedPolicy.load(pretrained).hidden}


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


def trains_policy(strategy: str) -> bool:
    """Whether a strategy trains a policy by one of the presets."""
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
    with files.sole_writer(folder.path):
        folder.tidy()
        record = Record(problem, config, folder, on_progress)

        def evaluated(heuristics: Sequence[HeuristicResult]) -> None:
            record.start(heuristics)
            if on_heuristics is not None:
                on_heuristics(heuristics)

        def search(problem: Problem, **keywords: Any) -> SearchResult:
            record.problem = problem  # with the priorities that it is searched with
            kind = _PolicySearch(record, start) if config.training else _PlainSearch(record)
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
        result = TrainingResult(solution, _figures(record, solution))
        folder.write_result(result.figures)
        return result


def _best_choices(run: RunFolder, problem: Problem) -> NDArray[np.int32]:
    """The choices of the best placement of a run on the same op groups, ``[num_groups]``."""
    placement = Placement.load(run.placement, problem.graph, problem.cluster)
    _, first = np.unique(problem.groups.group_of_op, return_index=True)
    return np.asarray(placement.devices[first])


class _PolicySearch:
    """Trains a policy, from a checkpoint if there is one."""

    def __init__(self, record: Record, taught_by: RunFolder | None = None) -> None:
        self.record, self.taught_by = record, taught_by

    def __call__(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        record, checkpoint = self.record, self.record.folder.checkpoint
        trainer = self._trainer(problem, evaluations, seed, start)
        every = _steps_between_histograms(trainer)
        saved_at = time.perf_counter()
        with deferred_interrupts() as stop:
            ended = bool(trainer.rows) and record.ended_by is not None
            while not ended:
                row = trainer.step()
                progress = trainer.progress()
                is_shown = (row.step - 1) % every == 0
                shown = _histograms(trainer.batch) if trainer.batch and is_shown else None
                record.add(dataclasses.asdict(row), progress, shown)
                ended = record.ended_by is not None
                overdue = time.perf_counter() - saved_at > SECONDS_BETWEEN_CHECKPOINTS
                if overdue or stop.is_set() or ended:
                    record.folder.flush()  # what is before the checkpoint is not written again
                    trainer.save(checkpoint)
                    record.write_best(progress.choices, progress.best_seconds)
                    saved_at = time.perf_counter()
                if stop.is_set() and not ended:
                    raise KeyboardInterrupt
        return trainer.result()

    def _trainer(
        self, problem: Problem, evaluations: int, seed: int, start: NDArray[np.int32] | None
    ) -> Trainer:
        """A trainer that stands where the run does."""
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
            return trainer
        if self.taught_by is not None and start is not None:
            return Trainer.with_policy_of(
                self.taught_by.checkpoint,
                problem,
                evaluations=evaluations,
                seed=seed,
                first=start,
                batch_size=int(record.config.training["batch_size"]),
            )
        settings: dict[str, Any] = dict(record.config.training)
        try:
            config = TrainingConfig(**settings)
        except TypeError as error:
            path = record.folder.path / "config.toml"
            raise FormatError(f"{path}: training: {error}") from None
        from policies.pretrained import NETWORK, PretrainedPolicy

        if config.network == NETWORK:  # as no preset says: the run began with a policy
            pretrained = PretrainedPolicy.load(record.folder.policy)
            return pretrained.trainer(
                problem, config, evaluations=evaluations, seed=seed, start=start
            )
        return Trainer(problem, config, evaluations=evaluations, seed=seed, start=start)


def _steps_between_histograms(trainer: Trainer) -> int:
    """Some fifty batches are shown, and every tenth where there are more than five hundred."""
    num_steps = len(trainer.best_so_far) // trainer.config.batch_size
    return min(max(num_steps // 50, 1), 10)


def _histograms(batch: Batch) -> Histograms:
    """What TensorBoard shows of a batch."""
    return {
        "batch/step_time_seconds": batch.step_time_seconds,
        "batch/advantages": batch.advantages,
        "batch/credits": batch.credits,
        "policy/entropies": batch.entropies,
    }


class _PlainSearch:
    """Runs a search that keeps no state: resumed, it begins anew, to the same end."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(
        self,
        problem: Problem,
        *,
        evaluations: int,
        seed: int,
        start: NDArray[np.int32] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> SearchResult:
        record = self.record
        search: Search = resolve("strategy", record.config.strategy, STRATEGIES)
        rows: list[dict[str, float]] = []
        began = time.perf_counter()

        def add(progress: Progress) -> None:
            row = {
                "step": len(rows) + 1,
                "evaluations": progress.evaluations,
                "best_step_time_seconds": progress.best_seconds,
                "mean_step_time_seconds": progress.mean_seconds,
                "wall_seconds": time.perf_counter() - began,
            }
            rows.append(row)
            record.add(row, progress)
            if stop.is_set():
                record.write_best(progress.choices, progress.best_seconds)
                raise KeyboardInterrupt
            if record.ended_by == "plateau":
                raise _PlateauError(progress)

        with deferred_interrupts() as stop:
            try:
                found = search(
                    problem,
                    evaluations=evaluations,
                    seed=seed,
                    seconds=record.seconds_left,
                    start=start,
                    on_progress=add,
                )
            except _PlateauError as ended:
                return _result_so_far(record.config.strategy, rows, ended.progress)
        record.count_seconds(found.seconds)
        return found


class _PlateauError(Exception):
    """Leaves a search that has not found anything better for long enough."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress


def _result_so_far(
    method: str, rows: Sequence[Mapping[str, float]], progress: Progress
) -> SearchResult:
    """What a search has found, of which the rows are known.

    Raises:
        InfeasibleError: Nothing.
    """
    if progress.choices is None:
        raise InfeasibleError.after(
            progress.evaluations,
            f"none of {progress.evaluations} placements tried by {method} is feasible",
        )
    lengths = np.diff([int(row["evaluations"]) for row in rows], prepend=0)
    return SearchResult(
        method=method,
        choices=progress.choices,
        step_time_seconds=progress.best_seconds,
        evaluations=progress.evaluations,
        seconds=rows[-1]["wall_seconds"],
        best_so_far=np.repeat([row["best_step_time_seconds"] for row in rows], lengths),
        seconds_so_far=np.repeat([row["wall_seconds"] for row in rows], lengths),
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
