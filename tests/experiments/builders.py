"""A graph and a cluster that are small but have a choice to make."""

from __future__ import annotations

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output


def graph(*, parameter_bytes: float = 1e6) -> OpGraph:
    """Four chains of three ops between a source and a sink; one device per chain is best."""
    ops = [Op("x", "Placeholder", outputs=(Output(1e3),))]
    for chain in "abcd":
        before = "x:0"
        for i in range(3):
            name = f"{chain}{i}"
            ops.append(
                Op(
                    name,
                    "MatMul",
                    (before,),
                    flops=1e10,
                    parameter_bytes=parameter_bytes,
                    outputs=(Output(1e5),),
                )
            )
            before = f"{name}:0"
    ops.append(Op("y", "AddN", tuple(f"{chain}2:0" for chain in "abcd"), bytes_accessed=4e5))
    return OpGraph.from_ops("chains", ops)


def cluster(*, memory_bytes: float = 1e9) -> Cluster:
    """A slow CPU and two equal GPUs."""
    gpus = [Device(f"gpu:{i}", "gpu", "p100", memory_bytes, 1e13, 7e11, 5e-6) for i in range(2)]
    devices = (Device("cpu:0", "cpu", "haswell", memory_bytes, 1e12, 7e10, 2e-6), *gpus)
    names = tuple(device.name for device in devices)
    return Cluster("pair", devices, (Link(names, bandwidth=1e10, latency_seconds=1e-5),))
