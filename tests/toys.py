"""Toy problems whose optimum is known by brute force."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator


def make_toy(
    num_ops: int, num_devices: int = 2, *, seed: int = 0, memory_bytes: float = float("inf")
) -> Problem:
    """A random DAG on unlike devices, with an op group per op.

    An op takes 1 to 9 ms on each device, whatever it takes on the others, and reads the output of
    one or two earlier ops; sending an output takes 0.5 to 2 ms, about half of an op.
    Each op has a million bytes of variables.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"op{i}" for i in range(num_ops))
    models = [f"model{i}" for i in range(num_devices)]
    ops = []
    for i, name in enumerate(names):
        num_inputs = min(i, int(rng.integers(1, 3)))
        inputs = sorted(rng.choice(i, num_inputs, replace=False).tolist()) if i else []
        ops.append(
            Op(
                name,
                "Op",
                tuple(f"op{j}:0" for j in inputs),
                parameter_bytes=1e6,
                outputs=(Output(float(rng.integers(1, 5)) * 5e5),),
                seconds={model: float(rng.integers(1, 10)) * 1e-3 for model in models},
            )
        )
    devices = tuple(
        Device(f"gpu:{i}", "gpu", model, memory_bytes=memory_bytes)
        for i, model in enumerate(models)
    )
    links = (Link(tuple(d.name for d in devices), bandwidth=1e9),) if num_devices > 1 else ()
    graph, cluster = OpGraph.from_ops("toy", ops), Cluster("toy", devices, links)
    groups = OpGroups(graph, np.arange(num_ops, dtype=np.int32), names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def all_choices(problem: Problem) -> NDArray[np.int32]:
    """Every choice of devices there is, ``[num_devices ** num_groups, num_groups]``."""
    devices = range(problem.num_devices)
    return np.array(list(itertools.product(devices, repeat=problem.num_groups)), np.int32)
