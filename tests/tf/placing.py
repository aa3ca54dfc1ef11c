"""Placements on the four CPU devices that the tests give TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from placer.cluster import Cluster, Device, Link
from placer.graph import OpGraph
from placer.placement import Placement

NUM_DEVICES = 4
NAMES = tuple(f"cpu:{i}" for i in range(NUM_DEVICES))
CPUS = tuple(f"/job:localhost/replica:0/task:0/device:CPU:{i}" for i in range(NUM_DEVICES))
SMALL = {
    "inception_v3": {"batch_size": 2, "image_size": 43, "num_classes": 5, "num_blocks": 1},
    "nmt": {"batch_size": 2, "num_steps": 3, "num_units": 8, "vocabulary": 20},
    "rnnlm": {"batch_size": 2, "num_steps": 3, "num_units": 8, "vocabulary": 20},
    "transformer": {
        "batch_size": 2,
        "num_positions": 4,
        "num_layers": 2,
        "num_units": 8,
        "num_heads": 2,
        "vocabulary": 20,
    },
}
"""Sizes in which workloads are quickly traced and run."""


def four_cpus(slots: int = 1) -> Cluster:
    """A cluster with devices of the names that TensorFlow has."""
    devices = tuple(
        Device(n, "cpu", memory_bytes=1e9, flops=1e11, memory_bandwidth=1e10, slots=slots)
        for n in NAMES
    )
    return Cluster("four-cpus", devices, (Link(NAMES, 1e9, 1e-6),))


def random_placement(graph: OpGraph, seed: int, **options: Any) -> Placement:
    """A placement of each op, or colocation group, on any of the devices."""
    rng = np.random.default_rng(seed)
    devices = rng.integers(0, NUM_DEVICES, graph.num_ops)
    of_group = rng.integers(0, NUM_DEVICES, graph.num_ops)
    groups = graph.colocation_group
    devices = np.where(groups < 0, devices, of_group[groups])
    return Placement(graph, four_cpus(), devices, **options)


def random_batch(specs: Any, seed: int = 0) -> list[Any]:
    """An argument for each spec: small numbers, or classes 0 and 1."""
    rng = np.random.default_rng(seed)
    return [
        tf.constant(
            rng.normal(size=spec.shape)
            if spec.dtype.is_floating
            else rng.integers(0, 2, spec.shape),
            spec.dtype,
        )
        for spec in specs
    ]
