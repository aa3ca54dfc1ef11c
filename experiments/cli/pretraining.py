"""The commands ``pretrain`` and ``place``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
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
from placer import files
from placer.errors import UsageError

if TYPE_CHECKING:
    from policies.pretraining import Pretrainer

DEFAULT_STEPS = 10_000
DEFAULT_SAMPLES = 48


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write, .npz.", metavar="FILE")],
    graph: Annotated[
        list[Path] | None,
        typer.Option("--graph", help="Graph file to train on besides; repeatable.", metavar="FILE"),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload", help="Bundled graph to train on besides; repeatable.", metavar="NAME"
        ),
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(
            "--cluster",
            help="Where to place these, each on every cluster and in both orders; repeatable.",
            metavar="CLUSTER",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option("--steps", help="Batches to train on.", min=1, metavar="N"),
    ] = DEFAULT_STEPS,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.", min=0, metavar="S")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the checkpoint in --out, if there is one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a policy that places any graph on any cluster, on generated and on given ones."""
    from experiments.pretraining import check_out

    check_out(out, resume=resume)
    graphs = [load_graph(path, None) for path in graph or []]
    graphs += [load_graph(None, name) for name in workload or []]
    clusters = [load_cluster(name) for name in cluster or []]
    if bool(graphs) != bool(clusters):
        raise UsageError("graphs and clusters come together: give both, or neither")
    problems = [
        build_problem(g, c, None, order)
        for g in graphs
        for c in clusters
        for order in get_args(Order)
    ]
    terminal.load_tensorflow()
    from policies.pretraining import Pretrainer

    pretrainer = Pretrainer(steps=steps, seed=seed, problems=problems)
    if resume and out.exists():
        pretrainer.restore(out)
    card = _pretrain(pretrainer, out)
    if as_json:
        terminal.print_json(card)
        return
    held_out = card["held_out"]
    typer.echo(
        f"{card['steps_taken']:,} steps, {card['evaluations']:,} evaluations; on "
        f"{held_out['problems']} held-out problems {held_out['likeliest_over_best_heuristic']:.3f} "
        f"of the best heuristic's step time at once, {held_out['best_over_best_heuristic']:.3f} "
        f"with {held_out['evaluations']} samples"
    )
    typer.echo(f"policy written to {out}, its card beside it")


def _pretrain(pretrainer: Pretrainer, out: Path) -> dict[str, Any]:
    """Pretrains behind a progress bar; returns the card."""
    from rich import progress
    from rich.console import Console

    from experiments.pretraining import pretrain
    from policies.pretraining import Row

    with progress.Progress(
        progress.BarColumn(12),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.description}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("pretraining", total=pretrainer.num_steps)

        def on_row(row: Row) -> None:
            state = f"samples {row.mean_gap:+.1%} from improved"
            if math.isnan(row.mean_gap):
                state = "no sample fits"
            bar.update(task, completed=row.step, description=f"{row.graph}: {state}")

        return pretrain(pretrainer, out, on_row).card


@app.command()
def place(
    policy: Annotated[
        Path,
        typer.Option("--policy", help="A policy of placer pretrain, or bundled.", metavar="FILE"),
    ] = Path("bundled"),
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    evaluations: Annotated[
        int,
        typer.Option(
            "--evaluations",
            help="Placements of the policy to evaluate, beside the heuristics'; the best counts.",
            min=1,
            metavar="N",
        ),
    ] = DEFAULT_SAMPLES,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.", min=0, metavar="S")] = 0,
    order: Annotated[Order, typer.Option("--order", help="Which ready op goes first.")] = "fifo",
    groups: GroupsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Placement file to write.", metavar="FILE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Place a graph by a pretrained policy, without training, or by a heuristic that is faster."""
    from experiments.pretraining import place, policy_path
    from experiments.tables import format_seconds

    if out is not None:
        files.check_writable(out)
    op_graph, where = load_graph(graph, workload), load_cluster(cluster)
    problem = build_problem(op_graph, where, groups, order)
    terminal.load_tensorflow()
    from policies.pretrained import PretrainedPolicy

    trained = PretrainedPolicy.load(policy_path(policy))
    began = time.perf_counter()
    solution = place(problem, trained, evaluations, seed)
    seconds = time.perf_counter() - began
    if out is not None:
        solution.placement().save(out)
    if as_json:
        terminal.print_json(
            {
                "workload": op_graph.name,
                "cluster": where.name,
                "order": order,
                "seed": seed,
                "evaluations": solution.evaluations,
                "found_by": solution.found_by,
                "step_time_seconds": solution.step_time_seconds,
                "seconds": seconds,
                "placement": None if out is None else str(out),
            }
        )
        return
    typer.echo(
        f"{op_graph.name} on {where.name}: step time {format_seconds(solution.step_time_seconds)}, "
        f"found by {solution.found_by}, the best of {solution.evaluations} placements in "
        f"{seconds:.1f} s"
    )
    if out is not None:
        typer.echo(f"placement written to {out}")
