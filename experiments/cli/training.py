"""The commands ``train`` and ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    DEFAULT_EVALUATIONS,
    ClusterOption,
    GraphOption,
    GroupsOption,
    JsonOption,
    Order,
    WorkloadOption,
    build_problem,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError

DEFAULT_STRATEGY = "reinforce"


@app.command()
def train(
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations",
            help=f"Placements to evaluate, heuristics included.  [default: {DEFAULT_EVALUATIONS}]",
            min=1,
            metavar="N",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Of all randomness.  [default: 0]", min=0, metavar="S"),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help=f"How to search; see placer list.  [default: {DEFAULT_STRATEGY}]",
            metavar="NAME",
        ),
    ] = None,
    order: Annotated[
        Order | None,
        typer.Option("--order", help="Which ready op goes first.  [default: fifo]"),
    ] = None,
    groups: GroupsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for the run.  [default: a new one in runs/]", metavar="DIR"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn a placement, starting from the best heuristic."""
    from experiments import tables
    from experiments.run import RunFolder, free_folder
    from experiments.training import new_config, trains_policy
    from experiments.training import train as run_training

    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: give --out")
    folder = None if out is None else RunFolder(out)
    if folder is not None and not folder.is_empty() and not resume:
        raise UsageError(f"{out}: not empty; give another --out, or --resume to go on with its run")
    asked = {
        "evaluations": evaluations,
        "seed": seed,
        "strategy": strategy,
        "order": order,
        "groups": groups,
    }
    if folder is not None and not folder.is_empty():
        config = folder.read_config()
        op_graph, devices = folder.read_graph(), folder.read_cluster()
        if graph is not None or workload is not None:
            asked["graph_fingerprint"] = load_graph(graph, workload).fingerprint
        if cluster is not None:
            asked["cluster_fingerprint"] = load_cluster(cluster).fingerprint
        config.check_agrees({key: value for key, value in asked.items() if value is not None})
        problem = build_problem(op_graph, devices, config.groups, config.order)
    else:
        op_graph, devices = load_graph(graph, workload), load_cluster(cluster)
        problem = build_problem(op_graph, devices, groups, order or "fifo")
        config = new_config(
            problem,
            strategy=strategy or DEFAULT_STRATEGY,
            evaluations=DEFAULT_EVALUATIONS if evaluations is None else evaluations,
            seed=seed or 0,
            num_groups=groups,
        )
        name = f"{op_graph.name}-{devices.name}-{config.strategy}-seed{config.seed}"
        folder = folder or free_folder(Path("runs") / name)
        folder.create(config, op_graph, devices)
    typer.echo(
        f"{config.strategy} on {config.graph} and {config.cluster}: "
        f"{problem.num_groups} op groups, {problem.num_devices} devices",
        err=True,
    )
    try:
        if trains_policy(config.strategy):
            terminal.load_tensorflow()
        with terminal.training_progress(config.evaluations) as (
            on_heuristics,
            on_progress,
        ):
            result = run_training(problem, config, folder, on_heuristics, on_progress)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with: placer train --resume --out {folder.path}", err=True)
        raise
    if as_json:
        terminal.print_json(result.to_dict() | {"paths": folder.paths()})
    else:
        terminal.print_tables([tables.training_table(result)])
        typer.echo(f"{result.solution.evaluations} evaluations in {result.seconds:.1f} s")
        typer.echo(f"placement written to {folder.placement}, metrics and all else beside it")


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="RUNS...")],
    out: Annotated[
        Path, typer.Option("--out", help="Picture to write: .png, .svg or .pdf.", metavar="FILE")
    ] = Path("reward.png"),
) -> None:
    """Draw the reward curves of runs.

    Runs that differ in the seed alone are one line, their median, in a band from the least to the
    greatest of them.
    """
    from experiments.plots import RunCurves, check_picture, plot_runs

    check_picture(out)
    plot_runs([RunCurves.read(run) for run in runs], out)
    typer.echo(f"written to {out}")
