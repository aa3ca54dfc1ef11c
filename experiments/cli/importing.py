"""The command ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from placer.errors import UsageError


@app.command("import")
def import_problem(
    file: Annotated[Path, typer.Argument(help="What to read.", metavar="FILE")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format", help="Its format: tarnawski, doppler or cost-graph.", metavar="NAME"
        ),
    ],
    out_graph: Annotated[
        Path,
        typer.Option("--out-graph", help="Graph file to write, .json or .json.gz.", metavar="FILE"),
    ],
    out_cluster: Annotated[
        Path | None,
        typer.Option("--out-cluster", help="Cluster file to write, .toml.", metavar="FILE"),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            help="How many accelerators; otherwise as many as the file says, or its authors took.",
            min=1,
            metavar="N",
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Have a CPU beside them.")] = False,
) -> None:
    """Read a problem that others published, as a graph and a cluster."""
    from experiments import profiling
    from placer import importers

    profiling.check_out(out_graph, (".json", ".json.gz"))
    if out_cluster is not None:
        profiling.check_out(out_cluster, (".toml",))
    if format_name == "cost-graph":  # TensorFlow has the reader of its protocol buffers
        terminal.load_tensorflow()
    graph, cluster = importers.read(file, format_name, num_devices=devices, cpu=cpu)
    if out_cluster is not None and cluster is None:
        raise UsageError(f"{file}: says nothing of devices; expected no --out-cluster")
    graph.save(out_graph)
    typer.echo(f"{graph.num_ops} ops written to {out_graph}")
    if cluster is not None and out_cluster is not None:
        cluster.save(out_cluster)
        typer.echo(f"{cluster.num_devices} devices written to {out_cluster}")
