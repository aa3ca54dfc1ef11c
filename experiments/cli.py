"""The command ``placer``.

Only light modules are imported at the top, so that ``placer --help`` is fast. Results go to
stdout, progress and errors to stderr. Exit codes: 0, 2 for bad input, 130 when interrupted.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from experiments import terminal
from placer.errors import PlacerError, UsageError

if TYPE_CHECKING:
    from placer.cluster import Cluster
    from placer.graph import OpGraph
    from placer.problem import Problem

Order = Literal["fifo", "priority"]

DEFAULT_EVALUATIONS = 3000
DEFAULT_STRATEGY = "reinforce"


class _Group(TyperGroup):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PlacerError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has left; typer knows what to do
                raise
            typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Learns where each op of a TensorFlow graph should run so that a step takes least time.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

GraphOption = Annotated[
    Path | None, typer.Option("--graph", help="Graph file, .json or .json.gz.", metavar="FILE")
]
WorkloadOption = Annotated[
    str | None, typer.Option("--workload", help="Name of a bundled graph.", metavar="NAME")
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="Cluster file, .toml, or name of a preset.", metavar="CLUSTER"),
]
PlacementOption = Annotated[
    Path | None, typer.Option("--placement", help="Placement file, .json.", metavar="FILE")
]
PlacementDevicesOption = Annotated[
    str | None,
    typer.Option(
        "--placement-devices", help="Device on which to place every op.", metavar="DEVICE"
    ),
]
GroupsOption = Annotated[
    int | None,
    typer.Option("--groups", help="At most so many op groups.", min=1, metavar="N"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_names(as_json: JsonOption = False) -> None:
    """List workloads, clusters, strategies, heuristics."""
    from placer.cluster import preset_clusters
    from placer.graph import bundled_graphs
    from placer.heuristics import HEURISTICS
    from placer.strategies import STRATEGIES

    names = {
        "workloads": list(bundled_graphs()),
        "clusters": list(preset_clusters()),
        "strategies": list(STRATEGIES),
        "heuristics": list(HEURISTICS),
    }
    if as_json:
        terminal.print_json(names)
        return
    for kind, known in names.items():
        typer.echo(f"{kind + ':':<12} {' '.join(known)}")


@app.command()
def inspect(
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    op: Annotated[
        str | None, typer.Option("--op", help="Explain the op group of this op.", metavar="NAME")
    ] = None,
    groups: GroupsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in a graph, a cluster or an op group."""
    from experiments import inspection, tables
    from placer.grouping import group_ops

    found: dict[str, Any] = {}
    if graph is not None or workload is not None:
        op_graph = _load_graph(graph, workload)
        op_groups = group_ops(op_graph, groups)
        if op is not None:
            found["op"] = inspection.summarize_op(op_graph, op_groups, op)
        else:
            found["graph"] = inspection.summarize_graph(op_graph, op_groups)
    elif op is not None:
        raise UsageError("--op needs the graph that has it: give --graph or --workload")
    if cluster is not None:
        found["cluster"] = inspection.summarize_cluster(_load_cluster(cluster))
    if not found:
        raise UsageError("nothing to inspect: give --graph, --workload or --cluster")
    if as_json:
        terminal.print_json(found)
        return
    if "op" in found:
        terminal.print_tables([tables.op_table(found["op"])])
        typer.echo(found["op"]["explanation"])
    if "graph" in found:
        terminal.print_tables(tables.graph_tables(found["graph"]))
    if "cluster" in found:
        terminal.print_tables(tables.cluster_tables(found["cluster"]))


