"""Op groups: which ops are placed by one decision.

The rules follow section 3.3 of Mirhoseini, Pham et al. (ICML 2017, arXiv 1706.04972), stated so
that they hold for any graph; ``docs/grouping.md`` explains each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placer._coarsen import coarsen
from placer._scopes import ScopeTree, common_scope, scope_of, shared_scope
from placer._units import HEAVY_SHARE, LIGHT_SHARE, Units, join_colocated, label_edges
from placer.errors import UnknownNameError, UsageError
from placer.graph import OpGraph

Ints = NDArray[np.int32]

DEFAULT_NUM_GROUPS = 256
"""The most op groups that `group_ops` makes unless told otherwise."""


@dataclass(frozen=True)
class Rule:
    """What one rule did.

    Attributes:
        because: Why the ops that it joined are together, in words.
        unit_of_op: The unit of each op after the rule, ``[num_ops]``.
    """

    because: str
    unit_of_op: Ints


@dataclass(frozen=True, eq=False)
class OpGroups:
    """Op groups, numbered by their first op in topological order.

    Attributes:
        graph: The graph that is grouped.
        group_of_op: Group of each op, ``[num_ops]``, read-only.
        names: A name for each group, ``[num_groups]``: its name scope, or its only op.
        rules: What each rule did, in order.
    """

    graph: OpGraph
    group_of_op: Ints
    names: tuple[str, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(self.names)

    @functools.cached_property
    def ops_of_group(self) -> tuple[Ints, ...]:
        """Ops of each group in the user's order, ``[num_groups]`` arrays."""
        return tuple(_members(self.group_of_op))

    def explain(self, op: int | str) -> str:
        """Says in words why an op is in its group.

        Args:
            op: Index or name of the op.

        Raises:
            UnknownNameError: No op has the name.
        """
        if isinstance(op, str):
            if op not in self.graph.op_index:
                raise UnknownNameError("op", op, self.graph.op_names)
            op = self.graph.op_index[op]
        group = int(self.group_of_op[op])
        lines = [
            f"op {self.graph.op_names[op]!r} is in op group {group}, {self.names[group]!r}, "
            f"of {_count_ops(len(self.ops_of_group[group]))}"
        ]
        before = 1
        for rule in self.rules:
            unit = np.flatnonzero(rule.unit_of_op == rule.unit_of_op[op])
            if len(unit) > before:
                because = rule.because.format(
                    scope=shared_scope(self.graph.op_names[i] for i in unit),
                    colocation=self._colocation_name(op),
                )
                lines.append(f"- {because}: now {_count_ops(len(unit))}")
            before = len(unit)
        if len(lines) == 1:
            lines.append("- no rule joined it with another op")
        return "\n".join(lines)

    def _colocation_name(self, op: int) -> str:
        group = self.graph.colocation_group[op]
        return self.graph.colocation_names[group] if group >= 0 else ""


def group_ops(graph: OpGraph, num_groups: int | None = None) -> OpGroups:
    """Groups the ops of a graph.

    Colocation groups are never split. Ops join by name scope, units whose tensors all go to one
    other unit join that, light units join their closest neighbour. If more than `num_groups` are
    left, METIS (Karypis and Kumar, SIAM J. Sci. Comput. 1998) joins them with balanced work and
    the heaviest tensors inside.

    Args:
        graph: The graph.
        num_groups: The most groups; None for what the rules give, at most
            `DEFAULT_NUM_GROUPS`.

    Raises:
        UsageError: `num_groups` is less than 1, or less than the classes of device kinds that the
            coarsening is left with.
        GraphError: No device kind can run all of a colocation group.
    """
    if num_groups is not None and not (isinstance(num_groups, int | np.integer) and num_groups > 0):
        raise UsageError(f"num_groups is {num_groups!r}; expected a whole number >= 1")
    units = Units(graph)
    rules = []
    for because, rule in _RULES:
        rule(units)
        rules.append(Rule(because, units.labels()))
    most = num_groups or DEFAULT_NUM_GROUPS
    if len(units.roots()) > most:
        coarsen(units, most)
        because = f"METIS joined units to at most {most}: work balanced, heavy tensors inside"
        rules.append(Rule(because, units.labels()))
    group_of_op = _number_topologically(graph, units.labels())
    return OpGroups(graph, group_of_op, _names(graph, group_of_op, units.op_work), tuple(rules))


