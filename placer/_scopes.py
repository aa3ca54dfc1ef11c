"""Name scopes: which ops belong together because the model's author named them so."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from placer.graph import OpGraph

_GRADIENT_SCOPES = frozenset({"gradient_tape", "gradients"})
_GRADIENT_SUFFIX = "_grad"
_NUMBERED = re.compile(r"^(.*?)_?\d+$")


def scope_of(op_name: str) -> str:
    """The name scope of an op; that of the differentiated op for the op of a gradient.

    >>> scope_of("gradient_tape/lstm_0/step_3/MatMul")
    'lstm_0/step_3'
    """
    parts = op_name.split("/")[:-1]
    return "/".join(p.removesuffix(_GRADIENT_SUFFIX) for p in parts if p not in _GRADIENT_SCOPES)


def stem_of(scope: str) -> str | None:
    """What numbered siblings share: the scope without the number at its end, if it has one.

    >>> stem_of("lstm_0/step_12")
    'lstm_0/step'
    """
    match = _NUMBERED.match(scope)
    return match[1] if match else None


class ScopeTree:
    """The tree of all name scopes of a graph.

    Attributes:
        names: Name of each scope, ``[num_scopes]``; 0 is the root, ``""``. Parents come first.
        parents: Parent of each scope, -1 for the root, ``[num_scopes]``.
        scope_of_op: Innermost scope of each op, ``[num_ops]``.
    """

    def __init__(self, graph: OpGraph) -> None:
        self.names = [""]
        self.parents = [-1]
        self._index = {"": 0}
        scopes = [self._add(scope_of(name)) for name in graph.op_names]
        self.scope_of_op = np.array(scopes, np.int32)

    def _add(self, name: str) -> int:
        if name not in self._index:
            parent = self._add(name.rpartition("/")[0])
            self._index[name] = len(self.names)
            self.names.append(name)
            self.parents.append(parent)
        return self._index[name]

    def totals(self, per_op: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums a figure of the ops over each scope with all inside it, ``[num_scopes]``."""
        sums = np.bincount(self.scope_of_op, per_op, len(self.names)).astype(float)
        for scope in range(len(self.names) - 1, 0, -1):
            sums[self.parents[scope]] += sums[scope]
        return sums

    def unrolled(self, graph: OpGraph) -> set[int]:
        """Scopes whose numbered children read one same tensor.

        Such children are the time steps of a recurrent layer, which share its weights, or the
        branches of a block, which share its input.
        """
        _, consumers, tensors = graph.edges
        data = tensors >= 0
        pairs = np.unique(np.stack([tensors[data], self.scope_of_op[consumers[data]]], 1), axis=0)
        first_child: dict[tuple[int, int, str], int] = {}
        found: set[int] = set()
        seen: set[tuple[int, int]] = set()
        for tensor, scope in pairs.tolist():
            while scope > 0 and (tensor, scope) not in seen:
                seen.add((tensor, scope))
                stem, parent = stem_of(self.names[scope]), self.parents[scope]
                if stem and first_child.setdefault((tensor, parent, stem), scope) != scope:
                    found.add(parent)
                scope = parent
        return found

    def cells(self, light: NDArray[np.bool_], never: set[int]) -> NDArray[np.int32]:
        """The outermost light scope around each op, -1 if there is none, ``[num_ops]``.

        Args:
            light: Whether each scope is light enough to be one cell, ``[num_scopes]``.
            never: Scopes that are no cell, nor is any scope around them.
        """
        excluded = set(never)
        for scope in range(len(self.names) - 1, 0, -1):
            if scope in excluded:
                excluded.add(self.parents[scope])
        cell = np.full(len(self.names), -1, np.int32)
        for scope in range(1, len(self.names)):
            outer = cell[self.parents[scope]]
            if outer >= 0:
                cell[scope] = outer
            elif light[scope] and scope not in excluded:
                cell[scope] = scope
        return cell[self.scope_of_op]


def common_scope(scopes: Sequence[str], weights: Sequence[float]) -> str:
    """The innermost scope that holds at least 80% of the weight of all that have a scope."""
    total = sum(weight for scope, weight in zip(scopes, weights, strict=True) if scope)
    sums: dict[str, float] = {}
    for scope, weight in zip(scopes, weights, strict=True):
        while scope:
            sums[scope] = sums.get(scope, 0.0) + weight
            scope = scope.rpartition("/")[0]
    holding = [scope for scope, weight in sums.items() if weight >= 0.8 * total]
    return max(holding, key=lambda scope: (scope.count("/"), scope), default="")


def shared_scope(op_names: Iterable[str]) -> str:
    """The innermost scope that all ops are in.

    >>> shared_scope(["lstm/step_3/mul", "gradient_tape/lstm/step_3/cell/add"])
    'lstm/step_3'
    """
    paths = [scope_of(name).split("/") for name in op_names]
    parts = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "/".join(part[0] for part in parts)
