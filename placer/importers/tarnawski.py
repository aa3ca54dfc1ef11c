"""The JSON workloads of Tarnawski et al."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from placer import files
from placer.cluster import Cluster, Device
from placer.errors import FormatError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.importers._parts import (
    ACCELERATOR,
    accelerators,
    build_graph,
    check_devices,
    free_links,
)

_BYTES_PER_NANOSECOND = 2.0**-100
_BANDWIDTH = 1e9 * _BYTES_PER_NANOSECOND
_LARGEST = 1e290  # as nanoseconds, alone and doubled, such milliseconds are still floats


class _Node(msgspec.Struct, rename="camel"):
    """A layer or an operator; latencies in milliseconds, the size in bytes."""

    id: int
    supported_on_fpga: bool | int
    cpu_latency: float
    fpga_latency: float
    size: float
    is_backward_node: bool | int = False
    color_class: int | None = None
    name: str | None = None


class _Edge(msgspec.Struct, rename="camel"):
    """An edge; the cost in milliseconds is that of the source's output."""

    source_id: int
    dest_id: int
    cost: float


class _Workload(msgspec.Struct):
    """A file."""

    nodes: list[_Node]
    edges: list[_Edge]
    memory_bytes: float = msgspec.field(name="maxSizePerFPGA")
    num_accelerators: int = msgspec.field(name="maxFPGAs")
    num_cpus: int = msgspec.field(name="maxCPUs", default=1)


def read(
    path: str | os.PathLike[str], *, num_devices: int | None = None, cpu: bool = False
) -> tuple[OpGraph, Cluster]:
    """Reads a workload of Tarnawski et al. (NeurIPS 2020, arXiv 2006.16423).

    - A node is an op, called by its name if no other node has it, else by its id. It knows its
      seconds on devices of kind ``accelerator`` and ``cpu``; where accelerators do not support it,
      it may only go to the CPU. Its type is ``Forward`` or ``Backward``.
    - A colour class is a colocation group.
    - ``size`` is parameter bytes. On accelerators, ``maxSizePerFPGA`` is the limit of their sum;
      the CPU has no limit, so that they count for nothing there.
    - A node that others read makes one tensor. Its transfer takes the ``cost`` of the edges between
      an accelerator and the CPU, twice that between two accelerators (through the CPU's memory),
      and never waits. In this model tensors take no memory. Ours take their bytes, so they have
      next to none: 2^-100 per nanosecond of cost, on links as slow as that, less in sum than what
      float64 can tell beside a byte of ``size``.
    - With a CPU, its ``maxCPUs`` cores are one device of as many slots, as they share a memory.

    Times are rounded to nanoseconds, half to even, as the simulator does; where twice a cost is
    rounded, that is done after doubling.

    Args:
        path: The file.
        num_devices: How many accelerators; None for ``maxFPGAs``.
        cpu: Whether there is a CPU.

    Raises:
        FormatError: The file does not follow the format; the message says where.
        GraphError: The edges have a cycle.
        UsageError: No accelerator, or more than a cluster can have, or a node needs a CPU and there
            is none.
    """
    workload = _decode(path)
    said_by = f"{path}: maxFPGAs" if num_devices is None else "the number of devices"
    num_devices = workload.num_accelerators if num_devices is None else num_devices
    check_devices(num_devices, said_by)
    if cpu and workload.num_cpus < 1:
        raise UsageError(f"{path}: a CPU is asked for, but maxCPUs is {workload.num_cpus}")
    for position, node in enumerate(workload.nodes):
        if not (node.supported_on_fpga or cpu):
            raise UsageError(
                f"{path}: nodes[{position}]: node {node.id} runs on the CPU alone; expected a CPU "
                "to be asked for"
            )
    devices = accelerators(num_devices, workload.memory_bytes)
    links = [(devices, _BANDWIDTH / 2)]
    everything = devices
    if cpu:
        host = Device("cpu:0", "cpu", memory_bytes=math.inf, slots=workload.num_cpus)
        everything = (*devices, host)
        links += [((device, host), _BANDWIDTH) for device in devices]
    name = f"{num_devices}-accelerators" + ("-and-cpu" if cpu else "")
    return build_graph(path, _ops(workload)), Cluster(name, everything, free_links(links))


