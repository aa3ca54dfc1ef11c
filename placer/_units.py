"""Ops joined into units, on which the rules of grouping work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.errors import GraphError
from placer.graph import OpGraph

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

HEAVY_SHARE = 1 / 24
"""Rules that look at work join no two that do work if they have more than this share of it, nor a
light one where those that were joined have more than this, too."""

LIGHT_SHARE = 1 / 640
"""A unit with at most this share of the work and of the bytes is not worth a decision."""

# A nominal accelerator: groups are the same whatever the cluster.
_FLOPS = 1e13
_MEMORY_BANDWIDTH = 7e11
_OP_OVERHEAD_SECONDS = 5e-6
_LEAST_SECONDS = 1e-9


def nominal_seconds(graph: OpGraph) -> Floats:
    """Seconds of each op on a nominal accelerator, ``[num_ops]``, never 0.

    The mean of the seconds that the op gives, else the roofline.
    """
    work = np.maximum(graph.flops / _FLOPS, graph.bytes_accessed / _MEMORY_BANDWIDTH)
    seconds = np.where(work > 0, work + _OP_OVERHEAD_SECONDS, 0.0)
    for op, known in enumerate(graph.seconds):
        if known:
            seconds[op] = sum(known.values()) / len(known)
    return np.maximum(seconds, _LEAST_SECONDS)


def output_bytes(graph: OpGraph) -> Floats:
    """Bytes of all tensors that each op makes, ``[num_ops]``."""
    return np.bincount(graph.tensor_producer, graph.tensor_bytes, graph.num_ops).astype(float)


def least_bytes(graph: OpGraph) -> float:
    """What a tensor of no bytes and a control edge count: a byte, or as little as any tensor."""
    return float(graph.tensor_bytes[graph.tensor_bytes > 0].min(initial=1.0))


class Units:
    """Disjoint sets of ops, each known by its root: its first op in the user's order.

    Attributes:
        graph: The graph.
        op_work: Nominal seconds of each op, ``[num_ops]``.
        op_bytes: Bytes of the variables and outputs of each op, ``[num_ops]``.
        work: Share of all work, right at roots, ``[num_ops]``.
        bytes: Share of all bytes, right at roots, ``[num_ops]``.
        kinds: Device kinds that can run the unit, as bits, right at roots, ``[num_ops]``.
    """

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.op_work = nominal_seconds(graph)
        self.op_bytes = graph.parameter_bytes + output_bytes(graph)
        self.work: list[float] = (self.op_work / self.op_work.sum()).tolist()
        self.bytes: list[float] = (self.op_bytes / max(self.op_bytes.sum(), 1.0)).tolist()
        self.kinds = _kind_bits(graph)
        self._light = [0.0] * graph.num_ops  # work of light units that were joined, right at roots
        self._parents = list(range(graph.num_ops))

    def root(self, op: int) -> int:
        """The root of the unit of an op."""
        parents = self._parents
        while parents[op] != op:
            parents[op] = parents[parents[op]]
            op = parents[op]
        return op

    def join(self, first: int, second: int) -> None:
        """Makes one unit of those of two ops, whatever it costs."""
        low, high = sorted((self.root(first), self.root(second)))
        if low == high:
            return
        self._parents[high] = low
        self.work[low] += self.work[high]
        self.bytes[low] += self.bytes[high]
        self._light[low] += self._light[high]
        self.kinds[low] &= self.kinds[high]

    def join_if_sound(self, first: int, second: int) -> bool:
        """Joins the units of two ops, unless placing them as one would cost; says if it did.

        It costs if the whole is heavy and both do work, or so do all light units in it together;
        if no device kind can run it; or if a unit that is not light loses a kind by it.
        """
        first, second = self.root(first), self.root(second)
        both = self.kinds[first] & self.kinds[second]
        less, more = sorted((self.work[first], self.work[second]))
        joining = less if less <= LIGHT_SHARE else 0.0
        light = self._light[first] + self._light[second] + joining
        if (
            first == second
            or (less + more > HEAVY_SHARE and (less > LIGHT_SHARE or light > HEAVY_SHARE))
            or both == 0
            or any(self.kinds[u] != both and self.work[u] > LIGHT_SHARE for u in (first, second))
        ):
            return False
        self.join(first, second)
        self._light[self.root(first)] += joining
        return True

    def is_light(self, root: int) -> bool:
        """Whether a unit is not worth a decision of its own."""
        return self.work[root] <= LIGHT_SHARE and self.bytes[root] <= LIGHT_SHARE

    def roots(self) -> list[int]:
        """The roots of all units, ascending."""
        return [op for op, parent in enumerate(self._parents) if op == parent]

    def labels(self) -> Ints:
        """The root of each op's unit, ``[num_ops]``."""
        return np.array([self.root(op) for op in range(self.graph.num_ops)], np.int32)


def label_edges(
    graph: OpGraph, label_of_op: Ints, *, control: bool = True
) -> tuple[Ints, Ints, Floats]:
    """Edges between sets of ops, ``[num_edges]`` each: producer, consumer, weight.

    The weight is the bytes sent, a tensor counted once for each set that reads it, and
    :func:`least_bytes` more per tensor or control edge, so that every edge weighs something.
    They come sorted by producer, then consumer.

    Args:
        graph: The graph.
        label_of_op: The set of each op, less than its number of ops, ``[num_ops]``.
        control: Whether control edges count.
    """
    producers, consumers, tensors = graph.edges
    labels = label_of_op.astype(np.int64)
    sources, targets = labels[producers], labels[consumers]
    kept = (sources != targets) & (control | (tensors >= 0))
    num_slots = graph.num_tensors + 1  # slot 0 is for control edges
    keys = (sources * graph.num_ops + targets) * num_slots + tensors + 1
    pairs, slots = np.divmod(np.unique(keys[kept]), num_slots)
    sizes = np.append(0.0, graph.tensor_bytes)[slots] + least_bytes(graph)
    pairs, inverse = np.unique(pairs, return_inverse=True)
    sources, targets = np.divmod(pairs, graph.num_ops)
    weights = np.bincount(inverse, sizes, len(pairs)).astype(np.float64)
    return sources.astype(np.int32), targets.astype(np.int32), weights


def _kind_bits(graph: OpGraph) -> list[int]:
    """The device kinds that can run each op, as bits.

    There is a bit for CPUs, one for GPUs and one for each further kind that the graph mentions: an
    op for any kind can do more than one for CPUs, even if no op mentions another kind.
    """
    mentioned = [kind for wanted in graph.device_kinds for kind in wanted or ()]
    bits = {kind: 1 << i for i, kind in enumerate(dict.fromkeys(["cpu", "gpu", *mentioned]))}
    everything = sum(bits.values())
    return [
        everything if wanted is None else sum({bits[kind] for kind in wanted})
        for wanted in graph.device_kinds
    ]


def join_colocated(units: Units) -> None:
    """Joins each colocation group.

    Raises:
        GraphError: No device kind can run all of a colocation group.
    """
    graph = units.graph
    first: dict[int, int] = {}
    for op, group in enumerate(graph.colocation_group.tolist()):
        if group < 0:
            continue
        root = units.root(first.setdefault(group, op))
        if not units.kinds[root] & units.kinds[op]:
            raise GraphError(
                f"colocation group {graph.colocation_names[group]!r}: op {graph.op_names[op]!r} "
                f"needs a device of kind {' or '.join(graph.device_kinds[op] or ())}, which "
                "other ops of the group cannot run on"
            )
        units.join(root, op)
