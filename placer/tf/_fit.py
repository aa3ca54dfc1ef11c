"""Fits what a device reaches of its peaks to known seconds of ops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from placer.cluster import Device, Efficiency
from placer.costs import family_of, roofline
from placer.errors import UsageError
from placer.graph import OpGraph

Floats = NDArray[np.float64]

LEAST_OPS = 5
"""Op types with fewer ops share what is found for their family."""

_LEAST_FRACTION, _GREATEST_FRACTION = 1e-4, 10.0
_NUM_OVERHEADS = 100  # that are tried
_NUM_ROUNDS = 20


@dataclass(frozen=True)
class Fit:
    """A device whose figures fit the known seconds of ops, and how well.

    Attributes:
        device: The device.
        num_ops: How many ops it was fitted to.
        median_error: Median of ``|predicted / known - 1|`` over these ops.
        total_error: ``predicted / known - 1`` of the sum of their seconds.
    """

    device: Device
    num_ops: int
    median_error: float
    total_error: float

    def __str__(self) -> str:
        return (
            f"{self.device.name}: {self.num_ops} ops, median error {self.median_error:.1%}, "
            f"of their sum {self.total_error:+.1%}"
        )


def fit_device(graphs: Sequence[OpGraph], device: Device) -> Fit:
    """Fits overhead and efficiencies of a device; its peaks stay.

    The seconds of an op are ``max(flops / (peak * e), bytes / (bandwidth * b)) + overhead``, with
    fractions ``e`` and ``b`` for each family and for each type of at least :data:`LEAST_OPS` ops.
    They leave the least sum of absolute deviations: for a given overhead, and given which of the
    two bounds each op, a fraction is a weighted median; what bounds is then looked up anew until
    that is stable. The overhead is searched: the one with which the families, whose ops differ in
    size, leave the least sum of relative deviations, as it is small ops that tell.

    Args:
        graphs: Graphs whose ops know seconds for the device's model or, where they have none for
            that, for its kind.
        device: The device.

    Raises:
        UsageError: The device has no peaks, or no op that does work knows its seconds.
    """
    if not (device.flops > 0 and device.memory_bandwidth > 0):
        raise UsageError(
            f"device {device.name!r} has flops {device.flops} and memory_bandwidth "
            f"{device.memory_bandwidth}; expected peaks above 0"
        )
    compute, memory, known, types = _samples(graphs, replace(device, efficiency=()))
    if not len(known):
        raise UsageError(
            f"no op of {len(graphs)} graphs that does work has seconds for model "
            f"{device.model!r} or kind {device.kind!r} of device {device.name!r}; expected graphs "
            "of placer.tf.profile"
        )
    families, all_of = _members(types)
    overheads = np.geomspace(known.min() / 10, 2 * np.median(known), _NUM_OVERHEADS)
    for _ in range(2):  # the second time between the neighbours of the best
        tried = [_reached(compute, memory, known, families, o)[1] for o in overheads]
        best = int(np.argmin([np.abs(seconds / known - 1).sum() for seconds in tried]))
        overhead = float(overheads[best])
        around = overheads[max(0, best - 1)], overheads[min(best + 1, _NUM_OVERHEADS - 1)]
        overheads = np.linspace(*around, _NUM_OVERHEADS)
    fractions, predicted = _reached(compute, memory, known, all_of, overhead)
    efficiency = tuple(_efficiency(ops, *fractions[ops]) for ops in sorted(fractions))
    return Fit(
        replace(device, op_overhead_seconds=rounded(overhead), efficiency=efficiency),
        len(known),
        float(np.median(np.abs(predicted / known - 1))),
        float(predicted.sum() / known.sum() - 1),
    )


def _samples(
    graphs: Sequence[OpGraph], device: Device
) -> tuple[Floats, Floats, Floats, NDArray[np.str_]]:
    """Seconds at the peaks, known seconds and types of the ops that do work and know seconds."""
    parts = []
    for graph in graphs:
        compute, memory = roofline(graph, device)
        known = np.array([of.get(device.model, of.get(device.kind, 0.0)) for of in graph.seconds])
        rows = (known > 0) & (np.maximum(compute, memory) > 0)
        parts.append((compute[rows], memory[rows], known[rows], np.array(graph.op_types)[rows]))
    compute, memory, known, types = (np.concatenate(part) for part in zip(*parts, strict=True))
    return compute, memory, known, types


def _members(
    types: NDArray[np.str_],
) -> tuple[dict[str, NDArray[np.intp]], dict[str, NDArray[np.intp]]]:
    """Rows of each family; and these, then rows of each type that has fractions of its own."""
    by_type: dict[str, list[int]] = defaultdict(list)
    by_family: dict[str, list[int]] = defaultdict(list)
    for row, kind in enumerate(types.tolist()):
        by_type[kind].append(row)
        by_family[family_of(kind)].append(row)
    families = {family: np.array(rows) for family, rows in by_family.items()}
    own = {kind: np.array(rows) for kind, rows in by_type.items() if len(rows) >= LEAST_OPS}
    return families, families | own


def _reached(
    compute: Floats,
    memory: Floats,
    known: Floats,
    members: Mapping[str, NDArray[np.intp]],
    overhead: float,
) -> tuple[dict[str, tuple[float, float]], Floats]:
    """The best fractions for an overhead, and the seconds of each op with these."""
    fractions = {}
    seconds = np.empty(len(known))
    for ops, rows in members.items():  # types come last, as they win
        fractions[ops] = _fractions(compute[rows], memory[rows], known[rows], overhead)
        flops, bandwidth = fractions[ops]
        seconds[rows] = np.maximum(compute[rows] / flops, memory[rows] / bandwidth) + overhead
    return fractions, seconds


def _fractions(
    compute: Floats, memory: Floats, known: Floats, overhead: float
) -> tuple[float, float]:
    """Fractions of peak FLOP/s and bandwidth that some ops reach; 1 where it does not matter."""
    flops = bandwidth = 1.0
    bound_by_compute = None
    for _ in range(_NUM_ROUNDS):
        before, bound_by_compute = bound_by_compute, compute / flops >= memory / bandwidth
        if before is not None and (before == bound_by_compute).all():
            break
        rows = bound_by_compute
        if rows.any():
            flops = _fraction(compute[rows], known[rows], overhead)
        if not rows.all():
            bandwidth = _fraction(memory[~rows], known[~rows], overhead)
    return flops, bandwidth


def _fraction(at_peak: Floats, known: Floats, overhead: float) -> float:
    """The fraction that minimizes the sum of ``|at_peak / fraction + overhead - known|``."""
    slowdown = weighted_median((known - overhead) / at_peak, at_peak)
    return float(1 / np.clip(slowdown, 1 / _GREATEST_FRACTION, 1 / _LEAST_FRACTION))


def _efficiency(ops: str, flops: float, bandwidth: float) -> Efficiency:
    given = {"flops": rounded(flops), "memory_bandwidth": rounded(bandwidth)}
    return Efficiency(ops, **{field: value for field, value in given.items() if value != 1})


def weighted_median(values: Floats, weights: Floats) -> float:
    """A value ``v`` with the least ``sum(weights * |values - v|)``: the first to reach half."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def rounded(value: float) -> float:
    """As many digits as a measured figure is worth."""
    return float(f"{value:.4g}")
