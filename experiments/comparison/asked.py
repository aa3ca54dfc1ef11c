"""What is to be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.comparison.tasks import BOUND, Setting, Task
from placer.cluster import Cluster
from placer.errors import UnknownNameError, UsageError
from placer.graph import OpGraph
from placer.heuristics import HEURISTICS
from placer.placement import Order
from placer.problem import MOST_EVALUATIONS
from placer.strategies import STRATEGIES

if TYPE_CHECKING:
    from experiments.comparison.rows import ComparisonRow


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to compare.

    Attributes:
        graphs: Graphs.
        clusters: Clusters; each graph is placed on each.
        methods: Heuristics and strategies, as of :func:`parse_methods`.
        evaluations: Budgets.
        num_seeds: Seeds are 0 to one less.
        orders: Which ready op a device starts first.
        groups: At most so many op groups; None for the grouping's own choice.

    Raises:
        UsageError: Graphs or clusters that differ have one name, by which rows are told apart.
    """

    graphs: Sequence[OpGraph]
    clusters: Sequence[Cluster]
    methods: Sequence[str]
    evaluations: Sequence[int]
    num_seeds: int = 1
    orders: Sequence[Order] = ("fifo",)
    groups: int | None = None

    def __post_init__(self) -> None:
        _check_names("graphs", self.graphs)
        _check_names("clusters", self.clusters)

    @property
    def settings(self) -> list[Setting]:
        """Every graph on every cluster in every order; what is the same but for its name, once."""
        settings: dict[Task, Setting] = {}
        for graph in self.graphs:
            for cluster in self.clusters:
                for order in self.orders:
                    setting = Setting(graph, cluster, order, self.groups)
                    settings.setdefault(setting.task(BOUND), setting)
        return list(settings.values())

    def sort(self, rows: Iterable[ComparisonRow]) -> list[ComparisonRow]:
        """Rows by setting, method, budget and seed, as they were asked for."""
        settings = [(s.graph.name, s.cluster.name, s.order) for s in self.settings]
        return sorted(
            rows,
            key=lambda row: (
                settings.index((row.workload, row.cluster, row.order)),
                self.methods.index(row.method),
                row.evaluations,
                row.seed,
            ),
        )

    @property
    def num_rows(self) -> int:
        """How many rows there will be."""
        return len(self.settings) * len(self.methods) * len(self.evaluations) * self.num_seeds


def _check_names(what: str, given: Sequence[OpGraph] | Sequence[Cluster]) -> None:
    fingerprints: dict[str, str] = {}
    for one in given:
        if fingerprints.setdefault(one.name, one.fingerprint) != one.fingerprint:
            raise UsageError(
                f"two {what} that differ are named {one.name!r}; expected another name for each, "
                "as results go by it"
            )


def parse_methods(text: str) -> tuple[str, ...]:
    """Methods from a list with commas; ``all`` are all heuristics and strategies.

    A name of both, as ``random``, is the strategy: it has the budget that it is compared under.

    Raises:
        UnknownNameError: No such method.
        UsageError: No method.
    """
    known = (*HEURISTICS, *STRATEGIES)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"methods is {text!r}; expected names with commas between, or 'all'")
    if names == ("all",):
        return tuple(dict.fromkeys(known))
    for name in names:
        if name not in known:
            raise UnknownNameError("method", name, {*known, "all"})
    return names


def parse_budgets(text: str) -> tuple[int, ...]:
    """Budgets from a list with commas, least first.

    Raises:
        UsageError: One is no number from 1 to 100 million.
    """
    cells = [cell.strip() for cell in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", c) and 1 <= int(c) <= MOST_EVALUATIONS for c in cells):
        raise UsageError(
            f"evaluations is {text!r}; expected whole numbers from 1 to {MOST_EVALUATIONS:,} with "
            "commas between"
        )
    return tuple(sorted({int(cell) for cell in cells}))


def parse_orders(text: str) -> tuple[Order, ...]:
    """Orders from a list with commas.

    Raises:
        UnknownNameError: No such order.
    """
    known: tuple[Order, ...] = ("fifo", "priority")
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError("order", name, known)
    return tuple(order for order in known if order in names)
