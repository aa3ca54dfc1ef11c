"""The commands ``train`` and ``plot``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.measuring_options import (
    DEFAULT_PATIENCE,
    DevicesOption,
    PatienceOption,
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

if TYPE_CHECKING:
    from experiments.run import RunConfig, RunFolder, RunResult
    from placer.problem import Problem

Evaluator = Literal["simulated", "measured"]

DEFAULT_STRATEGY = "reinforce"
DEFAULT_MEASUREMENTS = 200


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
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="No batch is begun after so many seconds of heuristics and training.",
            metavar="S",
        ),
    ] = None,
    plateau: Annotated[
        int | None,
        typer.Option(
            "--plateau",
            help="Stop once N evaluations in a row have found nothing better.",
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
    evaluator: Annotated[
        Evaluator | None,
        typer.Option(
            "--evaluator",
            help="Where step times come from: measured, they are those of TensorFlow, and training "
            "starts from the policy that was best on the simulator.  [default: simulated]",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            help="With --evaluator measured: the run on the simulator to start from; otherwise "
            "one is made first.",
            metavar="RUN",
        ),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A policy of placer pretrain to start from, or bundled.",
            metavar="POLICY",
        ),
    ] = None,
    size: SizeOption = None,
    workers: WorkersOption = None,
    shares: SharesOption = None,
    devices: DevicesOption = None,
    warmup: WarmupOption = None,
    steps: StepsOption = None,
    seconds_limit: SecondsLimitOption = None,
    patience: PatienceOption = DEFAULT_PATIENCE,
    as_json: JsonOption = False,
) -> None:
    """Learn a placement, starting from the best heuristic."""
    import msgspec

    from experiments import tables
    from experiments.pretraining import policy_path
    from experiments.run import RunFolder, free_folder
    from experiments.training import new_config, start_from

    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: give --out")
    folder = None if out is None else RunFolder(out)
    if folder is not None and not folder.is_empty() and not resume:
        raise UsageError(f"{out}: not empty; give another --out, or --resume to go on with its run")
    if pretrained is not None and evaluator == "measured":
        raise UsageError(
            "--from is of simulated step times: train with it there, and give that run as --start"
        )
    pretrained = pretrained and policy_path(pretrained)
    measuring = None
    given = size, workers, shares, devices, warmup, steps, seconds_limit
    if evaluator == "measured" and workload is not None:
        listed = None if cluster is None else load_cluster(cluster)
        measuring = measuring_config(workload, *given, cluster=listed)
    elif evaluator == "measured" and (folder is None or folder.is_empty()):
        raise UsageError("--evaluator measured needs the model to run: give --workload")
    elif start is not None or any(option is not None for option in given):
        raise UsageError("--start, --workers and all about steps are of --evaluator measured")
    asked: dict[str, object] = {
        "measuring": measuring,
        "evaluations": evaluations,
        "seed": seed,
        "strategy": strategy,
        "order": order,
        "groups": groups,
        "seconds": seconds,
        "plateau": plateau,
    }
    if folder is not None and not folder.is_empty():
        config = folder.read_config()
        op_graph, where = folder.read_graph(), folder.read_cluster()
        if graph is not None or (workload is not None and measuring is None):
            named = workload if measuring is None else None
            asked["graph_fingerprint"] = load_graph(graph, named).fingerprint
        if cluster is not None:
            asked["cluster_fingerprint"] = load_cluster(cluster).fingerprint
        config.check_agrees({key: value for key, value in asked.items() if value is not None})
        if evaluator is not None and (evaluator == "measured") != (config.measuring is not None):
            raise UsageError(f"--evaluator {evaluator}: the run was started with the other one")
        if start is not None and (
            not folder.simulated.begun
            or RunFolder(start).read_config() != folder.simulated.read_config()
        ):
            raise UsageError(f"--start {start}: the run was started from another one")
        if pretrained is not None and not folder.has_policy(pretrained):
            raise UsageError(f"--from {pretrained}: the run was not started from this policy")
        problem = build_problem(op_graph, where, config.groups, config.order)
    else:
        where = load_cluster(cluster)
        if measuring is not None and graph is None:
            terminal.load_tensorflow()
            op_graph = measuring.read_graph()
        else:
            op_graph = load_graph(graph, workload if measuring is None else None)
        problem = build_problem(op_graph, where, groups, order or "fifo")
        if pretrained is not None:
            terminal.load_tensorflow()
        usual = DEFAULT_EVALUATIONS if measuring is None else DEFAULT_MEASUREMENTS
        config = new_config(
            problem,
            strategy=strategy or DEFAULT_STRATEGY,
            evaluations=usual if evaluations is None else evaluations,
            seed=seed or 0,
            num_groups=groups,
            seconds=seconds,
            plateau=plateau,
            measuring=measuring,
            pretrained=pretrained,
        )
        if start is not None:
            config = start_from(RunFolder(start), config)
        name = f"{op_graph.name}-{where.name}-{config.strategy}-seed{config.seed}"
        folder = folder or free_folder(Path("runs") / re.sub(r"[^\w.-]+", "-", name))
        if start is not None:  # before there is a run, so that none is without it
            shutil.copytree(start, folder.simulated.path)
        folder.create(config, op_graph, where, pretrained)
    typer.echo(
        f"{config.strategy} on {config.graph} and {config.cluster}: "
        f"{problem.num_groups} op groups, {problem.num_devices} devices",
        err=True,
    )
    try:
        if folder.finished:
            result = folder.read_result()
        elif config.measuring is None:
            result = _train(problem, config, folder)
        else:
            result = _train_measured(problem, config, folder, patience)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; go on with: placer train --resume --out {folder.path}", err=True)
        raise
    if as_json:
        terminal.print_json(msgspec.to_builtins(result))
    else:
        terminal.print_tables([tables.training_table(result)])
        typer.echo(tables.training_note(result, config))
        typer.echo(f"placement written to {folder.placement}, metrics and all else beside it")


def _train(
    problem: Problem, config: RunConfig, folder: RunFolder, start: RunFolder | None = None
) -> RunResult:
    """Trains behind a progress bar."""
    from experiments.training import train

    terminal.load_tensorflow()  # events for TensorBoard import it, too
    with terminal.training_progress(config.evaluations) as (on_heuristics, on_progress):
        return train(problem, config, folder, on_heuristics, on_progress, start).figures


def _train_measured(
    problem: Problem, config: RunConfig, folder: RunFolder, patience: float
) -> RunResult:
    """Trains on the simulator, unless that is done, and from there on measured step times."""
    import msgspec

    from experiments.measuring import busy_note, measured, with_priorities_of
    from experiments.training import training_settings

    assert config.measuring is not None  # noqa: S101
    before = folder.simulated
    if not before.finished:
        on_simulator = msgspec.structs.replace(
            config,
            evaluations=DEFAULT_EVALUATIONS,
            seconds=None,
            plateau=None,
            training=training_settings(config.strategy),
            measuring=None,
        )
        if not before.begun:
            before.create(on_simulator, problem.graph, problem.cluster)
        _train(problem, on_simulator, before)
    terminal.load_tensorflow()
    with measured(
        with_priorities_of(before.placement, problem),
        config.measuring,
        folder.measurements,
        patience_seconds=patience,
        on_wait=say_waiting,
    ) as (task, evaluator):
        result = _train(task, config, folder, before)
        if note := busy_note(evaluator.measurements):
            typer.echo(note, err=True)
    return result


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
