"""Runs of searches that begin at the same heuristic, kept in a folder so that none is run twice."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from experiments import terminal
from experiments.comparison.workers import FailedError, Workers
from experiments.tables import format_seconds
from placer import files
from placer.api import best_heuristic
from placer.cluster import Cluster
from placer.errors import InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.heuristics import evaluate_heuristics, with_order_of
from placer.placement import Order
from placer.problem import Problem, SearchResult
from placer.strategies import STRATEGIES, resolve
from policies.config import MODERN, TrainingConfig

T = TypeVar("T")
R = TypeVar("R")

ZERO_SHOT = "zero_shot"
"""Places by the bundled policy without training; it runs no heuristics."""
NO_MOVES = "no moves, from nothing"
"""The network of the bundled policy, learning from its samples and nothing else."""
PRETRAINED_NO_MOVES = "pretrained, no moves"
"""The bundled policy, trained on by its samples, without moves."""
SAMPLES_ALONE: Mapping[str, Any] = {"move_share": 0.0, "batch_size": 16}
"""How these two train; in batches of this size, presets without moves do."""
_WITH_POLICY = ZERO_SHOT, PRETRAINED_NO_MOVES, "pretrained"
_WITHOUT_HEURISTICS = ZERO_SHOT, NO_MOVES, PRETRAINED_NO_MOVES


class Cell(NamedTuple):
    """What is searched: a graph on a cluster in an order, by their names."""

    workload: str
    cluster: str
    order: Order

    def __str__(self) -> str:
        return f"{self.workload} on {self.cluster}, {self.order}"


@dataclass(frozen=True)
class Subject:
    """Who searches.

    Attributes:
        name: What to call it; without settings, the strategy of this name.
        config: How it trains; None if it does not.
    """

    name: str
    config: TrainingConfig | None = None

    def run(self, cell: Cell, evaluations: int, seed: int) -> Run:
        """A run of it."""
        training = dataclasses.asdict(self.config) if self.config else {}
        training.pop("name", None)
        return Run(*cell, self.name, evaluations, seed, training)


class Run(msgspec.Struct, frozen=True):
    """A search, by all that its result depends on but the program itself.

    Attributes:
        workload: Name or file of the graph.
        cluster: Name or file of the cluster.
        order: Which ready op a device starts first.
        subject: Who searches.
        evaluations: The budget, heuristics included.
        seed: All randomness comes from it.
        training: How a policy trains: settings by name; empty if none does.
    """

    workload: str
    cluster: str
    order: Order
    subject: str
    evaluations: int
    seed: int
    training: dict[str, Any] = {}

    @property
    def cell(self) -> Cell:
        """What is searched."""
        return Cell(self.workload, self.cluster, self.order)

    @property
    def key(self) -> bytes:
        """Tells it from other runs. A name given to settings does not count, but they do."""
        named = msgspec.structs.replace(self, subject="") if self.training else self
        return msgspec.json.encode(named, order="sorted")


class Start(msgspec.Struct, frozen=True):
    """Where all subjects begin: at the best heuristic, as in :func:`placer.api.solve`.

    Attributes:
        workload: Name or file of the graph.
        cluster: Name or file of the cluster.
        order: Which ready op a device starts first.
        seed: All randomness comes from it.
        found_by: The heuristic.
        step_time_seconds: Its step time.
        choices: Its choices, ``[num_groups]``.
        evaluations: How many placements all heuristics together evaluated.
        seconds: Wall-clock seconds that all of them took.
    """

    workload: str
    cluster: str
    order: Order
    seed: int
    found_by: str
    step_time_seconds: float
    choices: list[int]
    evaluations: int
    seconds: float


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run.

    Attributes:
        run: The run.
        step_time_seconds: The best that the subject itself evaluated; None if none was feasible.
        curve: Where its best so far changed: its evaluations until then, without the heuristics',
            and the step time.
        heuristics: How many of the evaluations are the heuristics'.
        seconds: Wall-clock seconds, without the heuristics.
        evaluation_seconds: Those of them spent in the evaluator; None if no policy was trained.
        load_average: Of the machine, over the minute before the end.
    """

    run: Run
    step_time_seconds: float | None
    curve: list[tuple[int, float]]
    heuristics: int
    seconds: float
    evaluation_seconds: float | None
    load_average: float

    def evaluations_until(self, step_time_seconds: float) -> float:
        """Evaluations of the subject itself until it was as fast; infinite if it never was."""
        for evaluations, seconds in self.curve:
            if seconds <= step_time_seconds:
                return evaluations
        return np.inf


