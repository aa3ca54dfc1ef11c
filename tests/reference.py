"""A slow simulator in pure Python, to be read beside the semantics and compared with the fast one.

It walks from instant to instant and looks at every op, device and channel each time; memory is
worked out afterwards from the finished schedule. It shares no code with ``placer.simulator``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster
from placer.costs import op_seconds
from placer.graph import OpGraph, split_input


@dataclass
class Transfer:
    """One tensor on its way to one other device; times in nanoseconds."""

    tensor: str  # "op:port" or "^op"
    source: int
    target: int
    num_bytes: float
    duration: int
    consumers: list[int]
    start: int = -1  # while it waits
    finish: int = -1


@dataclass
class Result:
    """Times in nanoseconds."""

    step_time: int = 0
    starts: dict[int, int] = field(default_factory=dict)
    finishes: dict[int, int] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    peak_memory_bytes: list[float] = field(default_factory=list)


def round_ns(seconds: float) -> int:
    """Half to even, as round() does; at least one."""
    return max(1, round(seconds * 1e9))


def durations(graph: OpGraph, cluster: Cluster) -> list[list[int]]:
    """Nanoseconds of each op on each device."""
    return [[round_ns(seconds) for seconds in row] for row in op_seconds(graph, cluster).tolist()]


def tensors_of(graph: OpGraph) -> dict[str, tuple[float, int, list[int]]]:
    """Bytes, producer and consumers of each tensor, and of each op's control signal, by name."""
    tensors: dict[str, tuple[float, int, list[int]]] = {}
    for i, op in enumerate(graph.ops()):
        for port, output in enumerate(op.outputs):
            tensors[f"{op.name}:{port}"] = (output.bytes, i, [])
        tensors[f"^{op.name}"] = (0, i, [])
    for i, op in enumerate(graph.ops()):
        for ref in dict.fromkeys(op.inputs):
            producer, from_port = split_input(ref)
            name = f"^{producer}" if from_port is None else f"{producer}:{from_port}"
            tensors[name][2].append(i)
    return tensors


def default_priorities(graph: OpGraph, cluster: Cluster) -> list[int]:
    """Longest remaining path of durations summed over all devices."""
    children: dict[int, list[int]] = defaultdict(list)
    for _, producer, consumers in tensors_of(graph).values():
        children[producer] += consumers
    longest: dict[int, int] = {}
    work = durations(graph, cluster)
    for op in reversed(graph.topological_order.tolist()):
        longest[op] = sum(work[op]) + max((longest[child] for child in children[op]), default=0)
    return [longest[op] for op in range(graph.num_ops)]


