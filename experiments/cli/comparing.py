"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments import terminal
from experiments.cli.app import app
from experiments.cli.options import (
    DEFAULT_EVALUATIONS,
    ClusterOption,
    GraphOption,
    GroupsOption,
    JsonOption,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError

if TYPE_CHECKING:
    from placer.placement import Order


@app.command()
def compare(
    workloads: Annotated[
        list[str] | None,
        typer.Argument(help="Names of bundled graphs.", metavar="WORKLOADS...", show_default=False),
    ] = None,
    graph: GraphOption = None,
    cluster: ClusterOption = None,
    methods: Annotated[
        str,
        typer.Option(
            "--methods", help="Heuristics and strategies, or all; see placer list.", metavar="A,B"
        ),
    ] = "all",
    evaluations: Annotated[
        str,
        typer.Option("--evaluations", help="Budgets of each method.", metavar="N,..."),
    ] = str(DEFAULT_EVALUATIONS),
    seeds: Annotated[
        int,
        typer.Option("--seeds", help="Runs of each method: seeds 0 to K-1.", min=1, metavar="K"),
    ] = 1,
    order: Annotated[
        str, typer.Option("--order", help="Which ready op goes first: fifo, priority or both.")
    ] = "fifo",
    groups: GroupsOption = None,
    jobs: Annotated[
        int, typer.Option("--jobs", help="How many runs at once.", min=1, metavar="J")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for what was run, tables and plots; what it has is not run again.",
            metavar="DIR",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare methods under one budget, over seeds.

    Methods are heuristics and strategies. Clusters, budgets and orders may be several, with commas
    between. With --json, there is a line for each run.
    """
    from experiments import comparison, tables

    names = comparison.parse_methods(methods)
    budgets = comparison.parse_budgets(evaluations)
    orders: tuple[Order, ...] = comparison.parse_orders(order)
    graphs = [load_graph(None, name) for name in dict.fromkeys(workloads or ())]
    if graph is not None:
        graphs.append(load_graph(graph, None))
    if not graphs:
        raise UsageError("nothing to compare on: give names of workloads, or --graph")
    names_of_clusters = [name.strip() for name in cluster.split(",")] if cluster else [None]
    clusters = [load_cluster(name) for name in names_of_clusters]
    asked = comparison.Comparison(graphs, clusters, names, budgets, seeds, orders, groups)
    folder = comparison.ComparisonFolder(out)
    with folder.journal() as journal:
        rows = []
        try:
            compared = comparison.compare(asked, journal, jobs)
            for row in terminal.tracked(compared, asked.num_rows):
                rows.append(row)
                if as_json:
                    terminal.print_json_line(row)
        except KeyboardInterrupt:
            if out is not None:
                typer.echo("interrupted; go on with the same command", err=True)
            raise
        rows = asked.sort(rows)
        folder.write(asked, rows, journal)
    if not as_json:
        summarized = comparison.summarize(rows)
        terminal.print_tables([tables.comparison_table(summarized)])
        for note in tables.infeasible_notes(summarized):
            typer.echo(note)
    for failure in dict.fromkeys(
        f"{task.method}, seed {task.seed}: {reason}" for task, reason in journal.failures.items()
    ):
        typer.echo(f"failed: {failure}", err=True)
    if journal.failures:
        raise typer.Exit(1)