def _join_scopes(units: Units) -> None:
    """Joins the ops inside the outermost name scope that is not heavy.

    The paper's rules for the steps of an LSTM and the branches of an Inception block, for any
    graph: a scope around time steps or branches is never joined as a whole.
    """
    graph = units.graph
    tree = ScopeTree(graph)
    work = tree.totals(units.op_work / units.op_work.sum())
    size = tree.totals(units.op_bytes / max(units.op_bytes.sum(), 1.0))
    cells = tree.cells((work <= HEAVY_SHARE) & (size <= HEAVY_SHARE), tree.unrolled(graph))
    first: dict[tuple[int, int], int] = {}
    for op, cell in enumerate(cells.tolist()):
        if cell >= 0 and graph.colocation_group[op] < 0:
            units.join(first.setdefault((cell, units.kinds[op]), op), op)


def _join_consumers(units: Units) -> None:
    """Joins each unit whose tensors are all read by one other unit to that one, where sound.

    Of two units that both do work for the same reader, neither joins it: they can run at the same
    time, as the branches before a concatenation.
    """
    joined = True
    while joined:
        producers, consumers, _ = label_edges(units.graph, units.labels(), control=False)
        works = np.array([work > LIGHT_SHARE for work in units.work])[producers]
        num_consumers = np.bincount(producers, minlength=units.graph.num_ops)
        num_rivals = np.bincount(consumers[works], minlength=units.graph.num_ops)
        joins = (num_consumers[producers] == 1) & (~works | (num_rivals[consumers] == 1))
        joined = False
        for producer, consumer in zip(
            producers[joins].tolist(), consumers[joins].tolist(), strict=True
        ):
            joined |= units.join_if_sound(producer, consumer)


def _join_light(units: Units) -> None:
    """Joins each light unit to the one it shares most bytes with, where sound.

    What joins one unit is light in sum, too, lest light units pile up around a heavy one.
    """
    taken = [0.0] * units.graph.num_ops  # work that joined each unit, right at roots
    joined = True
    while joined:
        producers, consumers, weights = label_edges(units.graph, units.labels())
        ends = np.concatenate([producers, consumers])
        others = np.concatenate([consumers, producers])
        heaviest_first = np.lexsort((others, -np.concatenate([weights, weights]), ends))
        joined = False
        for unit, other in zip(
            ends[heaviest_first].tolist(), others[heaviest_first].tolist(), strict=True
        ):
            if units.root(unit) != unit or not units.is_light(unit):
                continue
            other = units.root(other)
            sum_taken = taken[unit] + taken[other] + units.work[unit]
            if sum_taken <= LIGHT_SHARE and units.join_if_sound(unit, other):
                taken[units.root(unit)] = sum_taken
                joined = True


_RULES: tuple[tuple[str, Callable[[Units], None]], ...] = (
    ("colocation group {colocation!r} must share a device", join_colocated),
    ("name scope {scope!r} is one unit", _join_scopes),
    ("a unit all of whose tensors go to one other unit joins that", _join_consumers),
    ("a light unit joins the one it shares most bytes with", _join_light),
)


def _number_topologically(graph: OpGraph, labels: Ints) -> Ints:
    """Renumbers labels by first op in topological order, ``[num_ops]``, read-only."""
    _, first, inverse = np.unique(
        labels[graph.topological_order], return_index=True, return_inverse=True
    )
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    group_of_op = np.empty(graph.num_ops, np.int32)
    group_of_op[graph.topological_order] = rank[inverse]
    group_of_op.setflags(write=False)
    return group_of_op


def _names(graph: OpGraph, group_of_op: Ints, op_work: NDArray[np.float64]) -> tuple[str, ...]:
    """A name per group: its only op or the scope of most work, numbered where not unique."""
    scopes = [
        scope_of(name) if group < 0 else graph.colocation_names[group]
        for name, group in zip(graph.op_names, graph.colocation_group.tolist(), strict=True)
    ]
    names: dict[str, None] = {}
    for ops in _members(group_of_op):
        heaviest = graph.op_names[ops[op_work[ops].argmax()]]
        scope = common_scope([scopes[op] for op in ops], op_work[ops].tolist())
        name = heaviest if len(ops) == 1 else scope or f"around {heaviest}"
        number = 1
        while (unique := name if number == 1 else f"{name} ({number})") in names:
            number += 1
        names[unique] = None
    return tuple(names)


def _members(group_of_op: Ints) -> list[Ints]:
    """The ops of each group in the user's order, ``[num_groups]`` arrays."""
    order = np.argsort(group_of_op, kind="stable").astype(np.int32)
    return np.split(order, np.cumsum(np.bincount(group_of_op))[:-1])


def _count_ops(count: int) -> str:
    return "1 op" if count == 1 else f"{count:,} ops"
