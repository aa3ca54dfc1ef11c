"""How fast the simulator is beside TensorFlow's own model of step times.

``python -m tests.benchmarks.grappler`` from the root of the project. That model is Grappler's
virtual cluster. ``docs/speed.md`` explains the figures; ``--write`` puts them there. It takes some
four minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.workloads import get_workload
from placer import files
from placer.cluster import Cluster, Device
from placer.graph import Op, OpGraph, Output
from placer.grouping import group_ops
from placer.simulator import Simulator
from tests.benchmarks.measuring import Case, Criterion, Floats, Report, Table, measure
from tests.benchmarks.simulator import PAGE, rewrite
from tests.benchmarks.workbench import PLACEMENTS

CLUSTER = "p100x4"
AT_LEAST = 3_000
_OPS_PER_MULTIPLY_ADD = 2
_CORES_PER_MULTIPROCESSOR = 64  # as Grappler has it from architecture 6 on


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        workloads: Sizes of each workload, where they are not the bundled ones.
        repetitions: Rounds of the interleaved run.
        rows: Placements in each round; every round has others.
    """

    workloads: Mapping[str, Mapping[str, int]]
    repetitions: int
    rows: int


FULL = Scale({"rnnlm": {}, "inception_v3": {}}, repetitions=4, rows=8)
QUICK = Scale(
    {
        "rnnlm": {"batch_size": 2, "num_steps": 3, "num_units": 8, "vocabulary": 20},
        "inception_v3": {"batch_size": 2, "image_size": 75, "num_classes": 5, "num_blocks": 1},
    },
    repetitions=2,
    rows=2,
)


@dataclass(frozen=True)
class Step:
    """A training step as both models take it.

    Attributes:
        graph: The graph, for the simulator.
        graph_def: The GraphDef that it was read from.
        fetches: The ops that a step is run for.
    """

    graph: OpGraph
    graph_def: Any
    fetches: tuple[str, ...]

    @classmethod
    def trace(cls, workload: str, **sizes: int) -> Step:
        """Traces a workload as ``placer.tf.read`` does."""
        from placer.tf._trace import flatten
        from placer.tf.read import reading_of

        step, specs = get_workload(workload).build(**sizes)
        flat = flatten(step, specs, False, "")
        outputs = (ref.partition(":")[0] for ref in flat.outputs)
        fetches = tuple(dict.fromkeys((*outputs, *flat.control_outputs)))
        return cls(reading_of(flat, workload).graph, flat.graph_def, fetches)

    def placed(self, placement: NDArray[np.int32], devices: Sequence[str]) -> Any:
        """The MetaGraphDef with devices that Grappler takes."""
        from tensorflow.core.protobuf import meta_graph_pb2

        placed = meta_graph_pb2.MetaGraphDef(graph_def=self.graph_def)
        for node in placed.graph_def.node:
            node.device = devices[placement[self.graph.op_index[node.name]]]
        placed.collection_def["train_op"].node_list.value.extend(self.fetches)
        return placed


class VirtualCluster:
    """Grappler's virtual cluster with the devices of one of ours.

    Attributes:
        names: TensorFlow's names of the devices, ``[num_devices]``.
    """

    def __init__(self, cluster: Cluster) -> None:
        from tensorflow.core.protobuf import device_properties_pb2
        from tensorflow.python.grappler import cluster as grappler

        named = [
            device_properties_pb2.NamedDevice(name=_name(d), properties=properties(d))
            for d in cluster.devices
        ]
        self.names = tuple(device.name for device in named)
        self._cluster = grappler.Cluster(devices=named)

    def step_time(self, item: Any) -> float:
        """Seconds of a step; infinite if a device lacks the memory.

        Raises:
            ValueError: It did not take all ops into account.
        """
        import tensorflow as tf

        try:
            costs, seconds, _ = self._cluster.MeasureCosts(item)
        except tf.errors.ResourceExhaustedError:
            return float("inf")
        if len(costs) != len(item.metagraph.graph_def.node):
            raise ValueError(f"{len(costs)} ops; expected {len(item.metagraph.graph_def.node)}")
        return float(seconds)


