"""How well simulated step times agree with measured ones, over many placements.

A folder has what was measured, so that it can go on after a stop and be looked at again:

======================  =========================================================
``config.toml``         what was asked; :class:`FidelityConfig`
``graph.json.gz``       the profiled graph, ``cluster.toml`` the calibrated cluster
``placements.jsonl``    the placements, a :class:`Candidate` a line
``measurements.jsonl``  what was measured, a :class:`Repetition` a line
``misses.json``         what explains the largest misses
``fidelity.json``       the figures; ``.csv`` a row per placement, ``.png`` a picture
======================  =========================================================
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.fidelity_report import draw
from experiments.measuring import MeasuringConfig
from experiments.misses import Miss, explain
from placer import files
from placer._draw import draw_choices
from placer.cluster import Cluster
from placer.errors import PlacerError, UsageError
from placer.graph import OpGraph
from placer.heuristics import evaluate_heuristics
from placer.placement import Placement
from placer.problem import Problem, Progress
from placer.simulator import Simulator
from placer.strategies import STRATEGIES, resolve
from placer.tf import MeasuredEvaluator

Floats = NDArray[np.float64]
KINDS = ("heuristic", "learned", "moved", "random")
LEARNING_EVALUATIONS = 800
_ROUNDS = 2


class FidelityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was asked.

    Attributes:
        placements: How many placements.
        seed: All randomness comes from it.
        misses: How many of the largest misses are explained.
        measuring: Which step is measured, on what and how.
        graph: Fingerprint of the graph that was given; empty where the ops are profiled.
        cluster: Fingerprint of the cluster that was given; empty where the devices are described.
    """

    FORMAT: ClassVar[str] = "placer.fidelity/1"

    format: Literal["placer.fidelity/1"]
    placements: int
    seed: int
    misses: int
    measuring: MeasuringConfig
    graph: str = ""
    cluster: str = ""


class Candidate(msgspec.Struct, frozen=True):
    """A placement to measure and predict.

    Attributes:
        kind: One of :data:`KINDS`.
        devices: Device index of each op, ``[num_ops]``.
    """

    kind: str
    devices: list[int]


class Repetition(msgspec.Struct, frozen=True):
    """What was measured of a placement in one round over all of them.

    Attributes:
        round: Which round.
        placement: Which placement.
        step_seconds: Seconds of each step.
        reason: Why it failed, if it did.
        others_share: The share of the processors that others took, if known.
        busy: Whether that was too much to tell.
    """

    round: int
    placement: int
    step_seconds: tuple[float, ...]
    reason: str | None = None
    others_share: float | None = None
    busy: bool = False


@dataclass(frozen=True)
class Comparison:
    """Predicted and measured step times of the placements that were measured in both rounds.

    Attributes:
        numbers: Number of each placement, ``[n]``.
        kinds: Kind of each, ``[n]``.
        predicted: Simulated step times, ``[n]``.
        measured: Medians of all steps, ``[n]``.
        halves: Medians of each round, ``[2, n]``.
        num_failed: How many placements failed to run.
        num_busy: In how many of the measurements the machine was too busy to tell.
    """

    numbers: NDArray[np.int64]
    kinds: NDArray[np.str_]
    predicted: Floats
    measured: Floats
    halves: Floats
    num_failed: int
    num_busy: int

    @property
    def errors(self) -> Floats:
        """Predicted over measured, less 1, ``[n]``."""
        return np.asarray(self.predicted / self.measured - 1)

    def points(self) -> dict[str, tuple[Floats, Floats]]:
        """Measured and predicted step times of each kind, ``[n]`` each."""
        of_kind = {kind: self.kinds == kind for kind in KINDS}
        return {kind: (self.measured[m], self.predicted[m]) for kind, m in of_kind.items()}

    def figures(self) -> dict[str, Any]:
        """What is reported; nan is None."""
        median = {
            kind: float(np.median(np.abs(self.errors[self.kinds == kind])))
            for kind in KINDS
            if (self.kinds == kind).any()
        }
        return {
            "placements": len(self.measured),
            "failed": self.num_failed,
            "busy_measurements": self.num_busy,
            "spearman": rank_correlation(self.predicted, self.measured),
            "noise_ceiling": rank_correlation(*self.halves),
            "median_error": float(np.median(np.abs(self.errors))),
            "median_error_by_kind": median,
            "median_ratio": float(np.median(self.predicted / self.measured)),
            "spread": float(self.measured.max() / self.measured.min()),
            "least_seconds": float(self.measured.min()),
            "greatest_seconds": float(self.measured.max()),
        }


def rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation of two samples ``[n]``; nan where one is constant.

    Ties have the mean of their ranks, as in Kendall, *Rank Correlation Methods* (1948), chapter 3.
    """
    ranks = np.array([_ranks(first), _ranks(second)])
    if (np.ptp(ranks, axis=1) == 0).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], float)


def choose_placements(problem: Problem, count: int, seed: int) -> list[Candidate]:
    """Placements of all kinds, each once, fewer than `count` where there are no more.

    Those of heuristics; those that REINFORCE on the simulator holds for the best so far on its
    way; of what is left, a third drawn uniformly, and the others from the first two kinds, with a
    share of the op groups that differs from placement to placement moved elsewhere. None that the
    simulator says does not fit: it predicts no step time of those.

    Args:
        problem: The problem, with simulated step times.
        count: How many.
        seed: All randomness comes from it.
    """
    rng = np.random.default_rng(seed)
    heuristics = evaluate_heuristics(problem, rng.spawn(1)[0])
    found: dict[bytes, tuple[str, NDArray[np.int32]]] = {}

    def add(kind: str, choices: NDArray[np.int32]) -> None:
        if len(found) < count and problem.evaluate(choices[None]).feasible[0]:
            found.setdefault(choices.astype(np.int32).tobytes(), (kind, choices))

    for row in heuristics:
        if row.choices is not None:
            add("heuristic", row.choices)
    learned = _learn(problem, seed)
    for choices in learned[:: max(1, len(learned) * 4 // count)]:
        add("learned", choices)
    known = np.array([choices for _, choices in found.values()])
    for _ in range(20 * count):  # small problems have fewer placements than asked for
        if len(found) == count:
            break
        (drawn,) = draw_choices(problem, rng, 1)
        if rng.random() < 1 / 3:
            add("random", drawn)
        else:
            start = known[rng.integers(len(known))]
            moves = rng.random(problem.num_groups) < rng.random() ** 2
            add("moved", np.where(moves, drawn, start).astype(np.int32))
    return [Candidate(kind, problem.expand(c).tolist()) for kind, c in found.values()]


def _learn(problem: Problem, seed: int) -> list[NDArray[np.int32]]:
    """The best choices so far after each batch of REINFORCE, without repetitions."""
    best: dict[bytes, NDArray[np.int32]] = {}

    def note(progress: Progress) -> None:
        if progress.choices is not None:
            best.setdefault(progress.choices.tobytes(), progress.choices)

    search = resolve("strategy", "reinforce", STRATEGIES)
    search(problem, evaluations=LEARNING_EVALUATIONS, seed=seed, on_progress=note)
    return list(best.values())


class FidelityFolder:
    """The folder of a comparison.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, config: FidelityConfig) -> None:
        """Writes what was asked, or checks that what is there was asked the same.

        Raises:
            UsageError: The folder has something else.
        """
        there = self.path / "config.toml"
        if there.is_file():
            began = files.decode_toml(files.read_bytes(there), FidelityConfig, str(there))
            if began != config:
                raise UsageError(f"{there}: was asked otherwise; give another --out")
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"{self.path}: not empty; expected a new folder")
        else:
            files.write_bytes(there, msgspec.toml.encode(config))

    def model(self, make: Callable[[], tuple[OpGraph, Cluster]]) -> tuple[OpGraph, Cluster]:
        """The graph and the cluster that predict, made if they are not there yet."""
        graph_path, cluster_path = self.path / "graph.json.gz", self.path / "cluster.toml"
        if not (graph_path.exists() and cluster_path.exists()):
            graph, cluster = make()
            graph.save(graph_path)
            cluster.save(cluster_path)
        return OpGraph.load(graph_path), Cluster.load(cluster_path)

    def candidates(self, make: Callable[[], list[Candidate]]) -> list[Candidate]:
        """The placements, chosen if they are not there yet."""
        path = self.path / "placements.jsonl"
        if not path.exists():
            files.write_bytes(path, b"".join(msgspec.json.encode(c) + b"\n" for c in make()))
        return files.read_json_lines(path, Candidate)

    def repetitions(self) -> dict[tuple[int, int], Repetition]:
        """What was measured so far, by round and placement."""
        rows = files.read_json_lines(self.path / "measurements.jsonl", Repetition)
        return {(row.round, row.placement): row for row in rows}

    def append(self, row: Repetition) -> None:
        """Adds what was measured.

        Raises:
            PlacerError: The file cannot be written.
        """
        files.append_json_line(self.path / "measurements.jsonl", row)

    def misses(self, make: Callable[[], list[Miss]]) -> list[Miss]:
        """What explains the largest misses, found out if it is not there yet."""
        path = self.path / "misses.json"
        if not path.exists():
            content = msgspec.json.format(msgspec.json.encode(make()), indent=1)
            files.write_bytes(path, content + b"\n")
        return msgspec.json.decode(files.read_bytes(path), type=list[Miss])

    def write(
        self, config: FidelityConfig, comparison: Comparison, misses: list[Miss]
    ) -> dict[str, Any]:
        """Writes the figures, the rows and the picture; returns the figures."""
        result = {
            "workload": config.measuring.workload,
            "measuring": msgspec.to_builtins(config.measuring),
            "seed": config.seed,
            **comparison.figures(),
            "misses": msgspec.to_builtins(misses),
        }
        content = msgspec.json.format(msgspec.json.encode(result), indent=1)  # nan as null
        files.write_bytes(self.path / "fidelity.json", content + b"\n")
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        names = ("predicted", "measured", "first_half", "second_half")
        rows.writerow(("placement", "kind", *(f"{name}_seconds" for name in names)))
        columns = (comparison.predicted, comparison.measured, *comparison.halves)
        rows.writerows(zip(comparison.numbers, comparison.kinds, *columns, strict=True))
        files.write_bytes(self.path / "fidelity.csv", text.getvalue().encode())
        draw(comparison.points(), result, self.path / "fidelity.png")
        return msgspec.json.decode(content, type=dict[str, Any])


