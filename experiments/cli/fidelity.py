"""The command ``fidelity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    counting,
    measuring_config,
    say_waiting,
)
from experiments.cli.options import ClusterOption, JsonOption, Order, load_cluster
from placer.errors import UsageError

if TYPE_CHECKING:
    from placer.cluster import Cluster
    from placer.graph import OpGraph


@app.command()
def fidelity(
    workload: Annotated[
        str, typer.Option("--workload", help="Name of a workload.", metavar="NAME")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for all of it.", metavar="DIR")],
    graph: ProfiledOption = None,
    cluster: ClusterOption = None,
    size: SizeOption = None,
    workers: WorkersOption = None,
    shares: SharesOption = None,
    devices: DevicesOption = None,
    order: Annotated[Order, typer.Option("--order", help="Which ready op goes first.")] = "fifo",
    placements: Annotated[
        int, typer.Option("--placements", help="How many placements.", min=2)
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.", min=0)] = 0,
    misses: Annotated[
        int, typer.Option("--misses", help="How many of the largest to explain.", min=0)
    ] = 5,
    warmup: WarmupOption = None,
    steps: StepsOption = None,
    seconds_limit: SecondsLimitOption = None,
    patience: PatienceOption = DEFAULT_PATIENCE,
    as_json: JsonOption = False,
) -> None:
    """Compare simulated step times with measured ones, over many placements.

    Without --graph, the ops are profiled and the devices calibrated first. Given the same folder
    again, it goes on where it stopped.
    """
    from experiments.fidelity import (
        FidelityConfig,
        FidelityFolder,
        choose_placements,
        compare,
        explain_misses,
        fidelity_tables,
        fit_all,
        measure_all,
    )
    from placer import files
    from placer.graph import OpGraph
    from placer.problem import Problem
    from placer.simulator import Simulator

    if graph is not None and cluster is None:
        raise UsageError("--graph needs the cluster that it was timed on: give --cluster")
    given = None if cluster is None else load_cluster(cluster)
    profiled = None if graph is None else OpGraph.load(graph)
    measuring = measuring_config(
        workload, size, workers, shares, devices, warmup, steps, seconds_limit, given
    )
    config = FidelityConfig(
        "placer.fidelity/1",
        placements,
        seed,
        misses,
        measuring,
        graph="" if profiled is None else profiled.fingerprint,
        cluster="" if given is None else given.fingerprint,
        order=order,
    )
    folder = FidelityFolder(out)
    with files.sole_writer(out):
        if profiled is not None and not folder.began:
            terminal.load_tensorflow()
            measuring.check_graph(profiled)
        folder.begin(config)
        terminal.load_tensorflow()
        with measuring.open_workers() as addresses:

            def make() -> tuple[OpGraph, Cluster]:
                if profiled is not None and given is not None:
                    return profiled, given
                return measuring.calibrate(addresses, given)

            op_graph, where = folder.model(make)
            problem = Problem.build(op_graph, where, order=order)
            candidates = folder.candidates(lambda: choose_placements(problem, placements, seed))
            simulator = Simulator(op_graph, where, order=order)
            with (
                measuring.open_evaluator(
                    where,
                    addresses,
                    graph=op_graph,
                    order=order,
                    patience_seconds=patience,
                    on_wait=say_waiting,
                ) as evaluator,
                counting(2 * len(candidates), len(folder.repetitions())) as count,
            ):
                measure_all(evaluator, where, candidates, folder, seed, count)
                comparison = compare(simulator, candidates, folder.repetitions())
                fitted = folder.fitted(lambda: fit_all(simulator, candidates, comparison))
                best = Simulator(op_graph, fitted, order=order)
                explained = folder.misses(
                    lambda: explain_misses(evaluator, best, candidates, comparison, misses)
                )
        result = folder.write(config, comparison, explained)
    if as_json:
        terminal.print_json(result)
    else:
        terminal.print_tables(fidelity_tables(result))
        typer.echo(f"written to {out}")