def properties(device: Device) -> Any:
    """Properties from which Grappler works out the device's FLOP/s, bytes/s and memory.

    It works out FLOP/s from cores and MHz, those of a GPU also from its architecture.
    """
    from tensorflow.core.protobuf import device_properties_pb2

    per_hertz = _CORES_PER_MULTIPROCESSOR * _OPS_PER_MULTIPLY_ADD if device.kind == "gpu" else 1
    found = device_properties_pb2.DeviceProperties(
        type=device.kind.upper(),
        num_cores=1,
        frequency=round(device.flops / per_hertz / 1e6),
        bandwidth=round(device.memory_bandwidth / 1e3),
        memory_size=int(device.memory_bytes),
    )
    if device.kind == "gpu":
        found.environment["architecture"] = "6"
    return found


def _name(device: Device) -> str:
    kind, _, index = device.name.partition(":")
    return f"/job:localhost/replica:0/task:0/device:{kind.upper()}:{index}"


@dataclass(frozen=True)
class Round:
    """The placements of a round, ready for both, and what Grappler says of them."""

    placements: NDArray[np.int32]
    placed: list[Any]
    items: list[Any]
    found: list[float] = field(default_factory=list)


def grappler(scale: Scale) -> Report:
    """CPU time of an evaluation by Grappler over that of one by the simulator."""
    from tensorflow.python.grappler.item import Item

    cluster = Cluster.load(CLUSTER)
    virtual = VirtualCluster(cluster)
    cases: dict[tuple[str, str], Case[Round]] = {}
    rounds: dict[tuple[str, str], list[Round]] = {}
    steps = {name: Step.trace(name, **sizes) for name, sizes in scale.workloads.items()}
    for name, step in steps.items():
        for kind in PLACEMENTS:
            rounds[name, kind] = made = []
            prepare = _preparing(step, kind, virtual, made, scale)
            simulator = Simulator(step.graph, cluster)
            cases[name, kind] = Case(
                prepare(scale.repetitions),
                prepare,
                {
                    "item": lambda given: [Item(placed) for placed in given.placed],
                    "grappler": lambda given: given.found.extend(
                        map(virtual.step_time, given.items)
                    ),
                    "set-up": lambda _, g=step.graph: Simulator(g, cluster),
                    "placer": lambda given, s=simulator: s.evaluate(given.placements),
                },
            )
    ratios: dict[str, dict[str, float]] = {kind: {} for kind in PLACEMENTS}
    rows = []
    for (name, kind), seconds in measure(cases, scale.repetitions).items():
        graph = steps[name].graph
        each = {subject: taken / scale.rows for subject, taken in seconds.items()}
        ratios[kind][name] = ratio = _median(each["grappler"] / each["placer"])
        measured = rounds[name, kind][-scale.repetitions :]  # the first one is to warm up
        ours = Simulator(graph, cluster).evaluate(np.concatenate([r.placements for r in measured]))
        rows.append(
            (
                f"`{name}`",
                f"{graph.num_ops:,}",
                kind,
                scale.repetitions * scale.rows,
                f"{_median(each['item']) * 1e3:.1f}",
                f"{_median(each['grappler']) * 1e3:,.0f}",
                f"{_median(seconds['set-up']) * 1e3:.1f}",
                f"{_median(each['placer']) * 1e6:,.0f}",
                f"{ratio:,.0f}x",
                _step_times(np.concatenate([r.found[-scale.rows :] for r in measured])),
                _step_times(ours.step_time_seconds),
            )
        )
    criteria = [
        Criterion.at_least(
            f"{kind} placements: CPU time of Grappler at least {AT_LEAST:,}x ours", AT_LEAST, found
        )
        for kind, found in ratios.items()
    ]
    columns = (
        *("graph", ">ops", "placements", ">count", ">item, ms", ">MeasureCosts, ms"),
        *(">set-up, ms", ">placer, µs", ">MeasureCosts / placer"),
        *(">step time by Grappler", ">by placer"),
    )
    title = f"CPU time of an evaluation on `{CLUSTER}`, and the median of the step times found"
    return Report("grappler", criteria, [Table(title, columns, rows), _transfers(cluster, virtual)])


