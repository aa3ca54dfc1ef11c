"""The pieces of work of a comparison, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.placement import Order

BOUND = "lower_bound"
"""The method of a task that works out a bound."""

SINGLE = "single_device"
"""The heuristic whose step time others are compared with."""


class Task(msgspec.Struct, frozen=True):
    """A piece of work, by all that its result depends on.

    Attributes:
        graph: Fingerprint of the graph.
        cluster: Fingerprint of the cluster.
        order: Which ready op a device starts first.
        groups: At most so many op groups; None for the grouping's own choice.
        method: A heuristic, a strategy or :data:`BOUND`.
        evaluations: The budget of a strategy, heuristics included; 0 for all else.
        seed: All randomness comes from it.
    """

    graph: str
    cluster: str
    order: Order
    groups: int | None
    method: str
    evaluations: int
    seed: int


class Outcome(msgspec.Struct, frozen=True):
    """What came of a task.

    Attributes:
        task: The task.
        step_time_seconds: Of the best feasible placement that the method itself evaluated, if any;
            for :data:`BOUND` the bound.
        found_by: The candidate of a heuristic that `choices` are, the strategy, or the heuristic
            that a strategy started from if it did no better.
        infeasible_because: Why there is none.
        evaluations: How many placements were evaluated; for a strategy, heuristics included.
        seconds: Wall-clock seconds; for a strategy, without the heuristics.
        choices: Of a heuristic, the best choices, or those that lack the least memory,
            ``[num_groups]``.
        excess_bytes: How much memory these lack.
        curve: Where the best so far changed, and the end: evaluations, seconds, step time.
    """

    task: Task
    step_time_seconds: float | None
    found_by: str | None
    infeasible_because: str | None
    evaluations: int
    seconds: float
    choices: list[int] | None = None
    excess_bytes: float = 0.0
    curve: list[tuple[int, float, float]] = []


@dataclass(frozen=True)
class Setting:
    """A graph on a cluster in an order.

    Attributes:
        graph: The graph.
        cluster: The cluster.
        order: Which ready op a device starts first.
        groups: At most so many op groups; None for the grouping's own choice.
    """

    graph: OpGraph
    cluster: Cluster
    order: Order
    groups: int | None

    def task(self, method: str, seed: int = 0, evaluations: int = 0) -> Task:
        """A task here."""
        ids = self.graph.fingerprint, self.cluster.fingerprint
        return Task(*ids, self.order, self.groups, method, evaluations, seed)