class Results:
    """What was run: JSON lines in a folder, of which one counts once it is complete.

    Args:
        folder: The folder.
        name: Name of the file with the outcomes, without suffix.

    Raises:
        FormatError: A line of a file is none of these, and not one that was cut off.
    """

    def __init__(self, folder: Path, name: str = "runs") -> None:
        self._starts_file, self._runs_file = folder / "starts.jsonl", folder / f"{name}.jsonl"
        self._starts: dict[tuple[Cell, int], Start] = {}
        self._outcomes: dict[bytes, Outcome] = {}
        for start in files.read_json_lines(self._starts_file, Start):
            self._starts[Cell(start.workload, start.cluster, start.order), start.seed] = start
        for outcome in files.read_json_lines(self._runs_file, Outcome):
            self._outcomes[outcome.run.key] = outcome

    def __getitem__(self, run: Run) -> Outcome:
        return self._outcomes[run.key]

    def start(self, run: Run) -> Start:
        """Where a run began."""
        return self._starts[run.cell, run.seed]

    def finish(self, runs: Iterable[Run], jobs: int = 1) -> list[str]:
        """Runs what is missing, and says how each went.

        Args:
            runs: The runs; those that are equal are run once.
            jobs: How many processes; with one, all is run in this process.

        Returns:
            What failed, and why; that is not kept, and is run again the next time.
        """
        missing = {run.key: run for run in runs if run.key not in self._outcomes}
        places = dict.fromkeys((run.cell, run.seed) for run in missing.values())
        failures = []
        for place, start in _map(find_start, [p for p in places if p not in self._starts], jobs):
            if isinstance(start, FailedError):
                failures.append(f"heuristics, {place[0]}, seed {place[1]}: {start}")
                continue
            files.append_json_line(self._starts_file, start)
            self._starts[place] = start
        pieces = [
            (run, self._starts[run.cell, run.seed])
            for run in missing.values()
            if (run.cell, run.seed) in self._starts
        ]
        for number, (piece, outcome) in enumerate(_map(perform, pieces, jobs), start=1):
            run = piece[0]
            what = f"{run.cell}: {run.subject}, {run.evaluations:,} evaluations, seed {run.seed}"
            if isinstance(outcome, FailedError):
                failures.append(f"{what}: {outcome}")
                continue
            files.append_json_line(self._runs_file, outcome)
            self._outcomes[run.key] = outcome
            found = format_seconds(outcome.step_time_seconds or np.inf)
            took = format_seconds(outcome.seconds)
            print(f"{number} of {len(pieces)}: {what}: {found}, took {took}", flush=True)
        return failures


def _map(
    work: Callable[[T], R], pieces: Sequence[T], jobs: int
) -> Iterator[tuple[T, R | FailedError]]:
    with Workers(work, jobs) as workers:
        yield from workers.map(pieces)


def find_start(place: tuple[Cell, int]) -> Start:
    """The best heuristic of a cell with a seed.

    Raises:
        InfeasibleError: None is feasible.
    """
    cell, seed = place
    problem = _problem(cell)
    began = time.perf_counter()
    # the stream that placer.api.solve gives the heuristics
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    rows = evaluate_heuristics(problem, rng)
    best = best_heuristic(rows)
    if best is None or best.choices is None:
        raise InfeasibleError(f"{cell}: no heuristic is feasible")
    return Start(
        *cell,
        seed,
        best.name,
        best.step_time_seconds,
        best.choices.tolist(),
        sum(row.choices is not None for row in rows),
        time.perf_counter() - began,
    )


def perform(piece: tuple[Run, Start]) -> Outcome:
    """Does a run from a start.

    Raises:
        UsageError: The heuristics took all of the budget.
    """
    run, start = piece
    heuristics = 0 if run.subject in _WITHOUT_HEURISTICS else start.evaluations
    left = run.evaluations - heuristics
    if left < 1:
        raise UsageError(f"the heuristics take {start.evaluations} evaluations; expected more")
    problem = with_order_of(start.found_by, _problem(run.cell))
    choices = np.array(start.choices, np.int32)
    if run.subject in _WITH_POLICY or run.training:
        terminal.load_tensorflow()
    began = time.perf_counter()
    found: SearchResult | None = None
    evaluation_seconds: float | None = None
    try:
        if run.training:
            from policies.reinforce import Trainer

            config = TrainingConfig(name=run.subject, **run.training)
            trainer = Trainer(problem, config, evaluations=left, seed=run.seed, start=choices)
            while not trainer.done:
                evaluation_seconds = trainer.step().wall_evaluation_seconds
            found = trainer.result()
        elif run.subject == ZERO_SHOT:
            from policies.pretrained import bundled

            found = bundled().search(problem, evaluations=left, seed=run.seed)
        elif run.subject == PRETRAINED_NO_MOVES:
            from policies.pretrained import bundled

            config = dataclasses.replace(MODERN, **SAMPLES_ALONE)
            found = bundled().fine_tune(problem, evaluations=left, seed=run.seed, config=config)
        else:
            search = resolve("strategy", run.subject, STRATEGIES)
            found = search(problem, evaluations=left, seed=run.seed, start=choices)
    except InfeasibleError:
        pass  # of all that it evaluated, nothing was feasible
    return Outcome(
        run,
        found.step_time_seconds if found else None,
        _curve(found) if found else [],
        heuristics,
        time.perf_counter() - began,
        evaluation_seconds,
        os.getloadavg()[0],
    )


def _curve(found: SearchResult) -> list[tuple[int, float]]:
    best = found.best_so_far
    changes = np.flatnonzero(best != np.concatenate([[np.inf], best[:-1]])).tolist()
    return [(i + 1, float(best[i])) for i in changes]


@functools.lru_cache(maxsize=1)
def _problem(cell: Cell) -> Problem:
    return Problem.build(OpGraph.load(cell.workload), Cluster.load(cell.cluster), order=cell.order)
