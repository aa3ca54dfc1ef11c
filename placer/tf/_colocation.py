"""Which ops must share a device: those of one variable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from placer.graph import split_input
from placer.tf._costs import op_types

_ARITHMETIC = op_types(
    "Abs Add AddV2 Cast Const DivNoNan Exp Identity Maximum Minimum Mul Neg Pow RealDiv "
    "Reciprocal Rsqrt Select SelectV2 Sign Sqrt Square SquaredDifference Sub ZerosLike"
)
READS = op_types("ReadVariableOp ResourceGather ResourceGatherNd VarIsInitializedOp")
"""Types of ops that use a variable but do not write it."""

_OUTSIDE = ""


def resource_handles(nodes: Sequence[Any], graph: Any) -> Mapping[str, Sequence[str]]:
    """The handles behind each op's resource inputs; for a handle, itself."""
    import tensorflow as tf

    def is_resource(tensor: Any) -> bool:
        return bool(tensor.dtype == tf.resource or tensor.dtype._is_ref_dtype)

    found: dict[str, list[str]] = {}
    for node in nodes:
        operation = graph.get_operation_by_name(node.name)
        handles = [h for t in operation.inputs if is_resource(t) for h in found[t.op.name]]
        if not handles and any(map(is_resource, operation.outputs)):
            handles = [node.name]
        if handles:
            found[node.name] = list(dict.fromkeys(handles))
    return found


def colocation_groups(
    nodes: Sequence[Any], resources: Mapping[str, Sequence[str]]
) -> list[str | None]:
    """Groups a variable's handle, its reads and updates, and the arithmetic of its updates.

    The runtime moves an op to the device of the resource that it uses, whatever was asked; so
    those are one group. An update's own arithmetic (``AssignSub(w, Mul(lr, gradient))``) is made of
    element-wise ops in the name scope of the update that nothing else reads: it works in place on
    the variable, so it goes there too. A slot of the optimizer (momentum, Adam's moments) is a
    variable that only updates of one other variable read: it joins that variable.

    Args:
        nodes: The nodes, inputs first.
        resources: For each node that uses resources, the handles of these; a handle uses itself.

    Returns:
        The group of each node: the name of its first handle, or None. ``[num_ops]``
    """
    groups = _Groups()
    for handles in resources.values():
        for handle in handles:
            groups.join(handles[0], handle)
    for node in nodes:
        for named in node.attr["_class"].list.s if "_class" in node.attr else ():
            other = named.decode().removeprefix("loc:@")
            groups.join(_key(node.name, resources), _key(other, resources))
    targets = _targets(nodes, resources)
    read_for: dict[str, set[str]] = defaultdict(set)
    for node in nodes:
        if node.op in READS:
            read_for[resources[node.name][0]] |= targets[node.name]
    _join_slots(groups, read_for)
    for node in nodes:
        roots = {groups.root(t) for t in targets[node.name] if t != _OUTSIDE}
        if node.name not in resources and len(roots) == 1 and _OUTSIDE not in targets[node.name]:
            groups.join(min(roots), node.name)
    return groups.names([node.name for node in nodes], resources)


def _targets(nodes: Sequence[Any], resources: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each node, the resources whose updates it serves, and `_OUTSIDE` if anything else."""
    consumers: dict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for ref in node.input:
            name, port = split_input(ref)
            if port is not None:
                consumers[name].append(node)
    scopes: dict[str, set[str]] = {}
    targets: dict[str, set[str]] = {}
    for node in reversed(nodes):
        served: set[str] = set()
        within: set[str] = set()  # scopes of the updates it serves
        for consumer in consumers[node.name]:
            if _updates(consumer, resources):
                served |= set(resources[consumer.name])
                within.add(_scope(consumer.name))
            elif scopes.get(consumer.name):
                served |= targets[consumer.name]
                within |= scopes[consumer.name]
            else:
                served.add(_OUTSIDE)
        arithmetic = node.op in _ARITHMETIC and all(_is_within(node.name, w) for w in within)
        if arithmetic and served and _OUTSIDE not in served:
            scopes[node.name] = within
        elif node.op not in READS:
            served.add(_OUTSIDE)
        targets[node.name] = served
    return targets


def _updates(node: Any, resources: Mapping[str, Sequence[str]]) -> bool:
    return node.name in resources and node.op not in READS and bool(node.input)


def _scope(name: str) -> str:
    return name.rpartition("/")[0]


def _is_within(name: str, scope: str) -> bool:
    return _scope(name) == scope or (scope != "" and name.startswith(scope + "/"))


def _join_slots(groups: _Groups, read_for: Mapping[str, set[str]]) -> None:
    joined = True
    while joined:
        joined = False
        for handle, served in read_for.items():
            if _OUTSIDE in served:
                continue
            others = {groups.root(s) for s in served} - {groups.root(handle)}
            if len(others) == 1:
                groups.join(others.pop(), handle)
                joined = True


def _key(name: str, resources: Mapping[str, Sequence[str]]) -> str:
    return resources[name][0] if resources.get(name) else name


class _Groups:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        path = []
        while self._parent.get(name, name) != name:
            path.append(name)
            name = self._parent[name]
        self._parent.update(dict.fromkeys(path, name))
        return name

    def join(self, one: str, other: str) -> None:
        self._parent[self.root(other)] = self.root(one)

    def names(self, ops: Sequence[str], resources: Mapping[str, Sequence[str]]) -> list[str | None]:
        """The group of each op, named after its first handle or op; None for an op on its own."""
        roots = [self.root(_key(op, resources)) for op in ops]
        sizes = Counter(roots)
        first: dict[str, str] = {}
        for op, root in zip(ops, roots, strict=True):
            if resources.get(op):
                first.setdefault(root, resources[op][0])
        for op, root in zip(ops, roots, strict=True):
            first.setdefault(root, op)
        return [first[root] if sizes[root] > 1 else None for root in roots]
