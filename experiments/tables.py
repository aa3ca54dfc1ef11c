"""Tables for the terminal, and numbers in words that people read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.comparison import MethodSummary
    from experiments.run import RunConfig, RunResult


def format_seconds(seconds: float) -> str:
    """A duration with a fitting unit: ``1.234 s``, ``12.3 ms``, ``4.56 us``."""
    if not math.isfinite(seconds):
        return "-"
    if seconds == 0:
        return "0 s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds / 1e-9:.4g} ns"


def format_quantity(value: float | None, unit: str) -> str:
    """A count of `unit` with a decimal prefix: ``1.5 GB`` for 1.5e9 and ``"B"``."""
    if value is None:
        return "no limit"
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose columns named with a leading ``>`` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        justify: Any = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # Text: names are no rich markup
    return table


def training_table(result: RunResult) -> Table:
    """Every heuristic and what was learned, and how much faster the best placement is."""
    best = result.best_step_time_seconds
    rows: list[tuple[str, float | None, str | None]] = [
        (row.name, row.step_time_seconds, row.infeasible_because) for row in result.heuristics
    ]
    learned = result.learned_step_time_seconds, result.nothing_learned_because
    rows.append((f"{result.strategy} (learned)", *learned))
    return make_table(
        f"{result.workload} on {result.cluster}: best step time {format_seconds(best)}, "
        f"found by {result.found_by}",
        ("method", ">step time", ">speedup of the best", "no step time because"),
        [
            (
                name,
                "-" if seconds is None else format_seconds(seconds),
                "" if seconds is None else f"{seconds / best:.2f}x",
                reason or "",
            )
            for name, seconds, reason in rows
        ],
    )


def training_note(result: RunResult, config: RunConfig) -> str:
    """What a run took, and what ended it."""
    why = {
        "evaluations": "the budget of evaluations was spent",
        "plateau": f"nothing better in the last {config.plateau}",
        "seconds": f"the {config.seconds or 0:g} seconds were over",
        "search": f"{config.strategy} had nothing left to try",
    }
    took = f"{result.evaluations} evaluations in {result.seconds:.1f} s"
    return f"{took}: {why[result.ended_by]}"


def comparison_table(summaries: Sequence[MethodSummary]) -> Table:
    """Best, median and interval over seeds of each method, and how far the best may be improved."""
    with_order = len({row.order for row in summaries}) > 1
    rows = [
        (
            row.workload,
            row.cluster,
            *((row.order,) if with_order else ()),
            row.method,
            row.evaluations,
            row.num_seeds,
            format_seconds(row.best_seconds),
            format_seconds(row.median_seconds),
            _interval(row),
            f"{row.speedup:.2f}x" if math.isfinite(row.speedup) else "",
            f"{row.gap:.1%}" if math.isfinite(row.gap) else "",
            format_seconds(row.seconds),
            (row.found_by or "").removeprefix(row.method).removeprefix(":"),
        )
        for row in summaries
    ]
    columns = ("workload", "cluster", *(("order",) if with_order else ()), "method")
    return make_table(
        "Step time (interval: least to greatest over seeds; speedup over the best single device; "
        "gap of the best to a lower bound)",
        (
            *(*columns, ">evaluations", ">seeds", ">best", ">median", "interval"),
            *(">speedup", ">gap", ">seconds", "found by"),
        ),
        rows,
    )


def _interval(row: MethodSummary) -> str:
    if not row.num_feasible:
        return "failed" if row.failed_because else "none found"
    low, high = format_seconds(row.best_seconds), format_seconds(row.high_seconds)
    number, unit = low.split()
    text = low if low == high else f"{number if high.endswith(f' {unit}') else low} to {high}"
    missing = row.num_seeds - row.num_feasible
    return f"{text}, {missing} without" if missing else text


def infeasible_notes(summaries: Sequence[MethodSummary]) -> list[str]:
    """Why methods found nothing feasible, a line for each reason in a setting."""
    methods: dict[tuple[str, str, str], list[str]] = {}
    for row in summaries:
        if row.infeasible_because:
            key = row.workload, row.cluster, row.infeasible_because
            methods.setdefault(key, []).append(row.method)
    return [
        f"{workload} on {cluster}, {', '.join(dict.fromkeys(names))}: none found: {reason}"
        for (workload, cluster, reason), names in methods.items()
    ]


def graph_tables(summary: Mapping[str, Any]) -> list[Table]:
    """What :func:`experiments.inspection.summarize_graph` gives."""
    facts = [
        ("ops", summary["num_ops"]),
        ("tensors", summary["num_tensors"]),
        ("edges", summary["num_edges"]),
        ("op groups", summary["num_groups"]),
        ("colocation groups", summary["num_colocation_groups"]),
        ("work", format_quantity(summary["flops"], "FLOP")),
        ("bytes accessed", format_quantity(summary["bytes_accessed"], "B")),
        ("parameters", format_quantity(summary["parameter_bytes"], "B")),
        ("tensors in all", format_quantity(summary["tensor_bytes"], "B")),
        ("fingerprint", summary["fingerprint"]),
    ]
    types = [
        (
            row["type"],
            row["num_ops"],
            format_quantity(row["flops"], "FLOP"),
            format_quantity(row["bytes_accessed"], "B"),
        )
        for row in summary["op_types"][:15]
    ]
    heaviest = [
        (
            row["name"],
            row["type"],
            format_quantity(row["flops"], "FLOP"),
            format_quantity(row["bytes_accessed"], "B"),
            row["op_group"],
        )
        for row in summary["heaviest_ops"]
    ]
    return [
        make_table(f"Graph {summary['name']}", ("", ">"), facts),
        make_table("Ops by type", ("type", ">ops", ">work", ">bytes accessed"), types),
        make_table(
            "Heaviest ops", ("op", "type", ">work", ">bytes accessed", "op group"), heaviest
        ),
    ]


def op_table(summary: Mapping[str, Any]) -> Table:
    """What :func:`experiments.inspection.summarize_op` gives."""
    rows = [
        ("type", summary["type"]),
        ("work", format_quantity(summary["flops"], "FLOP")),
        ("bytes accessed", format_quantity(summary["bytes_accessed"], "B")),
        ("parameters", format_quantity(summary["parameter_bytes"], "B")),
        ("temporary", format_quantity(summary["temporary_bytes"], "B")),
        ("inputs from", ", ".join(summary["inputs"]) or "-"),
        ("outputs to", ", ".join(summary["consumers"]) or "-"),
    ]
    return make_table(f"Op {summary['name']}", ("", ""), rows)


def simulation_table(graph: str, cluster: str, summary: Mapping[str, Any]) -> Table:
    """What :func:`experiments.simulation.summarize` gives."""
    rows = [
        (device, format_seconds(busy), format_quantity(summary["peak_memory_bytes"][device], "B"))
        for device, busy in summary["busy_seconds"].items()
    ]
    result = f"step time {format_seconds(summary['step_time_seconds'])}"
    if not summary["feasible"]:
        result = f"infeasible: {summary['infeasible_because']}"
    return make_table(
        f"{graph} on {cluster}: {result}\n{summary['num_transfers']} transfers, "
        f"{format_quantity(summary['transfer_bytes'], 'B')}",
        ("device", ">busy", ">peak memory"),
        rows,
    )


def measurement_table(graph: str, cluster: str, summary: Mapping[str, Any]) -> Table:
    """What :func:`experiments.measuring.summarize` gives."""
    if summary["feasible"]:
        result = (
            f"step time {format_seconds(summary['step_time_seconds'])}, "
            f"spread {format_seconds(summary['spread_seconds'])}"
        )
    else:
        result = f"infeasible: {summary['infeasible_because']}"
    rows = [
        (kind, str(index), format_seconds(seconds))
        for kind in ("warmup", "step")
        for index, seconds in enumerate(summary[f"{kind}_seconds"], start=1)
    ]
    return make_table(f"{graph} on {cluster}: {result}", ("kind", ">number", ">seconds"), rows)


def cluster_tables(summary: Mapping[str, Any]) -> list[Table]:
    """What :func:`experiments.inspection.summarize_cluster` gives."""
    devices = [
        (
            row["name"],
            row["model"],
            format_quantity(row["memory_bytes"], "B"),
            format_quantity(row["flops"], "FLOP/s"),
            format_quantity(row["memory_bandwidth"], "B/s"),
            format_seconds(row["op_overhead_seconds"]),
            row["slots"],
        )
        for row in summary["devices"]
    ]
    links = [
        (
            row["source"],
            row["target"],
            format_quantity(row["bandwidth"], "B/s"),
            format_seconds(row["latency_seconds"]),
            row["channel"] or "no contention",
        )
        for row in summary["links"]
    ]
    return [
        make_table(
            f"Cluster {summary['name']}",
            ("device", "model", ">memory", ">peak", ">bandwidth", ">overhead", ">slots"),
            devices,
        ),
        make_table("Links", ("from", "to", ">bandwidth", ">latency", "channel"), links),
    ]
