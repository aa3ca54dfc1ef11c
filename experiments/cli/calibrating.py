"""The commands ``profile`` and ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.measuring_options import (
    DevicesOption,
    SecondsLimitOption,
    SharesOption,
    SizeOption,
    StepsOption,
    WorkersOption,
    measuring_config,
)
from experiments.cli.options import ClusterOption, JsonOption


@app.command()
def profile(
    workload: Annotated[
        str, typer.Option("--workload", help="Name of a workload.", metavar="NAME")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Graph file to write, .json or .json.gz.", metavar="FILE")
    ],
    cluster: ClusterOption = None,
    size: SizeOption = None,
    workers: WorkersOption = None,
    shares: SharesOption = None,
    devices: DevicesOption = None,
    steps: StepsOption = None,
    runs: Annotated[int, typer.Option("--runs", help="Sessions per device.", min=1)] = 3,
    seconds_limit: SecondsLimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time the ops of a workload on each device."""
    terminal.load_tensorflow()
    from experiments import profiling, tables
    from placer.cluster import Cluster

    profiling.check_out(out, (".json", ".json.gz"))
    given = None if cluster is None else Cluster.load(cluster)
    config = measuring_config(
        workload,
        size,
        workers,
        shares,
        devices,
        steps=steps,
        seconds_limit=seconds_limit,
        cluster=given,
    )
    graph = profiling.profile(config, runs, given)
    graph.save(out)
    summary = profiling.summarize_profile(graph)
    if as_json:
        terminal.print_json(summary | {"path": str(out)})
    else:
        for model, timed in summary["models"].items():
            seconds = tables.format_seconds(timed["seconds"])
            typer.echo(
                f"{model}: {timed['num_ops']} of {summary['num_ops']} ops take {seconds} in all"
            )
        typer.echo(f"written to {out}")


@app.command()
def calibrate(
    out: Annotated[
        Path, typer.Option("--out", help="Cluster file to write, .toml.", metavar="FILE")
    ],
    graphs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Graph files of 'placer profile'; none to describe the devices only.",
            metavar="GRAPHS...",
            show_default=False,
        ),
    ] = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    shares: SharesOption = None,
    devices: DevicesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a cluster file of real devices, fitted to what ops and transfers take.

    Without --cluster, the devices are described first: peaks, overhead and memory.
    """
    terminal.load_tensorflow()
    from experiments import profiling
    from placer.cluster import Cluster
    from placer.graph import OpGraph

    profiling.check_out(out, (".toml",))
    given = None if cluster is None else Cluster.load(cluster)
    config = measuring_config("", None, workers, shares, devices, cluster=given)
    found = profiling.calibrate(config, [OpGraph.load(path) for path in graphs or ()], given)
    found.cluster.save(out)
    if as_json:
        terminal.print_json(profiling.summarize_calibration(found) | {"path": str(out)})
    else:
        typer.echo(str(found))
        typer.echo(f"written to {out}")