def _preparing(
    step: Step, kind: str, virtual: VirtualCluster, made: list[Round], scale: Scale
) -> Callable[[int], Round]:
    from tensorflow.python.grappler.item import Item

    units = units_of_ops(step.graph, kind)

    def prepare(repetition: int) -> Round:
        rows = 1 if repetition == scale.repetitions else scale.rows
        size = (rows, units.max() + 1)
        rng = np.random.default_rng(repetition)
        choices = rng.integers(len(virtual.names), size=size, dtype=np.int32)
        placements = np.ascontiguousarray(choices[:, units])
        placed = [step.placed(placement, virtual.names) for placement in placements]
        made.append(Round(placements, placed, [Item(each) for each in placed]))
        return made[-1]

    return prepare


def units_of_ops(graph: OpGraph, kind: str) -> NDArray[np.intp]:
    """What has a device of its own in a placement, by op, ``[num_ops]``.

    An op group if `kind` is ``grouped``, else an op; but a colocation group keeps together.
    """
    if kind == "grouped":
        return group_ops(graph).group_of_op.astype(np.intp)
    groups = graph.colocation_group
    alone = np.arange(graph.num_ops) + graph.num_ops
    return np.unique(np.where(groups < 0, alone, groups), return_inverse=True)[1]


def _step_times(seconds: Floats) -> str:
    feasible = seconds[np.isfinite(seconds)]
    lacking = len(seconds) - len(feasible)
    median = f"{_median(feasible) * 1e3:,.1f} ms" if len(feasible) else ""
    return ", ".join(filter(None, [median, f"{lacking} lack memory" if lacking else ""]))


def _transfers(cluster: Cluster, virtual: VirtualCluster) -> Table:
    """What sending a tensor to another GPU adds to a step, by both."""
    rows = []
    for num_bytes in (4_000, 4_000_000, 1_000_000_000):
        by_both = transfer_seconds(num_bytes, cluster, virtual)
        rows.append((f"{num_bytes:,}", *(f"{seconds * 1e6:,.1f}" for seconds in by_both)))
    columns = (">bytes", ">Grappler, µs", ">placer, µs")
    return Table("What sending a tensor from one GPU to another adds to a step", columns, rows)


def transfer_seconds(
    num_bytes: int, cluster: Cluster, virtual: VirtualCluster
) -> tuple[float, float]:
    """Seconds that sending a tensor adds to a step of two ops, by Grappler and by the simulator."""
    import tensorflow as tf
    from tensorflow.python.grappler.item import Item

    with tf.Graph().as_default() as graph:
        # no placeholder: Grappler would make up what is fed, of its size
        x = tf.raw_ops.VariableV2(shape=(num_bytes // 4,), dtype=tf.float32, name="x")
        tf.nn.relu(tf.nn.relu(x, "first"), "second")
    output = (Output(num_bytes),)
    ops = [Op("x", "Op", outputs=output), Op("first", "Op", ("x",), outputs=output)]
    ours = OpGraph.from_ops("relus", [*ops, Op("second", "Op", ("first",), outputs=output)])
    step = Step(ours, graph.as_graph_def(), ("second",))
    simulator = Simulator(ours, cluster)
    found = []
    for devices in ([1, 1, 1], [1, 1, 2]):  # GPUs: the CPU is the first device
        placement = np.array(devices, np.int32)
        item = Item(step.placed(placement, virtual.names))
        found.append((virtual.step_time(item), simulator.step_time(placement)))
    (grappler_here, ours_here), (grappler_there, ours_there) = found
    return grappler_there - grappler_here, ours_there - ours_here


def _median(values: Floats) -> float:
    return float(np.median(values))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the section of the page."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.grappler", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small graphs, few placements")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--write wants the whole benchmark; leave out --quick")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = grappler(QUICK if options.quick else FULL)
    print(report.markdown())
    if options.write:
        files.write_bytes(PAGE, rewrite(PAGE.read_text(), [report]).encode())


if __name__ == "__main__":
    main()
