"""How well predicted step times agree with measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.fidelity.placements import KINDS, Candidate
from placer.cluster import Cluster
from placer.errors import PlacerError
from placer.simulator import Simulator
from placer.tf import fit_links

Floats = NDArray[np.float64]
ROUNDS = 2
"""How often all placements are measured: the halves of their repetitions."""

_PARTS = 5


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
        alone: Step times simulated with the links as they were timed alone, ``[n]``.
        predicted: Step times simulated with links that were fitted to other placements, ``[n]``.
        measured: Medians of all steps, ``[n]``.
        halves: Medians of each round, ``[2, n]``.
        num_failed: How many placements failed to run.
        num_busy: In how many of the measurements the machine was too busy to tell.
    """

    numbers: NDArray[np.int64]
    kinds: NDArray[np.str_]
    alone: Floats
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
            "links_timed_alone": {
                "spearman": rank_correlation(self.alone, self.measured),
                "median_error": float(np.median(np.abs(self.alone / self.measured - 1))),
                "median_ratio": float(np.median(self.alone / self.measured)),
            },
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


def compare(
    simulator: Simulator,
    candidates: Sequence[Candidate],
    repetitions: Mapping[tuple[int, int], Repetition],
) -> Comparison:
    """Compares what was predicted with what was measured.

    Raises:
        PlacerError: Fewer than two placements ran.
    """
    ran = [
        index
        for index in range(len(candidates))
        if all(repetitions[number, index].reason is None for number in range(ROUNDS))
    ]
    if len(ran) < 2:
        reasons = dict.fromkeys(row.reason for row in repetitions.values() if row.reason)
        raise PlacerError(f"{len(ran)} placements ran; expected two or more: {'; '.join(reasons)}")
    steps = [[repetitions[number, i].step_seconds for i in ran] for number in range(ROUNDS)]
    devices = np.array([candidates[index].devices for index in ran], np.int32)
    measured = np.array([np.median(np.concatenate(both)) for both in zip(*steps, strict=True)])
    return Comparison(
        np.array(ran),
        np.array([candidates[index].kind for index in ran]),
        np.asarray(simulator.evaluate(devices).step_time_seconds),
        predict(simulator, devices, measured),
        measured,
        np.array([[np.median(times) for times in half] for half in steps]),
        len(candidates) - len(ran),
        sum(row.busy for row in repetitions.values()),
    )


def predict(simulator: Simulator, devices: NDArray[np.int32], measured: Floats) -> Floats:
    """Step times simulated with links fitted to measured ones, each to those of other placements.

    The placements are dealt out into five parts. The step times of a part are predicted with
    links that were fitted to the other four.

    Args:
        simulator: Has the graph, and the cluster with links as they were timed alone.
        devices: Two placements or more, ``[n, num_ops]``.
        measured: Their step times, ``[n]``.

    Returns:
        Predicted step times, ``[n]``.
    """
    part = np.arange(len(devices)) % _PARTS
    predicted = np.empty(len(devices))
    for number in np.unique(part).tolist():
        held_out = part == number
        cluster = fit_links(
            simulator.graph,
            simulator.cluster,
            devices[~held_out],
            measured[~held_out],
            order=simulator.order,
        )
        fitted = Simulator(simulator.graph, cluster, order=simulator.order)
        simulated = fitted.evaluate(devices[held_out])
        predicted[held_out] = simulated.step_time_seconds
    return predicted


def fit_all(
    simulator: Simulator, candidates: Sequence[Candidate], comparison: Comparison
) -> Cluster:
    """The simulator's cluster with links fitted to everything that was measured."""
    devices = np.array([candidates[int(i)].devices for i in comparison.numbers], np.int32)
    return fit_links(
        simulator.graph, simulator.cluster, devices, comparison.measured, order=simulator.order
    )
