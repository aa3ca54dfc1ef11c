"""Hypothesis strategies for graphs, clusters and placements.

Durations and bytes are small whole or half numbers of nanoseconds, so that ties and roundings that
matter are common.
"""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output

CHANNELS = ("pair", "unordered", "source", "none", "bus", "other bus")
CHANNELS_WITH_ONE_SOURCE = ("pair", "source", "none")
MODELS = ("a", "b")

_small = st.sampled_from([0, 1, 2, 3, 5, 8])
_nanoseconds = st.sampled_from([0, 0.4, 0.5, 1, 1, 1.5, 2, 2.5, 3, 5])


@st.composite
def graphs(draw: st.DrawFn, max_ops: int = 12, constraints: bool = False) -> OpGraph:
    """Graphs with several ports, control edges, repeated inputs and an order of the user's own.

    With `constraints`, some ops are in colocation groups or run on some device kinds only.
    """
    num_ops = draw(st.integers(1, max_ops))
    names = [f"op{i}" for i in range(num_ops)]
    ops: list[Op] = []
    refs: list[str] = []  # what later ops can read
    for name in names:
        outputs = tuple(Output(draw(_small)) for _ in range(draw(st.integers(0, 3))))
        inputs = draw(st.lists(st.sampled_from(refs), max_size=4)) if refs else []
        group, kinds = None, None
        if constraints:
            group = draw(st.sampled_from([None, None, None, "g", "h"]))
            kinds = draw(st.sampled_from([None, None, ("cpu",), ("gpu",), ("gpu", "cpu")]))
        ops.append(
            Op(
                name,
                "Op",
                tuple(inputs),
                parameter_bytes=draw(_small),
                temporary_bytes=draw(_small),
                outputs=outputs,
                seconds={model: draw(_nanoseconds) / 1e9 for model in MODELS},
                colocation_group=group,
                device_kinds=kinds,
            )
        )
        refs += [f"^{name}", *(f"{name}:{port}" for port in range(len(outputs)))]
    return OpGraph.from_ops("random", draw(st.permutations(ops)))


@st.composite
def clusters(draw: st.DrawFn, min_devices: int = 1, in_order_of_start: bool = False) -> Cluster:
    """Up to 4 unlike devices, of both kinds if there are two; one channel model or many.

    With `in_order_of_start`, only what the fast engine can do: one slot per device, one source per
    channel; memory is unlimited more often than not.
    """
    memory = st.just(float("inf")) | st.integers(0, 60)
    slots, channels = st.integers(1, 3), CHANNELS
    if in_order_of_start:
        memory = st.just(float("inf")) | st.just(float("inf")) | st.integers(0, 200)
        slots, channels = st.just(1), CHANNELS_WITH_ONE_SOURCE
    num_devices = draw(st.integers(min_devices, 4))
    devices = tuple(
        Device(
            name=f"d:{i}",
            kind=("cpu", "gpu")[i] if i < 2 else draw(st.sampled_from(["cpu", "gpu"])),
            model=draw(st.sampled_from(MODELS)),
            memory_bytes=draw(memory),
            slots=draw(slots),
        )
        for i in range(num_devices)
    )
    names = tuple(device.name for device in devices)
    groups: list[tuple[str, ...]] = [names] if num_devices > 1 else []
    if draw(st.booleans()):
        groups = list(itertools.combinations(names, 2))
    links = tuple(
        Link(
            devices=group,
            bandwidth=draw(st.sampled_from([0.5e9, 1e9, 2e9])),
            latency_seconds=draw(_nanoseconds) / 1e9,
            channel=draw(st.sampled_from(channels)),
        )
        for group in groups
    )
    return Cluster("random", devices, links)


def placements(graph: OpGraph, cluster: Cluster) -> st.SearchStrategy[np.ndarray]:
    """Any placement, feasible or not, int32 ``[num_ops]``."""
    device = st.integers(0, cluster.num_devices - 1)
    return st.lists(device, min_size=graph.num_ops, max_size=graph.num_ops).map(
        lambda devices: np.array(devices, np.int32)
    )


def priorities(graph: OpGraph) -> st.SearchStrategy[np.ndarray | None]:
    """Priorities with ties, float64 ``[num_ops]``, or None for the default ones."""
    values = st.lists(
        st.sampled_from([-1.5, 0, 1, 2, 2.5]), min_size=graph.num_ops, max_size=graph.num_ops
    )
    return st.none() | values.map(lambda row: np.array(row, np.float64))
