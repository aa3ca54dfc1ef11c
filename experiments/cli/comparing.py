"""The command ``compare``."""

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
    build_problem,
    load_cluster,
    load_graph,
)
from placer.errors import UsageError


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
        int,
        typer.Option("--evaluations", help="Budget of each method.", min=1, metavar="N"),
    ] = DEFAULT_EVALUATIONS,
    seeds: Annotated[
        int,
        typer.Option("--seeds", help="Runs of each method: seeds 0 to K-1.", min=1, metavar="K"),
    ] = 1,
    groups: GroupsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the rows as CSV.", metavar="FILE")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare methods under one budget, over seeds.

    Methods are heuristics and strategies. With --json, there is a line for each run.
    """
    from experiments import comparison, tables
    from experiments.training import trains_policy

    names = comparison.parse_methods(methods)
    graphs = [load_graph(None, name) for name in dict.fromkeys(workloads or ())]
    if graph is not None:
        graphs.append(load_graph(graph, None))
    if not graphs:
        raise UsageError("nothing to compare on: give names of workloads, or --graph")
    devices = load_cluster(cluster)
    problems = [build_problem(op_graph, devices, groups, "fifo") for op_graph in graphs]
    if any(map(trains_policy, names)):
        terminal.load_tensorflow()
    rows = []
    num_rows = len(problems) * len(names) * seeds
    for row in terminal.tracked(
        comparison.compare(problems, names, evaluations, range(seeds)), num_rows
    ):
        rows.append(row)
        if as_json:
            terminal.print_json_line(row)
    if out is not None:
        comparison.write_csv(rows, out)
    if not as_json:
        terminal.print_tables([tables.comparison_table(comparison.summarize(rows))])