def simulate(
    graph: OpGraph,
    cluster: Cluster,
    placement: NDArray[np.int32],
    order: str = "fifo",
    priorities: Sequence[float] | NDArray[np.float64] | None = None,
) -> Result:
    """Simulates one placement."""
    ops = range(graph.num_ops)
    device_of = [int(device) for device in placement]
    work = durations(graph, cluster)
    tensors = tensors_of(graph)
    if priorities is None:
        priorities = default_priorities(graph, cluster)
    needs: dict[int, set[str]] = {op: set() for op in ops}  # tensors that must be on its device
    for name, (_, _, consumers) in tensors.items():
        for op in consumers:
            needs[op].add(name)
    there: list[set[str]] = [set() for _ in cluster.devices]  # tensors that are on each device
    ready_at: dict[int, int] = {}
    waiting: dict[int, list[Transfer]] = defaultdict(list)  # by channel
    result = Result()
    now = 0
    while True:
        # completions: ops, in the user's order, and transfers
        for op in [op for op in ops if result.finishes.get(op) == now]:
            outgoing = []
            for name, (num_bytes, producer, consumers) in tensors.items():
                if producer != op:
                    continue
                there[device_of[op]].add(name)
                for target in {device_of[c] for c in consumers} - {device_of[op]}:
                    pair = device_of[op], target
                    seconds = cluster.latency_seconds[pair] + num_bytes / cluster.bandwidth[pair]
                    here = [c for c in consumers if device_of[c] == target]
                    transfer = Transfer(name, *pair, num_bytes, round_ns(float(seconds)), here)
                    port = float("inf") if name.startswith("^") else int(name.rsplit(":")[-1])
                    outgoing.append((min(here), port, transfer))
            for _, _, transfer in sorted(outgoing, key=lambda entry: entry[:2]):
                result.transfers.append(transfer)
                waiting[cluster.channel_ids[transfer.source, transfer.target]].append(transfer)
        for transfer in result.transfers:
            if transfer.finish == now:
                there[transfer.target].add(transfer.tensor)
        for op in ops:
            if op not in ready_at and needs[op] <= there[device_of[op]]:
                ready_at[op] = now
        # transfer starts
        for channel, queue in waiting.items():
            busy = any(
                t.finish > now
                for t in result.transfers
                if cluster.channel_ids[t.source, t.target] == channel
            )
            while queue and (channel < 0 or not busy):
                transfer = queue.pop(0)
                transfer.start, transfer.finish = now, now + transfer.duration
                busy = True
        # op starts
        for device, spec in enumerate(cluster.devices):
            mine = [op for op in ready_at if device_of[op] == device]
            running = sum(op in result.starts and result.finishes[op] > now for op in mine)
            first = {op: ready_at[op] if order == "fifo" else -priorities[op] for op in mine}
            ready = [op for op in mine if op not in result.starts]
            for op in sorted(ready, key=lambda op: (first[op], op))[: spec.slots - running]:
                result.starts[op], result.finishes[op] = now, now + work[op][device]
        ends = [*result.finishes.values(), *(t.finish for t in result.transfers)]
        if max(ends) <= now:
            break
        now = min(end for end in ends if end > now)
    result.step_time = max(result.finishes.values())
    result.peak_memory_bytes = peak_memory(graph, cluster, device_of, tensors, result)
    return result


def peak_memory(
    graph: OpGraph,
    cluster: Cluster,
    device_of: list[int],
    tensors: dict[str, tuple[float, int, list[int]]],
    result: Result,
) -> list[float]:
    """Most bytes in use at once on each device, from a finished schedule."""
    # (taken at, freed at, bytes)
    spans: list[list[tuple[float, float, float]]] = [[] for _ in cluster.devices]
    for op in range(graph.num_ops):
        device, start, finish = device_of[op], result.starts[op], result.finishes[op]
        spans[device].append((-1, float("inf"), graph.parameter_bytes[op]))
        spans[device].append((start, finish, graph.temporary_bytes[op]))
    for name, (num_bytes, op, consumers) in tensors.items():
        device = device_of[op]
        users = [result.finishes[c] for c in consumers if device_of[c] == device]
        sent = [t.finish for t in result.transfers if t.tensor == name]
        freed = max([result.finishes[op], *users, *sent])
        spans[device].append((result.starts[op], freed, num_bytes))
    for t in result.transfers:
        freed = max(result.finishes[c] for c in t.consumers)
        spans[t.target].append((t.start, freed, t.num_bytes))
    peaks = []
    for mine in spans:
        instants = {start for start, _, _ in mine}
        in_use = (sum(b for start, end, b in mine if start <= i < end) for i in instants)
        peaks.append(float(max(in_use, default=0)))
    return peaks


def breaks_a_constraint(graph: OpGraph, cluster: Cluster, placement: NDArray[np.int32]) -> bool:
    """Whether an op is on a device of a wrong kind or off its colocation group."""
    devices_of_group: dict[str, set[int]] = defaultdict(set)
    for op, device in zip(graph.ops(), placement.tolist(), strict=True):
        if op.device_kinds is not None and cluster.devices[device].kind not in op.device_kinds:
            return True
        if op.colocation_group is not None:
            devices_of_group[op.colocation_group].add(device)
    return any(len(devices) > 1 for devices in devices_of_group.values())
