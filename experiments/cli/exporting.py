"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    ClusterOption,
    GraphOption,
    WorkloadOption,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError


@app.command()
def export(
    placement: Annotated[
        Path, typer.Option("--placement", help="Placement file, .json.", metavar="FILE")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File to write: .json for the device by op, .pb or .pbtxt for a GraphDef.",
            metavar="FILE",
        ),
    ],
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    graph_def: Annotated[
        Path | None,
        typer.Option("--graph-def", help="GraphDef to place, .pb.", metavar="FILE"),
    ] = None,
    cluster: ClusterOption = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            help="TensorFlow's device for each of the cluster's, with commas between; "
            "otherwise those of the same names.",
            metavar="DEVICE,...",
        ),
    ] = None,
) -> None:
    """Write a placement in TensorFlow's terms."""
    terminal.load_tensorflow()
    from experiments.exporting import export as write_export
    from placer.placement import Placement

    if graph_def is not None and graph is None and workload is None:
        from placer import tf

        op_graph = tf.read(graph_def)
    elif graph_def is None:
        op_graph = load_graph(graph, workload)
    else:
        raise UsageError("--graph-def says the graph: give no --graph or --workload")
    placed = Placement.load(placement, op_graph, load_cluster(cluster))
    names = None if devices is None else devices.split(",")
    write_export(placed, out, devices=names, graph_def=graph_def)
    typer.echo(str(out))
