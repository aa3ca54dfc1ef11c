"""Trains workloads under random placements: ``python -m tests.tf.placed_workloads ADDRESS...``.

On four logical CPU devices and on the servers at the addresses. It is a process of its own, as
connecting to servers changes the devices of a process for good. For each workload, set of devices
and kind of placement it prints a line of JSON: how far losses and variables are from those of the
unplaced function, and where TensorFlow ran the ops.

Ops have one thread, as on the servers, so that little is rounded in another way: a sum of another
order may end on the other side of zero, where the gradient of a ReLU jumps.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import placer.tf
from experiments.workloads import get_workload
from placer.cluster import Cluster, Device, Link
from placer.graph import OpGraph
from placer.placement import Placement
from tests.tf.placing import CPUS, NUM_DEVICES, SMALL, random_batch

STEPS = 3
KINDS = ("together", "scattered")
"""Colocation groups keep together, or each op goes where it will."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training step, the state to start from, and what training makes of it unplaced."""

    step: Any
    specs: tuple[Any, ...]
    variables: Sequence[Any]
    start: Sequence[NDArray[Any]]
    batches: Sequence[Sequence[Any]]

    @classmethod
    def build(cls, name: str) -> Workload:
        keras.utils.set_random_seed(0)
        step, specs = get_workload(name).build(**SMALL[name])
        variables = step.get_concrete_function(*specs).variables
        batches = [random_batch(specs, seed) for seed in range(STEPS)]
        return cls(step, specs, variables, [v.numpy() for v in variables], batches)

    def train(self, step: Callable[..., Any]) -> tuple[list[float], list[NDArray[Any]]]:
        """The losses and, after the last step, the variables."""
        for variable, value in zip(self.variables, self.start, strict=True):
            variable.assign(value)
        losses = [float(step(*batch)) for batch in self.batches]
        return losses, [v.numpy() for v in self.variables]


def draw(graph: OpGraph, num_devices: int, kind: str) -> NDArray[np.int32]:
    """A device for each op, ``[num_ops]``."""
    rng = np.random.default_rng(0)
    devices, of_group = rng.integers(0, num_devices, (2, graph.num_ops), np.int32)
    groups = graph.colocation_group
    return devices if kind == "scattered" else np.where(groups < 0, devices, of_group[groups])


def _cluster(num_devices: int) -> Cluster:
    names = tuple(f"cpu:{i}" for i in range(num_devices))
    return Cluster("cpus", tuple(Device(name, "cpu") for name in names), (Link(names, 1e9),))


def _largest_miss(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference over what ``float32`` tolerance allows: 1e-5 and a 1e-4th part."""
    return max(
        float(np.max(np.abs(a - b) / (1e-5 + 1e-4 * np.abs(b)), initial=0.0))
        for a, b in zip(found, expected, strict=True)
    )


def compare(name: str, devices: Mapping[str, Sequence[str]], kinds: Sequence[str]) -> None:
    """Trains a workload unplaced and under a random placement of each kind on each devices."""
    workload = Workload.build(name)
    graph = placer.tf.read(workload.step, *workload.specs)
    losses, trained = workload.train(workload.step)
    for where, names in devices.items():
        cluster = _cluster(len(names))
        for kind in kinds:
            placement = Placement(graph, cluster, draw(graph, len(names), kind))
            placed = placer.tf.apply(workload.step, placement, *workload.specs, devices=names)
            placed_losses, placed_trained = workload.train(placed)
            report = placer.tf.verify(placed, *workload.batches[0])
            line = {
                "workload": name,
                "where": where,
                "kind": kind,
                "trained": sum(
                    not np.array_equal(a, b)
                    for a, b in zip(workload.start, placed_trained, strict=True)
                ),
                "loss_miss": _largest_miss(placed_losses, losses),
                "variables_miss": _largest_miss(placed_trained, trained),
                "ran": sorted({d for op in report.ops if op.as_asked for d in op.ran}),
                "moved": [dataclasses.asdict(op) for op in report.moved],
                "dropped": [op.name for op in report.dropped],
                "copied": sorted({op.type for op in report.copied}),
            }
            print(json.dumps(line), flush=True)


def main(addresses: Sequence[str]) -> None:
    """Compares all workloads."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * NUM_DEVICES,
    )
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": list(addresses)}))
    workers = [f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in range(len(addresses))]
    for name in SMALL:
        compare(name, {"logical": CPUS, "workers": workers}, KINDS)


if __name__ == "__main__":
    main(sys.argv[1:])
