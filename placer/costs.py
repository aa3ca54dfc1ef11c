"""How long each op runs on each device."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from placer.cluster import Cluster, Device
from placer.errors import ClusterError
from placer.graph import OpGraph

_FAMILIES = {
    "matmul": "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum SparseMatMul",
    "conv": (
        "Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2 "
        "Conv3DBackpropInputV2 DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter "
        "DepthwiseConv2dNativeBackpropInput"
    ),
    "pool": (
        "AvgPool AvgPoolGrad AvgPool3D AvgPool3DGrad MaxPool MaxPoolGrad MaxPoolV2 MaxPoolGradV2 "
        "MaxPool3D MaxPool3DGrad"
    ),
    "norm": (
        "FusedBatchNorm FusedBatchNormGrad FusedBatchNormV2 FusedBatchNormGradV2 "
        "FusedBatchNormV3 FusedBatchNormGradV3 LRN LRNGrad"
    ),
    "softmax": (
        "LogSoftmax Softmax SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits"
    ),
    "reduce": "All Any BiasAddGrad L2Loss Max Mean Min Prod Sum ArgMax ArgMin",
    "move": (
        "BroadcastTo Concat ConcatV2 DynamicStitch Fill Gather GatherNd GatherV2 MirrorPad OneHot "
        "OnesLike Pack Pad PadV2 ResourceGather ResourceGatherNd ReverseV2 ScatterNd Slice Split "
        "SplitV StridedSlice StridedSliceGrad Tile Transpose Unpack ZerosLike"
    ),
}
_FAMILY_OF = {kind: family for family, kinds in _FAMILIES.items() for kind in kinds.split()}

FAMILIES = (*_FAMILIES, "update", "elementwise")
"""Families of ops that reach about the same part of a device's peaks."""


def family_of(op_type: str) -> str:
    """The family of an op type: ``"update"`` writes variables, ``"elementwise"`` is all others."""
    if op_type.startswith(("ResourceApply", "ResourceSparseApply", "ResourceScatter", "Assign")):
        return "update"
    return _FAMILY_OF.get(op_type, "elementwise")


def op_seconds(graph: OpGraph, cluster: Cluster) -> NDArray[np.float64]:
    """Seconds that each op runs on each device, ``[num_ops, num_devices]``.

    Where an op says its seconds for the device's model or, failing that, its kind, these hold.
    Else the roofline (Williams et al., CACM 2009) with the launch overhead: ``max(flops / peak,
    bytes / bandwidth) + overhead``, where the peaks are those that the device says ops of this
    type or family reach. An op that does no work takes 0.

    Raises:
        ClusterError: An op needs a rate that a device does not give.
    """
    columns: dict[Device, NDArray[np.float64]] = {}  # by what makes devices equally fast
    specs = [
        replace(device, name="", memory_bytes=0, slots=1, address="") for device in cluster.devices
    ]
    for spec, device in zip(specs, cluster.devices, strict=True):
        if spec not in columns:
            columns[spec] = _seconds_on(graph, device)
    return np.column_stack([columns[spec] for spec in specs])


def allowed_devices(graph: OpGraph, cluster: Cluster) -> NDArray[np.bool_]:
    """Whether each op may run on each device, by its ``device_kinds``, ``[num_ops, num_devices]``.

    Raises:
        ClusterError: No device of the cluster has a kind that an op needs.
    """
    kinds = [device.kind for device in cluster.devices]
    allowed = np.ones((graph.num_ops, cluster.num_devices), bool)
    for op, wanted in enumerate(graph.device_kinds):
        if wanted is not None:
            allowed[op] = [kind in wanted for kind in kinds]
            if not allowed[op].any():
                raise ClusterError(
                    f"op {graph.op_names[op]!r} needs a device of kind {' or '.join(wanted)}; "
                    f"cluster {cluster.name!r} has {', '.join(dict.fromkeys(kinds))}"
                )
    return allowed


def _seconds_on(graph: OpGraph, device: Device) -> NDArray[np.float64]:
    """Seconds per op on one device, ``[num_ops]``."""
    compute, memory = roofline(graph, device)
    works = (graph.flops > 0) | (graph.bytes_accessed > 0)
    seconds = np.where(works, np.maximum(compute, memory) + device.op_overhead_seconds, 0.0)
    for op, known in enumerate(graph.seconds):
        if known:
            value = known.get(device.model, known.get(device.kind))
            if value is not None:
                seconds[op] = value
    if not np.isfinite(seconds).all():
        op = int(np.flatnonzero(~np.isfinite(seconds))[0])
        what = "flops" if not np.isfinite(compute[op]) else "memory_bandwidth"
        raise ClusterError(
            f"device {device.name!r} has {what} 0, but op {graph.op_names[op]!r} gives no seconds "
            f"for model {device.model!r} or kind {device.kind!r}"
        )
    return seconds


def roofline(graph: OpGraph, device: Device) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds that each op computes and that it reads and writes, ``[num_ops]`` each.

    Infinite where the device does not give the rate that an op needs.
    """
    reached = {entry.ops: (entry.flops, entry.memory_bandwidth) for entry in device.efficiency}
    fractions = np.ones((graph.num_ops, 2))
    if reached:
        for op, kind in enumerate(graph.op_types):
            fractions[op] = reached.get(kind, reached.get(family_of(kind), (1.0, 1.0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        compute = np.where(graph.flops > 0, graph.flops / (device.flops * fractions[:, 0]), 0.0)
        memory = np.where(
            graph.bytes_accessed > 0,
            graph.bytes_accessed / (device.memory_bandwidth * fractions[:, 1]),
            0.0,
        )
    return compute, memory
