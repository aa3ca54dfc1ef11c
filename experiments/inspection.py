"""What is in a graph or a cluster, as plain data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from placer.cluster import Cluster
from placer.errors import UnknownNameError
from placer.graph import OpGraph
from placer.grouping import OpGroups

NUM_HEAVIEST = 10


def summarize_graph(graph: OpGraph, groups: OpGroups) -> dict[str, Any]:
    """Counts and sums of a graph, its op types by work, and its heaviest ops."""
    types = sorted(set(graph.op_types))
    index = {name: i for i, name in enumerate(types)}
    type_of_op = np.array([index[name] for name in graph.op_types])
    num_ops = np.bincount(type_of_op, minlength=len(types))
    flops = np.bincount(type_of_op, graph.flops, len(types))
    accessed = np.bincount(type_of_op, graph.bytes_accessed, len(types))
    op_types = [
        {
            "type": types[i],
            "num_ops": int(num_ops[i]),
            "flops": float(flops[i]),
            "bytes_accessed": float(accessed[i]),
        }
        for i in np.lexsort((-num_ops, -accessed, -flops))
    ]
    heaviest = np.lexsort((-graph.bytes_accessed, -graph.flops))[:NUM_HEAVIEST]
    return {
        "name": graph.name,
        "fingerprint": graph.fingerprint,
        "num_ops": graph.num_ops,
        "num_tensors": graph.num_tensors,
        "num_edges": len(graph.edges[0]),
        "num_groups": groups.num_groups,
        "num_colocation_groups": len(graph.colocation_names),
        "flops": float(graph.flops.sum()),
        "bytes_accessed": float(graph.bytes_accessed.sum()),
        "parameter_bytes": float(graph.parameter_bytes.sum()),
        "tensor_bytes": float(graph.tensor_bytes.sum()),
        "op_types": op_types,
        "heaviest_ops": [
            {
                "name": graph.op_names[op],
                "type": graph.op_types[op],
                "flops": float(graph.flops[op]),
                "bytes_accessed": float(graph.bytes_accessed[op]),
                "op_group": groups.names[groups.group_of_op[op]],
            }
            for op in heaviest.tolist()
        ],
    }


def summarize_op(graph: OpGraph, groups: OpGroups, name: str) -> dict[str, Any]:
    """The figures of one op and why it is in its op group.

    Raises:
        UnknownNameError: The graph has no op of this name.
    """
    op = graph.op_index.get(name)
    if op is None:
        raise UnknownNameError("op", name, graph.op_index)
    group = int(groups.group_of_op[op])
    producers, consumers, _ = graph.edges
    return {
        "name": name,
        "type": graph.op_types[op],
        "flops": float(graph.flops[op]),
        "bytes_accessed": float(graph.bytes_accessed[op]),
        "parameter_bytes": float(graph.parameter_bytes[op]),
        "temporary_bytes": float(graph.temporary_bytes[op]),
        "inputs": list(
            dict.fromkeys(graph.op_names[i] for i in producers[consumers == op].tolist())
        ),
        "consumers": list(
            dict.fromkeys(graph.op_names[i] for i in consumers[producers == op].tolist())
        ),
        "op_group": groups.names[group],
        "op_group_index": group,
        "op_group_num_ops": int((groups.group_of_op == group).sum()),
        "explanation": groups.explain(name),
    }


def summarize_cluster(cluster: Cluster) -> dict[str, Any]:
    """Devices and links of a cluster; memory without limit is None."""
    names = cluster.device_names
    links = [
        {
            "source": source,
            "target": target,
            "bandwidth": _finite(float(cluster.bandwidth[s, t])),
            "latency_seconds": float(cluster.latency_seconds[s, t]),
            "channel": (
                cluster.channel_names[cluster.channel_ids[s, t]]
                if cluster.channel_ids[s, t] >= 0
                else None
            ),
        }
        for s, source in enumerate(names)
        for t, target in enumerate(names)
        if s != t
    ]
    return {
        "name": cluster.name,
        "fingerprint": cluster.fingerprint,
        "devices": [
            {
                "name": device.name,
                "kind": device.kind,
                "model": device.model,
                "memory_bytes": _finite(device.memory_bytes),
                "flops": _finite(device.flops),
                "memory_bandwidth": _finite(device.memory_bandwidth),
                "op_overhead_seconds": device.op_overhead_seconds,
                "slots": device.slots,
            }
            for device in cluster.devices
        ],
        "links": links,
    }


def _finite(value: float) -> float | None:
    """JSON has no word for infinity."""
    return value if math.isfinite(value) else None
