"""Which ops and transfers explain the difference between a simulated and a measured step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np

from experiments.fidelity.figures import Comparison
from experiments.fidelity.placements import Candidate
from placer.graph import OpGraph
from placer.placement import Placement, Schedule
from placer.simulator import Simulator
from placer.tf import MeasuredEvaluator, OpTimes

_MOST_SHOWN = 8


class Difference(msgspec.Struct, frozen=True):
    """What took another time than predicted.

    Attributes:
        name: Name of the op, its type or the tensor.
        where: Its device, or from where to where it was sent.
        predicted_seconds: Seconds in the simulation.
        measured_seconds: Seconds in the traced step.
    """

    name: str
    where: str
    predicted_seconds: float
    measured_seconds: float

    @property
    def excess_seconds(self) -> float:
        """How much longer it took."""
        return self.measured_seconds - self.predicted_seconds


class Miss(msgspec.Struct, frozen=True):
    """A placement whose step time was predicted badly, and why.

    Attributes:
        predicted_seconds: Simulated step time.
        measured_seconds: Measured step time.
        traced_seconds: Measured time from first to last op in the traced step.
        types: The types of ops that differ most, summed by device.
        ops: The ops that differ most.
        transfers: The tensors that differ most in when they arrive after they were made.
        placement: Number of the placement.
        kind: Its kind.
    """

    predicted_seconds: float
    measured_seconds: float
    traced_seconds: float
    types: list[Difference]
    ops: list[Difference]
    transfers: list[Difference]
    placement: int = 0
    kind: str = ""


def explain(graph: OpGraph, schedule: Schedule, trace: Sequence[OpTimes]) -> Miss:
    """Compares a simulated step with a traced one.

    TensorFlow does not say when a tensor arrives. Where an op waits for one from another device,
    it is the last of its inputs there: from the end of the op that makes it to when the reader is
    ready is what it took, waiting included, in both steps.

    Args:
        graph: The graph.
        schedule: The simulated step.
        trace: When each op ran; ops of other names are TensorFlow's own.
    """
    times = {op.name: op for op in trace if op.name in graph.op_index}
    ops: list[Difference] = []
    by_type: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for op in schedule.ops:
        if (ran := times.get(op.name)) is not None:
            both = op.finish_seconds - op.start_seconds, ran.finish_seconds - ran.start_seconds
            ops.append(Difference(op.name, op.device, *both))
            of_type = by_type[graph.op_types[graph.op_index[op.name]], op.device]
            of_type[:] = (total + seconds for total, seconds in zip(of_type, both, strict=True))
    types = [Difference(*key, *both) for key, both in by_type.items()]
    finish = max((op.finish_seconds for op in times.values()), default=0.0)
    return Miss(
        predicted_seconds=schedule.step_time_seconds,
        measured_seconds=float("nan"),
        traced_seconds=finish,
        types=_largest(types),
        ops=_largest(ops),
        transfers=_largest(_transfers(graph, schedule, times)),
    )


def _largest(differences: Sequence[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda d: -abs(d.excess_seconds))[:_MOST_SHOWN]


def _transfers(graph: OpGraph, schedule: Schedule, times: dict[str, OpTimes]) -> list[Difference]:
    simulated = {op.name: op for op in schedule.ops}
    arrival = {(sent.tensor, sent.target): sent.finish_seconds for sent in schedule.transfers}
    found: dict[tuple[str, str], Difference] = {}
    for reader in graph.ops():
        device = simulated[reader.name].device
        makers = {ref: ref.lstrip("^").partition(":")[0] for ref in reader.inputs}
        if reader.name not in times or not all(maker in times for maker in makers.values()):
            continue
        remote = [ref for ref, maker in makers.items() if simulated[maker].device != device]
        if not remote:
            continue
        last = max(makers, key=lambda ref: times[makers[ref]].finish_seconds)
        if last not in remote:  # it says nothing of when the others arrived
            continue
        maker = simulated[makers[last]]
        waited = times[reader.name].ready_seconds - times[maker.name].finish_seconds
        took = arrival[last, device] - maker.finish_seconds
        difference = Difference(last, f"{maker.device} -> {device}", took, max(waited, 0.0))
        key = last, device
        if key not in found or waited < found[key].measured_seconds:
            found[key] = difference
    return list(found.values())


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
        devices = np.array(candidate.devices, np.int32)
        placement = Placement(evaluator.graph, evaluator.cluster, devices, evaluator.order)
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
