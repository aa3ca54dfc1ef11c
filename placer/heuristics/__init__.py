"""Heuristics: placements without a search.

Each is a function of a :class:`placer.problem.Problem` and a generator to candidate choices
``[num_candidates, num_groups]``. They see the graph and the cluster, never the evaluator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from placer.errors import PlacerError
from placer.problem import Problem
from placer.strategies import resolve

HEURISTICS: Mapping[str, str] = MappingProxyType(
    {
        "single_device": "placer.heuristics.single_device:single_device",
        "random": "placer.heuristics.random:random",
        "round_robin": "placer.heuristics.round_robin:round_robin",
        "expert": "placer.heuristics.expert:expert",
        "metis": "placer.heuristics.metis:metis",
        "heft": "placer.heuristics.heft:heft",
        "topological_blocks": "placer.heuristics.topological_blocks:topological_blocks",
        "min_cut": "placer.heuristics.metis:min_cut",
        "peft": "placer.heuristics.peft:peft",
        "critical_path": "placer.heuristics.critical_path:critical_path",
        "m_topo": "placer.heuristics.m_topo:m_topo",
        "m_etf": "placer.heuristics.m_etf:m_etf",
        "m_sct": "placer.heuristics.m_sct:m_sct",
    }
)
"""Heuristics by name, each ``"module:attribute"``."""

ORDERS: Mapping[str, str] = MappingProxyType(
    {
        "heft": "placer.heuristics.heft:order",
        "peft": "placer.heuristics.peft:order",
    }
)
"""Heuristics with priorities of their own, each ``"module:attribute"``.

A function of a :class:`placer.problem.Problem` to a figure per op, highest first, ``[num_ops]``.
"""

OWN_ORDER = ":own_order"
"""Ends the name of a row that was evaluated with priorities of the heuristic's own."""


@dataclass(frozen=True, eq=False)
class HeuristicResult:
    """One candidate of a heuristic, evaluated.

    Attributes:
        name: The heuristic; ``"single_device:gpu:0"`` for the one of a device.
        choices: Device per op group, ``[num_groups]``, or None if it has none for this problem.
        step_time_seconds: Its step time, infinite if infeasible.
        feasible: Whether it can run.
        reason: Why not, if it cannot.
        excess_bytes: How much more memory than there is it needs, summed over the devices.
        priorities: What it was evaluated with, ``[num_ops]``; None for those of the problem.
    """

    name: str
    choices: NDArray[np.int32] | None
    step_time_seconds: float
    feasible: bool
    reason: str | None
    excess_bytes: float = 0.0
    priorities: NDArray[np.float64] | None = None


def evaluate_heuristics(
    problem: Problem, rng: np.random.Generator, names: Iterable[str] | None = None
) -> list[HeuristicResult]:
    """Evaluates the candidates of heuristics, a row for each, in the order of `names`.

    Args:
        problem: The problem.
        rng: Randomness; each heuristic has its own stream of it, whichever others are asked for.
        names: Which heuristics; None for all.

    Returns:
        One row per candidate; one row that says why for a heuristic with none for this problem.
        With order ``"priority"`` there is a second row, ``"heft:own_order"``, for one with
        priorities of its own.

    Raises:
        UnknownNameError: No heuristic has one of the names.
    """
    asked = list(HEURISTICS if names is None else names)
    heuristics = {name: resolve("heuristic", name, HEURISTICS) for name in asked}
    streams = dict(zip(HEURISTICS, rng.spawn(len(HEURISTICS)), strict=True))
    rows: list[HeuristicResult] = []
    for name in asked:
        try:
            candidates = heuristics[name](problem, streams[name])
        except PlacerError as error:
            rows.append(HeuristicResult(name, None, np.inf, False, str(error)))
            continue
        labels = [name]
        if name == "single_device":
            labels = [f"{name}:{device}" for device in problem.cluster.device_names]
        rows += _evaluate(problem, labels, candidates)
        if problem.takes_priorities and name in ORDERS:
            own_order = name + OWN_ORDER
            rows += _evaluate(with_order_of(own_order, problem), [own_order], candidates)
    return rows


def with_order_of(row: str, problem: Problem) -> Problem:
    """The problem with the priorities that a row of this name is evaluated with."""
    if not row.endswith(OWN_ORDER):
        return problem
    return problem.with_priorities(resolve("order", row.removesuffix(OWN_ORDER), ORDERS)(problem))


def _evaluate(
    problem: Problem, labels: list[str], candidates: NDArray[np.int32]
) -> list[HeuristicResult]:
    """A row for each candidate, by its label."""
    evaluations = problem.evaluate(candidates)
    excess = evaluations.excess_bytes
    return [
        HeuristicResult(
            label,
            candidates[row],
            float(evaluations.step_time_seconds[row]),
            bool(evaluations.feasible[row]),
            evaluations.reasons[row],
            0.0 if excess is None else float(excess[row]),
            problem.priorities,
        )
        for row, label in enumerate(labels)
    ]
