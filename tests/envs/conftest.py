"""Problems for the environments' tests."""

from __future__ import annotations

import numpy as np
import pytest

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator


def op_per_group(graph: OpGraph, cluster: Cluster) -> Problem:
    """A problem in which every op is a group of its own, so that tests know the groups."""
    order = graph.topological_order
    group_of_op = np.empty(graph.num_ops, np.int32)
    group_of_op[order] = np.arange(graph.num_ops)
    names = tuple(graph.op_names[op] for op in order)
    return Problem(graph, cluster, OpGroups(graph, group_of_op, names), Simulator(graph, cluster))


@pytest.fixture
def cluster() -> Cluster:
    """A CPU and two GPUs, 10 GB/s apart."""
    return Cluster(
        "cpu-and-two-gpus",
        (
            Device("cpu:0", "cpu", memory_bytes=1e6, flops=1e9, memory_bandwidth=1e9),
            Device("gpu:0", "gpu", memory_bytes=1000, flops=1e10, memory_bandwidth=1e10),
            Device("gpu:1", "gpu", memory_bytes=1000, flops=1e10, memory_bandwidth=1e10),
        ),
        (Link(("cpu:0", "gpu:0", "gpu:1"), 1e10, 1e-6),),
    )


@pytest.fixture
def problem(cluster: Cluster) -> Problem:
    """Six ops: a source that only the CPU runs, two branches of two, and a sink."""
    graph = OpGraph.from_ops(
        "branches",
        [
            Op("x", "Read", outputs=(Output(100, (5, 5)),), device_kinds=("cpu",)),
            *(
                op
                for branch in "ab"
                for op in (
                    _layer(f"{branch}0", "x:0"),
                    _layer(f"{branch}1", f"{branch}0:0"),
                )
            ),
            Op("y", "Add", ("a1:0", "b1:0", "^x"), flops=1e4, outputs=(Output(4, ()),)),
        ],
    )
    return op_per_group(graph, cluster)


def _layer(name: str, source: str) -> Op:
    return Op(
        name,
        "MatMul",
        (source,),
        flops=1e6,
        bytes_accessed=600,
        parameter_bytes=400,
        temporary_bytes=50,
        outputs=(Output(100, (5, 5)),),
    )


@pytest.fixture
def random_problem():
    """Makes a random problem from a seed."""
    return _random_problem


def _random_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    num_ops, num_devices = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    ops = []
    for i in range(num_ops):
        refs = [
            f"o{j}:{rng.integers(2)}" if rng.random() < 0.7 else f"^o{j}"
            for j in rng.integers(0, max(i, 1), size=rng.integers(0, 4) if i else 0)
        ]
        ops.append(
            Op(
                f"o{i}",
                f"Type{rng.integers(3)}",
                tuple(refs),
                flops=float(rng.integers(0, 3) * 1e5),
                parameter_bytes=float(rng.integers(0, 3) * 100),
                temporary_bytes=float(rng.integers(0, 2) * 50),
                outputs=(Output(float(rng.integers(0, 300)), (3, -1)), Output(8)),
            )
        )
    devices = tuple(
        Device(f"d:{i}", "gpu", memory_bytes=float(rng.integers(400, 1500)), flops=1e9 * (i + 1))
        for i in range(num_devices)
    )
    channel = str(rng.choice(["pair", "unordered", "source", "none", "bus"]))
    link = Link(tuple(d.name for d in devices), 1e6, float(rng.choice([0, 1e-5])), channel)
    return op_per_group(
        OpGraph.from_ops("random", ops),
        Cluster("random", devices, (link,) if num_devices > 1 else ()),
    )
