"""Whole simulations: against the floor and the reference, with memory, over threads."""

from __future__ import annotations

import functools
import time
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from placer.graph import OpGraph
from placer.placement import Order
from placer.simulator import Simulator
from tests import reference
from tests.benchmarks.families import make_cluster
from tests.benchmarks.floor import Floor
from tests.benchmarks.measuring import Case, Criterion, Floats, Report, Table, measure
from tests.benchmarks.workbench import MODELS, PLACEMENTS, Scale, settings, workload

_ORDERS: tuple[Order, ...] = ("fifo", "priority")
_OTHER_ENGINES_ON = 8  # devices
_RAISED = 1.05  # a capacity that no placement comes near to, over what the largest may need


def engines(scale: Scale) -> Report:
    """Nanoseconds per op of each engine, over those of the floor."""
    at_most: dict[str, dict[str, float]] = defaultdict(dict)
    rows, in_page = [], []
    for model in MODELS:
        cases = {}
        for num_ops, num_devices, kind in settings(scale.sizes, scale.devices):
            work = workload(model, num_ops)
            cases[num_ops, num_devices, kind] = Case(
                functools.partial(work.placements, kind, num_devices, scale.rows),
                _subjects(work.graph, num_devices),
            )
        seconds = measure(cases, scale.repetitions)
        ns: dict[tuple[int, int, str, str], Floats] = {
            (*key, name): taken * 1e9 / (scale.rows * workload(model, key[0]).graph.num_ops)
            for key, by_name in seconds.items()
            for name, taken in by_name.items()
        }
        for num_ops, num_devices, kind in cases:
            key = (num_ops, num_devices, kind)
            where = f"{model}, {num_ops:,} ops, {num_devices} devices"
            floor = ns[*key, "floor"]
            for order in _ORDERS:
                ratio = float(np.median(ns[*key, order] / floor))
                if num_ops >= scale.worth_judging:
                    if num_devices <= 8:
                        at_most[f"{kind} {order}"][where] = ratio
                    if num_devices == 64 and 8 in scale.devices:
                        few = ns[num_ops, 8, kind, order]
                        growth = float(np.median(ns[*key, order] / few))
                        at_most["devices"][f"{where}, {kind}, {order}"] = growth
                if num_ops == 100_000 and 10_000 in scale.sizes:
                    small = ns[10_000, num_devices, kind, order]
                    growth = float(np.median(ns[*key, order] / small))
                    at_most["ops"][f"{model}, {num_devices} devices, {kind}, {order}"] = growth
            evaluations = 1e9 / (
                np.median(ns[*key, "fifo"]) * workload(model, num_ops).graph.num_ops
            )
            rows.append(
                (
                    model.family,
                    "training" if model.training else "forward",
                    f"{num_ops:,}",
                    num_devices,
                    kind,
                    f"{np.median(floor):.1f}",
                    f"{np.median(ns[*key, 'no transfers']):.1f}",
                    *(
                        f"{np.median(ns[*key, name]):.1f} ({np.median(ns[*key, name] / floor):.1f}x)"
                        if (*key, name) in ns
                        else ""
                        for name in ("fifo", "priority", "bus", "slots")
                    ),
                    f"{evaluations:,.0f}",
                )
            )
            in_page.append(num_devices == 8 and num_ops >= scale.worth_judging)
    criteria = [
        Criterion.at_most(
            f"{kind} placements, at most 8 devices, {order}: at most {limit}x the floor",
            limit,
            at_most[f"{kind} {order}"],
        )
        for kind, limit in (("grouped", 3), ("random", 7))
        for order in _ORDERS
    ]
    criteria += [
        Criterion.at_most("ns per op at 100k: at most 1.2x of 10k", 1.2, at_most["ops"]),
        Criterion.at_most("64 devices: at most 2x of 8", 2, at_most["devices"]),
    ]
    table = Table(
        "Nanoseconds per op, and over the floor",
        (
            *("graph", "direction", ">ops", ">devices", "placements"),
            *(">floor", ">without transfers", ">fifo", ">priority"),
            *(">fifo, bus", ">fifo, 2 slots", ">evaluations/s, fifo"),
        ),
        rows,
        in_page,
    )
    return Report("engines", criteria, [table])


def _subjects(graph: OpGraph, num_devices: int) -> dict:
    """The floor and every engine that is measured with so many devices."""
    cluster = make_cluster(num_devices)
    floor = Floor.build(graph, cluster)
    subjects = {"floor": floor.seconds, "no transfers": floor.seconds_without_transfers}
    for order in _ORDERS:
        subjects[order] = Simulator(graph, cluster, order=order).evaluate
    if num_devices == _OTHER_ENGINES_ON:
        subjects["bus"] = Simulator(graph, make_cluster(num_devices, "bus")).evaluate
        subjects["slots"] = Simulator(graph, make_cluster(num_devices, slots=2)).evaluate
    return subjects


