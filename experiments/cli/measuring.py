"""The commands ``measure`` and ``worker``."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    ClusterOption,
    JsonOption,
    PlacementDevicesOption,
    PlacementOption,
    load_cluster,
)
from placer.errors import UsageError


@app.command()
def measure(
    workload: Annotated[
        str, typer.Option("--workload", help="Name of a workload.", metavar="NAME")
    ],
    cluster: ClusterOption = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size", help="A size that differs from the bundled graph's.", metavar="NAME=NUMBER"
        ),
    ] = None,
    placement: PlacementOption = None,
    placement_devices: PlacementDevicesOption = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            help="How many processes to start, or where 'placer worker' runs, with commas between; "
            "otherwise the devices of this machine.",
            metavar="N|HOST:PORT,...",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            help="TensorFlow's device for each of the cluster's, with commas between.",
            metavar="DEVICE,...",
        ),
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", help="Steps before.", min=0)] = 3,
    steps: Annotated[int, typer.Option("--steps", help="Steps to time.", min=1)] = 10,
    seconds_limit: Annotated[
        float, typer.Option("--seconds-limit", help="For building and all steps.")
    ] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Measure a step of TensorFlow under a placement."""
    from experiments import measuring, simulation, tables
    from placer.placement import Placement

    where = load_cluster(cluster)
    if (placement is None) == (placement_devices is None):
        raise UsageError("give either --placement or --placement-devices")
    terminal.load_tensorflow()
    from placer.tf import MeasuredEvaluator

    step, specs = measuring.build_step(workload, size or [])
    with MeasuredEvaluator(
        step,
        where,
        *specs,
        devices=None if devices is None else devices.split(","),
        workers=measuring.parse_workers(workers),
        warmup=warmup,
        steps=steps,
        seconds_limit=seconds_limit,
    ) as evaluator:
        if placement is not None:
            placed = Placement.load(placement, evaluator.graph, where)
        else:
            placed = simulation.everything_on(str(placement_devices), evaluator.graph, where)
        summary = measuring.summarize(evaluator.measure(placed))
    if as_json:
        terminal.print_json(summary)
    else:
        terminal.print_tables([tables.measurement_table(workload, where.name, summary)])


@app.command()
def worker(
    port: Annotated[int, typer.Option("--port", help="Where to listen.", min=0, max=65535)],
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Let other hosts connect, without a password.")
    ] = False,
) -> None:
    """Serve the devices of this machine to 'placer measure --workers', until interrupted."""
    import threading

    terminal.load_tensorflow()
    from placer.tf import address_of, start_server

    server = start_server(port, everywhere=everywhere)
    typer.echo(address_of(server))
    threading.Event().wait()
