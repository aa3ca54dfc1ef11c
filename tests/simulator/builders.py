"""Graphs and clusters for examples that can be worked by hand.

One byte takes one nanosecond on a link, and durations are given in nanoseconds.
"""

from __future__ import annotations

import numpy as np

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.placement import Schedule

NS = 1e9


def op(name: str, ns: float, inputs: str = "", outputs: tuple[float, ...] = (), **fields) -> Op:
    """An op; `inputs` are separated by spaces, `outputs` are bytes by port."""
    return Op(
        name,
        "Op",
        tuple(inputs.split()),
        outputs=tuple(map(Output, outputs)),
        seconds={"gpu": ns / NS},
        **fields,
    )


def graph(*ops: Op) -> OpGraph:
    """A graph of ops in the user's order."""
    return OpGraph.from_ops("example", ops)


def cluster(
    num_devices: int,
    channel: str = "pair",
    *,
    latency_ns: float = 0,
    memory_bytes: float = 1e9,
    slots: int = 1,
) -> Cluster:
    """Equal devices ``d0``, ``d1`` … with equal links."""
    names = tuple(f"d{i}" for i in range(num_devices))
    devices = tuple(Device(n, "gpu", memory_bytes=memory_bytes, slots=slots) for n in names)
    links = (Link(names, 1e9, latency_ns / NS, channel),) if num_devices > 1 else ()
    return Cluster("example", devices, links)


def op_times(schedule: Schedule) -> dict[str, tuple[float, float]]:
    """Start and finish of each op in nanoseconds."""
    return {
        o.name: (round(o.start_seconds * NS), round(o.finish_seconds * NS)) for o in schedule.ops
    }


def transfer_times(schedule: Schedule) -> list[tuple[str, str, float, float]]:
    """Tensor, target, start and finish of each transfer in nanoseconds."""
    return [
        (t.tensor, t.target, round(t.start_seconds * NS), round(t.finish_seconds * NS))
        for t in schedule.transfers
    ]


def random_graph(num_ops: int, rng: np.random.Generator) -> OpGraph:
    """Ops that read a hub of eight outputs and some ops before them; named in random order."""
    ops = [op("op0", 1, "", (2,) * 8)]
    for i in range(1, num_ops):
        recent = rng.integers(max(0, i - 40), i, rng.integers(4))
        inputs = [f"op0:{i % 8}", *(f"op{j}" for j in recent)]
        if i % 3 == 0:
            inputs.append(f"^op{recent[0] if len(recent) else i - 1}")
        outputs = (int(rng.integers(20)),)
        ops.append(op(f"op{i}", int(rng.integers(1, 9)), " ".join(inputs), outputs))
    return graph(*(ops[i] for i in rng.permutation(num_ops)))