def against_reference(scale: Scale) -> Report:
    """How much faster than the pure-Python reference, and whether the step times are equal."""
    num_devices = 8
    cluster = make_cluster(num_devices)
    found: dict[str, list[float]] = defaultdict(list)

    def case(model, kind: str) -> Case:
        work = workload(model, scale.reference_ops)
        simulator = Simulator(work.graph, cluster)

        def fast(rows: NDArray[np.int32]) -> None:
            found["fast"].append(simulator.evaluate(rows).step_time_seconds[0])

        def slow(rows: NDArray[np.int32]) -> None:
            found["slow"].append(reference.simulate(work.graph, cluster, rows[0]).step_time / 1e9)

        # as many rows for the fast one as it takes to time it
        draw = functools.partial(work.placements, kind, num_devices, scale.rows)
        return Case(draw, {"fast": fast, "slow": slow})

    cases = {(model, kind): case(model, kind) for model in MODELS for kind in PLACEMENTS}
    seconds = measure(cases, min(scale.repetitions, 3))
    mismatches = int((np.array(found["fast"]) != np.array(found["slow"])).sum())
    rows = [
        (
            model.family,
            "training" if model.training else "forward",
            f"{workload(model, scale.reference_ops).graph.num_ops:,}",
            kind,
            f"{np.median(taken['slow']) * 1e3:,.0f}",
            f"{np.median(taken['fast']) / scale.rows * 1e6:,.1f}",
            f"{np.median(taken['slow'] / taken['fast']) * scale.rows:,.0f}x",
        )
        for (model, kind), taken in seconds.items()
    ]
    columns = ("graph", "direction", ">ops", "placements", ">reference, ms", ">fifo, µs", ">ratio")
    return Report(
        "reference",
        [
            Criterion(
                "zero mismatches against the reference",
                f"{mismatches} of {len(found['slow'])} step times",
                mismatches == 0,
            )
        ],
        [Table(f"A placement on {num_devices} devices", columns, rows)],
    )


def memory(scale: Scale) -> Report:
    """What it costs to know the peak, where no capacity is near and where the exact one matters."""
    num_ops, num_devices = scale.sizes[1], 8
    cases = {}
    for model in MODELS:
        for kind in PLACEMENTS:
            work = workload(model, num_ops)
            placements = work.placements(kind, num_devices, scale.rows, 0)
            unlimited = Simulator(work.graph, make_cluster(num_devices))
            peaks = np.array(
                [max(unlimited.schedule(p).peak_memory_bytes.values()) for p in placements]
            )
            totals = np.array([bytes_without_frees(work.graph, p, num_devices) for p in placements])
            # the capacity that most placements fit only if the exact peak is known
            matters = (peaks <= peaks[:, None]) & (peaks[:, None] < totals)
            best = matters.sum(axis=1).argmax()
            chosen = placements[matters[best]]
            capacities = {"none": np.inf, "far": totals.max() * _RAISED, "exact": peaks[best]}
            cases[model, kind] = Case(
                lambda _, chosen=chosen: chosen,
                {
                    name: Simulator(
                        work.graph, make_cluster(num_devices, memory_bytes=float(capacity))
                    ).evaluate
                    for name, capacity in capacities.items()
                },
            )
    seconds = measure(cases, scale.repetitions)
    far, exact, rows = {}, {}, []
    for (model, kind), taken in seconds.items():
        where = f"{model}, {kind}"
        far[where] = float(np.median(taken["far"] / taken["none"]))
        exact[where] = float(np.median(taken["exact"] / taken["none"]))
        count = len(cases[model, kind].prepare(0))
        per_op = 1e9 / (count * workload(model, num_ops).graph.num_ops)
        rows.append(
            (
                model.family,
                "training" if model.training else "forward",
                kind,
                count,
                *(f"{np.median(taken[name]) * per_op:.1f}" for name in ("none", "far", "exact")),
                f"{far[where]:.2f}x",
                f"{exact[where]:.2f}x",
            )
        )
    columns = ("graph", "direction", "placements", ">count", ">no limit", ">far", ">exact")
    return Report(
        "memory",
        [
            Criterion.at_most("exact peak: at most 4x of a run without it", 4, exact),
            Criterion.at_most("no capacity near: at most 1.3x of no limit", 1.3, far),
        ],
        [
            Table(
                f"Nanoseconds per op, fifo, {num_ops:,} ops, {num_devices} devices",
                (*columns, ">far / no limit", ">exact / no limit"),
                rows,
            )
        ],
    )


def bytes_without_frees(graph: OpGraph, placement: NDArray[np.int32], num_devices: int) -> float:
    """Most bytes of variables, outputs and received copies that a device has, if none is freed."""
    _, consumers, tensors = graph.edges
    data = tensors >= 0
    copies = np.unique(np.stack([tensors[data], placement[consumers[data]]], axis=1), axis=0)
    copies = copies[placement[graph.tensor_producer[copies[:, 0]]] != copies[:, 1]]
    sizes = np.concatenate(
        [graph.parameter_bytes, graph.tensor_bytes, graph.tensor_bytes[copies[:, 0]]]
    )
    where = np.concatenate([placement, placement[graph.tensor_producer], copies[:, 1]])
    return float(np.bincount(where, sizes, num_devices).max())


def threads(scale: Scale) -> Report:
    """Wall-clock time of a batch over two threads and over one."""
    num_ops, num_devices = scale.sizes[1], 8
    cases = {}
    for model in MODELS:
        work = workload(model, num_ops)
        cases[model] = Case(
            functools.partial(work.placements, "grouped", num_devices, scale.batch),
            {
                str(count): Simulator(
                    work.graph, make_cluster(num_devices), num_threads=count
                ).evaluate
                for count in (1, 2)
            },
        )
    seconds = measure(cases, scale.repetitions, time.perf_counter_ns)
    gains = {str(model): float(np.median(t["1"] / t["2"])) for model, t in seconds.items()}
    rows = [
        (
            model.family,
            "training" if model.training else "forward",
            f"{np.median(taken['1']) * 1e3:.1f}",
            f"{np.median(taken['2']) * 1e3:.1f}",
            f"{gains[str(model)]:.2f}x",
        )
        for model, taken in seconds.items()
    ]
    return Report(
        "threads",
        [Criterion.at_least("two threads on two idle cores: at least 1.7x one", 1.7, gains)],
        [
            Table(
                f"Wall-clock ms for {scale.batch} grouped placements, fifo, {num_ops:,} ops, "
                f"{num_devices} devices",
                ("graph", "direction", ">1 thread", ">2 threads", ">gain"),
                rows,
            )
        ],
    )
