"""What several commands take: their options, and what those stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from placer.errors import UsageError

if TYPE_CHECKING:
    from placer.cluster import Cluster
    from placer.graph import OpGraph
    from placer.problem import Problem

Order = Literal["fifo", "priority"]

DEFAULT_EVALUATIONS = 3000

GraphOption = Annotated[
    Path | None, typer.Option("--graph", help="Graph file, .json or .json.gz.", metavar="FILE")
]
WorkloadOption = Annotated[
    str | None, typer.Option("--workload", help="Name of a bundled graph.", metavar="NAME")
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="Cluster file, .toml, or name of a preset.", metavar="CLUSTER"),
]
PlacementOption = Annotated[
    Path | None, typer.Option("--placement", help="Placement file, .json.", metavar="FILE")
]
PlacementDevicesOption = Annotated[
    str | None,
    typer.Option(
        "--placement-devices", help="Device on which to place every op.", metavar="DEVICE"
    ),
]
OrderOfPlacementOption = Annotated[
    Order | None,
    typer.Option("--order", help="Which ready op goes first; otherwise the placement's."),
]
GroupsOption = Annotated[
    int | None,
    typer.Option("--groups", help="At most so many op groups.", min=1, metavar="N"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_graph(graph: Path | None, workload: str | None) -> OpGraph:
    """The graph that ``--graph`` or ``--workload`` says.

    Raises:
        PlacerError: Neither or both were given, or it cannot be loaded.
    """
    from placer.errors import UnknownNameError
    from placer.graph import OpGraph, bundled_graphs

    if (graph is None) == (workload is None):
        raise UsageError("give either --graph or --workload")
    if graph is not None:
        return OpGraph.load(graph)
    if workload not in bundled_graphs():
        raise UnknownNameError("workload", str(workload), bundled_graphs())
    return OpGraph.load(bundled_graphs()[workload])


def load_cluster(cluster: str | None) -> Cluster:
    """The cluster that ``--cluster`` says.

    Raises:
        PlacerError: None was given, or it cannot be loaded.
    """
    from placer.cluster import Cluster

    if cluster is None:
        raise UsageError("give --cluster: a file, or the name of a preset")
    return Cluster.load(cluster)


def build_problem(graph: OpGraph, cluster: Cluster, groups: int | None, order: Order) -> Problem:
    """The problem with simulated step times.

    Raises:
        PlacerError: An op group may go nowhere, or an argument is outside its range.
    """
    from placer.problem import Problem

    problem = Problem.build(graph, cluster, num_groups=groups, order=order)
    _ = problem.allowed  # raises where an op group may go nowhere, before anything is written
    return problem
