"""The command ``simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    ClusterOption,
    GraphOption,
    JsonOption,
    OrderOfPlacementOption,
    PlacementDevicesOption,
    PlacementOption,
    WorkloadOption,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError


@app.command()
def simulate(
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    placement: PlacementOption = None,
    placement_devices: PlacementDevicesOption = None,
    order: OrderOfPlacementOption = None,
    schedule: Annotated[
        Path | None,
        typer.Option(
            "--schedule", help="Write start and finish of all ops and transfers.", metavar="FILE"
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="Write a Chrome trace, .json or .json.gz; Perfetto opens it.",
            metavar="FILE",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a step under a placement."""
    from experiments import simulation, tables, tracing
    from placer.placement import Placement

    if trace is not None:
        tracing.check_trace(trace)
        if schedule is not None and trace.resolve() == schedule.resolve():
            raise UsageError(f"--schedule and --trace would both write {trace}")
    op_graph, devices = load_graph(graph, workload), load_cluster(cluster)
    if placement is not None and placement_devices is None:
        placed = Placement.load(placement, op_graph, devices)
    elif placement_devices is not None and placement is None:
        placed = simulation.everything_on(placement_devices, op_graph, devices)
    else:
        raise UsageError("give either --placement or --placement-devices")
    simulated = simulation.simulate(simulation.in_order(placed, order))
    if schedule is not None:
        simulation.write_schedule(simulated, schedule)
    if trace is not None:
        tracing.write_trace(simulated, op_graph, devices, trace)
    summary = simulation.summarize(simulated)
    if as_json:
        terminal.print_json(summary)
    else:
        terminal.print_tables([tables.simulation_table(op_graph.name, devices.name, summary)])
