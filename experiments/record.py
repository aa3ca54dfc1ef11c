"""The record of a run while it is running: what is on disk, what is shown, when it has to end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.events import Histograms, MetricsRow
from experiments.run import EndedBy, RunConfig, RunFolder
from placer.api import best_heuristic
from placer.heuristics import HeuristicResult
from placer.placement import Placement
from placer.problem import Problem, Progress


def count_evaluations(heuristics: Sequence[HeuristicResult]) -> int:
    """How many placements the heuristics evaluated."""
    return sum(row.choices is not None for row in heuristics)


class Record:
    """Keeps the folder and the listener up to date with a run.

    Args:
        problem: The problem.
        config: What is asked.
        folder: Where to write.
        on_progress: Called for each row.
    """

    def __init__(
        self,
        problem: Problem,
        config: RunConfig,
        folder: RunFolder,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.problem, self.config, self.folder = problem, config, folder
        self._on_progress = on_progress
        self._began = time.perf_counter()

    def start(self, heuristics: Sequence[HeuristicResult]) -> None:
        """Writes what the heuristics gave."""
        self.folder.write_heuristics(heuristics, self.problem.reference_seconds)
        self._best = best_heuristic(heuristics)
        feasible = [row.step_time_seconds for row in heuristics if row.feasible]
        seconds = time.perf_counter() - self._began
        goes_on = self.folder.checkpoint.exists()
        if goes_on:  # what the heuristics took in the first session counts
            seconds = float(self.folder.read_metrics()["wall_seconds"][:1].sum())
        self._first_row: dict[str, float] = {
            "step": 0,
            "evaluations": count_evaluations(heuristics),
            "best_step_time_seconds": min(feasible, default=math.inf),
            "mean_step_time_seconds": float(np.mean(feasible)) if feasible else math.nan,
            "num_feasible": len(feasible),
            "wall_seconds": seconds,
        }
        self._forget()
        if not goes_on:  # its rows stay until the checkpoint is read
            self.begin([])

    def begin(self, rows: Sequence[MetricsRow]) -> None:
        """Writes the rows of a search so far."""
        self._forget()
        self.folder.start_metrics([self._first_row, *map(self._of_run, rows)])

    def add(
        self, row: MetricsRow, progress: Progress, histograms: Histograms | None = None
    ) -> None:
        """Writes a row of the search and tells the listener."""
        row = self._of_run(row)
        self.folder.append_metrics(row, histograms)
        if self._on_progress is not None:
            self._on_progress(
                dataclasses.replace(
                    progress,
                    evaluations=self._evaluations,
                    best_seconds=row["best_step_time_seconds"],
                )
            )

    def _forget(self) -> None:
        """Stands where the heuristics ended."""
        self.wall_seconds = self._first_row["wall_seconds"]
        self._evaluations = self._improved_at = int(self._first_row["evaluations"])
        self._best_found = math.inf

    def _of_run(self, row: MetricsRow) -> MetricsRow:
        """Takes a row of the search in; returns it with the heuristics counted in."""
        first = self._first_row
        self.count_seconds(row["wall_seconds"])
        self._evaluations = int(row["evaluations"] + first["evaluations"])
        if row["best_step_time_seconds"] < self._best_found:
            self._best_found = row["best_step_time_seconds"]
            self._improved_at = self._evaluations
        return {
            **row,
            "evaluations": self._evaluations,
            "best_step_time_seconds": min(self._best_found, first["best_step_time_seconds"]),
            "wall_seconds": self.wall_seconds,
        }

    def count_seconds(self, seconds: float) -> None:
        """Takes in how long the search took so far."""
        self.wall_seconds = self._first_row["wall_seconds"] + seconds

    @property
    def seconds_left(self) -> float | None:
        """What is left of the budget of seconds, if there is one; at least next to nothing."""
        seconds = self.config.seconds
        return None if seconds is None else max(seconds - self.wall_seconds, 1e-9)

    @property
    def ended_by(self) -> EndedBy | None:
        """What ends the run after the last row, if anything does.

        It follows from the rows alone, so that a run that ended is at its end when it is resumed.
        """
        config = self.config
        if self._evaluations >= config.evaluations:
            return "evaluations"
        if config.plateau is not None and self._evaluations - self._improved_at >= config.plateau:
            return "plateau"
        if config.seconds is not None and self.wall_seconds >= config.seconds:
            return "seconds"
        return None

    def write_best(self, choices: NDArray[np.int32] | None, seconds: float) -> None:
        """Writes the best placement so far, be it found by a heuristic or by the search."""
        found_by = self.config.strategy
        if self._best is not None and self._best.step_time_seconds <= seconds:
            choices, seconds = self._best.choices, self._best.step_time_seconds
            found_by = self._best.name
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