def measure_all(
    evaluator: MeasuredEvaluator,
    cluster: Cluster,
    candidates: Sequence[Candidate],
    folder: FidelityFolder,
    seed: int,
    on_measured: Callable[[Repetition], None],
) -> None:
    """Measures what is not measured yet: all placements once, then all again, in other orders.

    What slows the machine for a while so meets each kind alike, and both halves of the
    repetitions of a placement are far apart, each with a session of its own.
    """
    done = folder.repetitions()
    for number in range(_ROUNDS):
        order = np.random.default_rng([seed, number]).permutation(len(candidates))
        for index in order.tolist():
            if (number, index) not in done:
                devices = np.array(candidates[index].devices, np.int32)
                found = evaluator.measure(Placement(evaluator.graph, cluster, devices), again=True)
                row = Repetition(
                    number, index, found.step_seconds, found.reason, found.others_share, found.busy
                )
                folder.append(row)
                on_measured(row)


def compare(
    simulator: Simulator,
    candidates: Sequence[Candidate],
    repetitions: dict[tuple[int, int], Repetition],
) -> Comparison:
    """Compares what was predicted with what was measured.

    Raises:
        PlacerError: Fewer than two placements ran.
    """
    ran = [
        index
        for index in range(len(candidates))
        if all(repetitions[number, index].reason is None for number in range(_ROUNDS))
    ]
    if len(ran) < 2:
        reasons = {row.reason for row in repetitions.values() if row.reason}
        raise PlacerError(f"{len(ran)} placements ran; expected two or more: {'; '.join(reasons)}")
    steps = [[repetitions[number, i].step_seconds for i in ran] for number in range(_ROUNDS)]
    devices = np.array([candidates[index].devices for index in ran], np.int32)
    return Comparison(
        np.array(ran),
        np.array([candidates[index].kind for index in ran]),
        np.asarray(simulator.evaluate(devices).step_time_seconds),
        np.array([np.median(np.concatenate(both)) for both in zip(*steps, strict=True)]),
        np.array([[np.median(times) for times in half] for half in steps]),
        len(candidates) - len(ran),
        sum(row.busy for row in repetitions.values()),
    )


def explain_misses(
    evaluator: MeasuredEvaluator,
    simulator: Simulator,
    candidates: Sequence[Candidate],
    comparison: Comparison,
    count: int,
) -> list[Miss]:
    """Traces a step under the placements with the largest errors and compares it op by op."""
    misses = []
    for place in np.argsort(-np.abs(np.log(comparison.predicted / comparison.measured)))[:count]:
        candidate = candidates[int(comparison.numbers[place])]
        placement = Placement(
            evaluator.graph, evaluator.cluster, np.array(candidate.devices, np.int32)
        )
        found = evaluator.measure(placement, traced=True)
        if found.reason is None:
            schedule = simulator.schedule(placement.devices)
            miss = explain(simulator.graph, schedule, found.trace)
            misses.append(
                msgspec.structs.replace(
                    miss,
                    placement=int(comparison.numbers[place]),
                    kind=candidate.kind,
                    predicted_seconds=float(comparison.predicted[place]),
                    measured_seconds=float(comparison.measured[place]),
                )
            )
    return misses
