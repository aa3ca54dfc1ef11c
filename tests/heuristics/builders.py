"""Graphs and clusters for examples of heuristics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.heuristics import HEURISTICS
from placer.problem import Problem
from placer.simulator import Simulator
from placer.strategies import resolve


def op(name: str, inputs: str = "", seconds: float = 1.0, size: float = 1.0, **fields) -> Op:
    """An op of some seconds on a GPU, ten times as long on a CPU, with one output."""
    return Op(
        name,
        "Op",
        tuple(inputs.split()),
        outputs=(Output(size),),
        seconds={"gpu": seconds, "cpu": 10 * seconds},
        **fields,
    )


def chain(num_ops: int) -> OpGraph:
    """Ops that each read the last, a second each."""
    return OpGraph.from_ops(
        "chain", [op(f"op{i}", f"op{i - 1}" if i else "") for i in range(num_ops)]
    )


def gpus(count: int, *, cpu: bool = False, memory_bytes: float = 1e9) -> Cluster:
    """Equal GPUs, after a CPU if there is one, with links of a byte a second."""
    kinds = ["cpu"] * cpu + ["gpu"] * count
    devices = tuple(
        Device(f"{kind}:{i - cpu * (kind == 'gpu')}", kind, memory_bytes=memory_bytes)
        for i, kind in enumerate(kinds)
    )
    links = (Link(tuple(d.name for d in devices), 1.0),) if len(devices) > 1 else ()
    return Cluster("gpus", devices, links)


def problem_of(ops: Sequence[Op], cluster: Cluster) -> Problem:
    """A problem with a group per op; ops in a topological order."""
    graph = OpGraph.from_ops("example", ops)
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def candidates(name: str, problem: Problem) -> NDArray[np.int32]:
    """The candidates of a heuristic, ``[num_candidates, num_groups]``."""
    return resolve("heuristic", name, HEURISTICS)(problem, np.random.default_rng(0))