def _ops(workload: _Workload) -> list[Op]:
    """The nodes as ops, in the file's order."""
    times = Counter(node.name for node in workload.nodes)
    names = {
        node.id: node.name if node.name and times[node.name] == 1 else str(node.id)
        for node in workload.nodes
    }
    inputs: dict[int, list[str]] = {node.id: [] for node in workload.nodes}
    costs: dict[int, float] = {}
    for edge in workload.edges:
        inputs[edge.dest_id].append(f"{names[edge.source_id]}:0")
        costs[edge.source_id] = edge.cost
    return [
        Op(
            names[node.id],
            "Backward" if node.is_backward_node else "Forward",
            tuple(inputs[node.id]),
            parameter_bytes=node.size,
            outputs=(Output(_tensor_bytes(costs[node.id])),) if node.id in costs else (),
            colocation_group=None if node.color_class is None else str(node.color_class),
            device_kinds=None if node.supported_on_fpga else ("cpu",),
            seconds={
                ACCELERATOR: round(_nanoseconds(node.fpga_latency)) / 1e9,
                "cpu": round(_nanoseconds(node.cpu_latency)) / 1e9,
            },
        )
        for node in workload.nodes
    ]


def _nanoseconds(milliseconds: float) -> Fraction:
    """The decimal number in the file, exactly."""
    return Fraction(repr(milliseconds)) * 10**6


def _tensor_bytes(milliseconds: float) -> float:
    """Bytes for which both kinds of link take what they should, to the nanosecond.

    In float64, a cost half-way between two nanoseconds could go to either side. So we take one that
    is rounded alike, alone and doubled, and is far from any half.
    """
    cost = _nanoseconds(milliseconds)
    single, double = round(cost), round(2 * cost)
    nearby = (double + Fraction((single * 2 > double) - (single * 2 < double), 4)) / 2
    return float(nearby) * _BYTES_PER_NANOSECOND


def _decode(path: str | os.PathLike[str]) -> _Workload:
    """The file, checked but for cycles."""
    content = files.read_bytes(path)
    try:
        workload = msgspec.json.decode(content, type=_Workload)
        files.check_keys_once(content, str(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not a workload in JSON ({error})") from None
    except RecursionError:
        raise FormatError(f"{path}: nested too deeply") from None
    if not workload.memory_bytes > 0:
        raise FormatError(
            f"{path}: maxSizePerFPGA is {workload.memory_bytes}; expected a number > 0"
        )
    for what, number in (("maxFPGAs", workload.num_accelerators), ("maxCPUs", workload.num_cpus)):
        if number < 0:
            raise FormatError(f"{path}: {what} is {number}; expected a whole number >= 0")
    _check_nodes(path, workload.nodes)
    _check_edges(path, workload.edges, {node.id for node in workload.nodes})
    return workload


def _check_nodes(path: str | os.PathLike[str], nodes: Sequence[_Node]) -> None:
    seen: dict[int, int] = {}
    for position, node in enumerate(nodes):
        where = f"{path}: nodes[{position}]"
        if node.id in seen:
            raise FormatError(f"{where}: id {node.id} is that of nodes[{seen[node.id]}], too")
        seen[node.id] = position
        for what, value in (
            ("cpuLatency", node.cpu_latency),
            ("fpgaLatency", node.fpga_latency),
            ("size", node.size),
        ):
            _check_figure(where, what, value)


def _check_figure(where: str, what: str, value: float) -> None:
    if not 0 <= value <= _LARGEST:
        raise FormatError(f"{where}: {what} is {value}; expected a number from 0 to {_LARGEST}")


def _check_edges(path: str | os.PathLike[str], edges: Sequence[_Edge], ids: set[int]) -> None:
    pairs: dict[tuple[int, int], int] = {}
    first_of: dict[int, int] = {}  # by source
    for position, edge in enumerate(edges):
        where = f"{path}: edges[{position}]"
        for what, node in (("sourceId", edge.source_id), ("destId", edge.dest_id)):
            if node not in ids:
                raise FormatError(f"{where}: {what} {node} is the id of no node")
        _check_figure(where, "cost", edge.cost)
        pair = (edge.source_id, edge.dest_id)
        if pair in pairs:
            raise FormatError(
                f"{where}: leads from {pair[0]} to {pair[1]} as edges[{pairs[pair]}] does"
            )
        pairs[pair] = position
        first = first_of.setdefault(edge.source_id, position)
        if edges[first].cost != edge.cost:
            raise FormatError(
                f"{where}: cost is {edge.cost}; expected {edges[first].cost} as in edges[{first}] "
                f"from the same node {edge.source_id}"
            )