@app.command()
def simulate(
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    cluster: ClusterOption = None,
    placement: PlacementOption = None,
    placement_devices: PlacementDevicesOption = None,
    order: Annotated[
        Order | None,
        typer.Option("--order", help="Which ready op goes first; otherwise the placement's."),
    ] = None,
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
        if trace == schedule:
            raise UsageError(f"--schedule and --trace would both write {trace}")
    op_graph, devices = _load_graph(graph, workload), _load_cluster(cluster)
    if placement is not None and placement_devices is None:
        placed = Placement.load(placement, op_graph, devices)
    elif placement_devices is not None and placement is None:
        placed = simulation.everything_on(placement_devices, op_graph, devices)
    else:
        raise UsageError("give either --placement or --placement-devices")
    simulated = simulation.simulate(placed, order)
    if schedule is not None:
        simulation.write_schedule(simulated, schedule)
    if trace is not None:
        tracing.write_trace(simulated, op_graph, devices, trace)
    summary = simulation.summarize(simulated)
    if as_json:
        terminal.print_json(summary)
    else:
        terminal.print_tables([tables.simulation_table(op_graph.name, devices.name, summary)])


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
            asked["graph_fingerprint"] = _load_graph(graph, workload).fingerprint
        if cluster is not None:
            asked["cluster_fingerprint"] = _load_cluster(cluster).fingerprint
        config.check_agrees({key: value for key, value in asked.items() if value is not None})
        problem = _build_problem(op_graph, devices, config.groups, config.order)
    else:
        op_graph, devices = _load_graph(graph, workload), _load_cluster(cluster)
        problem = _build_problem(op_graph, devices, groups, order or "fifo")
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
def export(
    placement: Annotated[
        Path, typer.Option("--placement", help="Placement file, .json.", metavar="FILE")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File to write: .json for the device by op, .pb or .pbtxt for a GraphDef.",
            metavar="FILE",
        ),
    ],
    graph: GraphOption = None,
    workload: WorkloadOption = None,
    graph_def: Annotated[
        Path | None,
        typer.Option("--graph-def", help="GraphDef to place, .pb.", metavar="FILE"),
    ] = None,
    cluster: ClusterOption = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            help="TensorFlow's device for each of the cluster's, with commas between; "
            "otherwise those of the same names.",
            metavar="DEVICE,...",
        ),
    ] = None,
) -> None:
    """Write a placement in TensorFlow's terms."""
    from experiments.exporting import export as write_export
    from placer.placement import Placement

    if graph_def is not None and graph is None and workload is None:
        from placer import tf

        op_graph = tf.read(graph_def)
    elif graph_def is None:
        op_graph = _load_graph(graph, workload)
    else:
        raise UsageError("--graph-def says the graph: give no --graph or --workload")
    placed = Placement.load(placement, op_graph, _load_cluster(cluster))
    names = None if devices is None else devices.split(",")
    write_export(placed, out, devices=names, graph_def=graph_def)
    typer.echo(str(out))


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

    where = _load_cluster(cluster)
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
    graphs = [_load_graph(None, name) for name in dict.fromkeys(workloads or ())]
    if graph is not None:
        graphs.append(_load_graph(graph, None))
    if not graphs:
        raise UsageError("nothing to compare on: give names of workloads, or --graph")
    devices = _load_cluster(cluster)
    problems = [_build_problem(op_graph, devices, groups, "fifo") for op_graph in graphs]
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


def main() -> None:
    """Runs the command."""
    app()


def _load_graph(graph: Path | None, workload: str | None) -> OpGraph:
    from placer.errors import UnknownNameError
    from placer.graph import OpGraph, bundled_graphs

    if (graph is None) == (workload is None):
        raise UsageError("give either --graph or --workload")
    if graph is not None:
        return OpGraph.load(graph)
    if workload not in bundled_graphs():
        raise UnknownNameError("workload", str(workload), bundled_graphs())
    return OpGraph.load(bundled_graphs()[workload])


def _load_cluster(cluster: str | None) -> Cluster:
    from placer.cluster import Cluster

    if cluster is None:
        raise UsageError("give --cluster: a file, or the name of a preset")
    return Cluster.load(cluster)


def _build_problem(graph: OpGraph, cluster: Cluster, groups: int | None, order: Order) -> Problem:
    from placer.problem import Problem

    problem = Problem.build(graph, cluster, num_groups=groups, order=order)
    _ = problem.allowed  # raises where an op group may go nowhere, before anything is written
    return problem
