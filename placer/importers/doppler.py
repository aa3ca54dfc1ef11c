"""The text graphs of DOPPLER."""

from __future__ import annotations

import math
import os
import re
from fractions import Fraction

from placer.cluster import Cluster
from placer.errors import FormatError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.importers._parts import (
    ACCELERATOR,
    accelerators,
    build_graph,
    check_devices,
    free_links,
    read_text,
)

NUM_DEVICES = 4
"""As in most experiments of the paper; it also has some with 8."""

_UNITS_PER_NANOSECOND = 10
_BANDWIDTH = 1e9  # one byte stands for a nanosecond
_NODE = re.compile(r"\s*(\d{1,18})\s*,\s*(\d{1,18})\s*(?:,?\s*([A-Za-z_]+))?\s*")


def read(
    path: str | os.PathLike[str], *, num_devices: int | None = None, cpu: bool = False
) -> tuple[OpGraph, Cluster]:
    """Reads a graph of DOPPLER (ICLR 2026, arXiv 2505.23131).

    Line 1 has the number of nodes, graph inputs included; line 2 the graph inputs, of which only
    their number matters; lines 3 and 4 sources and targets of the edges; then there is a line per
    node: compute cost, communication cost and perhaps a type. Costs are in units of 1e-10 s.

    Node ``i`` becomes op ``"i"``. It runs for its compute cost on any device, and makes one tensor
    if another node reads it. A transfer takes the communication cost of its source and never
    waits: the tensor has a byte per nanosecond of that, and links carry 1e9 bytes per second.
    Costs are rounded to nanoseconds, half to even, as the simulator does. Devices are equal, run
    one op at a time, first ready first, and have no memory limit.

    Args:
        path: The file.
        num_devices: How many devices; None for 4.
        cpu: There is none in these problems.

    Raises:
        FormatError: The file does not follow the format; the message has the line.
        GraphError: The edges have a cycle.
        UsageError: A CPU is asked for, or no device, or more than a cluster can have.
    """
    if cpu:
        raise UsageError("graphs of DOPPLER have one kind of device; expected no CPU beside it")
    num_devices = NUM_DEVICES if num_devices is None else num_devices
    check_devices(num_devices)
    lines = read_text(path).rstrip().split("\n")
    if len(lines) < 5:
        raise FormatError(f"{path}: has {len(lines)} lines; expected 4 and then one for each node")
    total, inputs, sources, targets = (_numbers(path, lines, i) for i in range(4))
    if len(total) != 1:
        raise FormatError(f"{path}: line 1: expected one number, how many nodes there are")
    num_nodes = total[0] - len(inputs)
    if num_nodes < 1 or len(lines) - 4 != num_nodes:
        raise FormatError(
            f"{path}: {len(lines) - 4} lines describe nodes; expected {num_nodes}: line 1 says "
            f"{total[0]}, of which line 2 names {len(inputs)} as graph inputs"
        )
    if len(sources) != len(targets):
        raise FormatError(
            f"{path}: line 3 has {len(sources)} sources of edges and line 4 {len(targets)} "
            "targets; expected as many"
        )
    for number, ends in ((3, sources), (4, targets)):
        for node in ends:
            if node >= num_nodes:
                raise FormatError(
                    f"{path}: line {number}: node {node}; expected one from 0 to {num_nodes - 1}"
                )
    read_by: list[list[str]] = [[] for _ in range(num_nodes)]
    for source, target in zip(sources, targets, strict=True):
        read_by[target].append(f"{source}:0")
    is_read = set(sources)
    ops = []
    for node in range(num_nodes):
        compute, communication, kind = _node(path, lines, node + 4)
        outputs = (Output(communication),) if node in is_read else ()
        ops.append(
            Op(
                str(node),
                kind,
                tuple(read_by[node]),
                outputs=outputs,
                seconds={ACCELERATOR: compute / 1e9},
            )
        )
    devices = accelerators(num_devices, math.inf)
    cluster = Cluster(f"doppler-{num_devices}", devices, free_links([(devices, _BANDWIDTH)]))
    return build_graph(path, ops), cluster


def _numbers(path: str | os.PathLike[str], lines: list[str], index: int) -> list[int]:
    """The numbers of a line, with commas between and perhaps one behind."""
    cells = [cell.strip() for cell in lines[index].split(",")]
    if not cells[-1]:
        cells.pop()
    for cell in cells:
        if not re.fullmatch(r"\d{1,9}", cell):
            raise FormatError(
                f"{path}: line {index + 1}: {cell[:40]!r}; expected whole numbers >= 0 with commas "
                "between"
            )
    return [int(cell) for cell in cells]


def _node(path: str | os.PathLike[str], lines: list[str], index: int) -> tuple[int, int, str]:
    """Compute and communication cost of a node in whole nanoseconds, and its type."""
    match = _NODE.fullmatch(lines[index])
    if match is None:
        raise FormatError(
            f"{path}: line {index + 1}: {lines[index][:40]!r}; expected a compute cost and a "
            "communication cost, whole numbers >= 0, and perhaps a type"
        )
    compute, communication = (
        round(Fraction(int(cost), _UNITS_PER_NANOSECOND)) for cost in match.groups()[:2]
    )
    return compute, communication, match[3] or "Node"
