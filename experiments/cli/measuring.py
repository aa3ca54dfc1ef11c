"""The commands ``measure`` and ``worker``."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.measuring_options import (
    DEFAULT_PATIENCE,
    DevicesOption,
    PatienceOption,
    ProfiledOption,
    SecondsLimitOption,
    SharesOption,
    SizeOption,
    StepsOption,
    WarmupOption,
    WorkersOption,
    measuring_config,
    say_waiting,
)
from experiments.cli.options import (
    ClusterOption,
    JsonOption,
    OrderOfPlacementOption,
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
    size: SizeOption = None,
    placement: PlacementOption = None,
    placement_devices: PlacementDevicesOption = None,
    order: OrderOfPlacementOption = None,
    graph: ProfiledOption = None,
    workers: WorkersOption = None,
    shares: SharesOption = None,
    devices: DevicesOption = None,
    warmup: WarmupOption = None,
    steps: StepsOption = None,
    seconds_limit: SecondsLimitOption = None,
    patience: PatienceOption = DEFAULT_PATIENCE,
    as_json: JsonOption = False,
) -> None:
    """Measure a step of TensorFlow under a placement."""
    from experiments import measuring, simulation, tables
    from placer.graph import OpGraph
    from placer.placement import Placement

    where = load_cluster(cluster)
    if (placement is None) == (placement_devices is None):
        raise UsageError("give either --placement or --placement-devices")
    profiled = None if graph is None else OpGraph.load(graph)
    terminal.load_tensorflow()
    config = measuring_config(
        workload, size, workers, shares, devices, warmup, steps, seconds_limit, where
    )
    with (
        config.open_workers() as addresses,
        config.open_evaluator(
            where, addresses, graph=profiled, patience_seconds=patience, on_wait=say_waiting
        ) as evaluator,
    ):
        if placement is not None:
            placed = Placement.load(placement, evaluator.graph, where)
        else:
            placed = simulation.everything_on(str(placement_devices), evaluator.graph, where)
        measurement = evaluator.measure(simulation.in_order(placed, order))
    summary = measuring.summarize(measurement)
    if as_json:
        terminal.print_json(summary)
    else:
        terminal.print_tables([tables.measurement_table(workload, where.name, summary)])
        if note := measuring.busy_note([measurement]):
            typer.echo(note)


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
