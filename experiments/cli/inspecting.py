"""Commands that look: ``list`` and ``inspect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    ClusterOption,
    GraphOption,
    GroupsOption,
    JsonOption,
    WorkloadOption,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError


@app.command("list")
def list_names(as_json: JsonOption = False) -> None:
    """List workloads, clusters, strategies, heuristics."""
    from placer.cluster import preset_clusters
    from placer.graph import bundled_graphs
    from placer.heuristics import HEURISTICS
    from placer.strategies import STRATEGIES

    names = {
        "workloads": list(bundled_graphs()),
        "clusters": list(preset_clusters()),
        "strategies": list(STRATEGIES),
        "heuristics": list(HEURISTICS),
    }
    if as_json:
        terminal.print_json(names)
        return
    for kind, known in names.items():
        typer.echo(f"{kind + ':':<12} {' '.join(known)}")


@app.command()
def inspect(
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    op: Annotated[
        str | None, typer.Option("--op", help="Explain the op group of this op.", metavar="NAME")
    ] = None,
    groups: GroupsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in a graph, a cluster or an op group."""
    from experiments import inspection, tables
    from placer.grouping import group_ops

    found: dict[str, Any] = {}
    if graph is not None or workload is not None:
        op_graph = load_graph(graph, workload)
        op_groups = group_ops(op_graph, groups)
        if op is not None:
            found["op"] = inspection.summarize_op(op_graph, op_groups, op)
        else:
            found["graph"] = inspection.summarize_graph(op_graph, op_groups)
    elif op is not None:
        raise UsageError("--op needs the graph that has it: give --graph or --workload")
    if cluster is not None:
        found["cluster"] = inspection.summarize_cluster(load_cluster(cluster))
    if not found:
        raise UsageError("nothing to inspect: give --graph, --workload or --cluster")
    if as_json:
        terminal.print_json(found)
        return
    if "op" in found:
        terminal.print_tables([tables.op_table(found["op"])])
        typer.echo(found["op"]["explanation"])
    if "graph" in found:
        terminal.print_tables(tables.graph_tables(found["graph"]))
    if "cluster" in found:
        terminal.print_tables(tables.cluster_tables(found["cluster"]))
