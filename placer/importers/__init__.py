"""Importers: problems that others published, as a graph and a cluster of ours.

Each reads one format; how its costs become ours is in its docstring and on the page of importing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.strategies import resolve

IMPORTERS: Mapping[str, str] = MappingProxyType(
    {
        "tarnawski": "placer.importers.tarnawski:read",
        "doppler": "placer.importers.doppler:read",
        "cost-graph": "placer.importers.cost_graph:read",
    }
)
"""Importers by format, each ``"module:attribute"``."""


def read(
    path: str | os.PathLike[str],
    format_name: str,
    *,
    num_devices: int | None = None,
    cpu: bool = False,
) -> tuple[OpGraph, Cluster | None]:
    """Reads a problem in a format of others.

    Args:
        path: The file; the graph is called after it.
        format_name: A name of :data:`IMPORTERS`.
        num_devices: How many accelerators; None for as many as the file or its authors say.
        cpu: Whether there is a CPU beside them.

    Returns:
        The graph, and the cluster where the format says enough for one.

    Raises:
        UnknownNameError: No such format.
        FormatError: The file does not follow it; the message says where.
        GraphError: What it says is no graph.
        UsageError: An argument that the format has no use for, or a number outside its range.
    """
    reader = resolve("format", format_name, IMPORTERS)
    graph, cluster = reader(path, num_devices=num_devices, cpu=cpu)
    return graph, cluster
