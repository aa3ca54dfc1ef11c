"""Whole simulations: against the floor and the reference, with memory, over threads."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.graph import OpGraph
from placer.placement import Order
from placer.simulator import Simulator
from tests import reference
from tests.benchmarks.families import make_cluster
from tests.benchmarks.floor import Floor, TunedFloor
from tests.benchmarks.measuring import Case, Criterion, Floats, Report, Table, measure
from tests.benchmarks.replay import Replay
from tests.benchmarks.workbench import MODELS, PLACEMENTS, Model, Scale, case, workload

Subjects = dict[str, Callable[[Any], object]]

_ORDERS: tuple[Order, ...] = ("fifo", "priority")
_PASSES = ("pass", "pass without branches")  # the faster is the floor
_REPLAYS = ("replay in order", "replay renumbered")  # the faster counts
_OTHER_ENGINES_ON = 8  # devices
_RAISED = 1.05  # a capacity that no placement comes near to, over what the largest may need


def engines(scale: Scale) -> Report:
    """Nanoseconds per op of each engine, over those of the floors."""
    ratios: dict[str, dict[str, float]] = defaultdict(dict)  # what a criterion judges
    rows, in_page = [], []
    for model in MODELS:
        ns = _ns_per_op(model, scale)
        settings = list(dict.fromkeys(key[:3] for key in ns))
        for num_ops, num_devices, kind in settings:
            where = f"{model}, {num_ops:,} ops, {num_devices} devices"
            by_name = {
                key[3]: value
                for key, value in ns.items()
                if key[:3] == (num_ops, num_devices, kind)
            }
            for order in _ORDERS:
                taken = by_name[order]
                small = ns.get((num_ops // 10, num_devices, kind, order))
                few = ns.get((num_ops, 8, kind, order))
                if num_ops >= scale.worth_judging and num_devices <= 8:
                    ratios[f"{kind} {order}"][where] = _median(taken / by_name["floor"])
                if num_ops == 10 * scale.worth_judging and small is not None:
                    ratios["ops"][f"{where}, {kind}, {order}"] = _median(taken / small)
                if num_ops >= scale.worth_judging and num_devices == 64 and few is not None:
                    ratios["devices"][f"{where}, {kind}, {order}"] = _median(taken / few)
            if "replay" in by_name and num_ops >= scale.worth_judging:
                replay, small = (
                    by_name["replay"],
                    ns.get((num_ops // 10, num_devices, kind, "replay")),
                )
                ratios[f"{kind} replay"][where] = _median(replay / by_name["floor"])
                ratios["over replay"][f"{where}, {kind}"] = _median(by_name["fifo"] / replay)
                if num_ops == 10 * scale.worth_judging and small is not None:
                    ratios["ops replay"][f"{where}, {kind}"] = _median(replay / small)
            rows.append(
                (
                    *model.words(),
                    f"{num_ops:,}",
                    num_devices,
                    kind,
                    scale.repetitions * scale.at(num_ops).rows,
                    f"{_median(by_name['floor']):.1f}",
                    f"{_median(by_name['tuned floor']):.1f}",
                    *(
                        f"{_median(by_name[name]):.1f} "
                        f"({_median(by_name[name] / by_name['floor']):.1f}x, "
                        f"{_median(by_name[name] / by_name['tuned floor']):.1f}x)"
                        if name in by_name
                        else ""
                        for name in ("fifo", "priority", "bus", "slots")
                    ),
                    *_against_replay(by_name),
                    f"{1e9 / (_median(by_name['fifo']) * workload(model, num_ops).graph.num_ops):,.0f}",
                )
            )
            in_page.append(num_devices == 8 and num_ops >= scale.worth_judging)
    criteria = [
        Criterion.at_most(
            f"{kind} placements, at most 8 devices, {order}: at most {limit}x the longest-path floor",
            limit,
            ratios[f"{kind} {order}"],
        )
        for kind, limit in (("grouped", 3), ("random", 7))
        for order in _ORDERS
    ]
    criteria += [
        Criterion.at_most("ns per op at 100k: at most 1.2x of 10k", 1.2, ratios["ops"]),
        Criterion.at_most("64 devices: at most 2x of 8", 2, ratios["devices"]),
    ]
    criteria += [
        Criterion.shown(f"{text}: not judged", ratios[name], max)
        for text, name in (
            ("grouped placements, 8 devices, the replay over the floor", "grouped replay"),
            ("random placements, 8 devices, the replay over the floor", "random replay"),
            ("8 devices, fifo over the replay", "over replay"),
            ("ns per op of the replay at 100k over 10k", "ops replay"),
        )
    ]
    columns = (
        *("graph", "direction", ">ops", ">devices", "placements", ">count"),
        *(">floor", ">tuned floor", ">fifo", ">priority"),
        *(">fifo, bus", ">fifo, 2 slots", ">replay", ">fifo / replay", ">evaluations/s, fifo"),
    )
    table = Table(
        "Nanoseconds per op; over the floor, and over the tuned floor", columns, rows, in_page
    )
    return Report("engines", criteria, [table])


def _ns_per_op(model: Model, scale: Scale) -> dict[tuple[int, int, str, str], Floats]:
    """By ops, devices, kind of placement, and subject, ``[repetitions]``."""
    cases = {}
    for num_ops in scale.sizes:
        work = workload(model, num_ops)
        for num_devices in scale.devices:
            subjects = _subjects(work.graph, num_devices, all_engines=num_ops < scale.large)
            prepare_for: Subjects = {}
            if num_devices == _OTHER_ENGINES_ON:
                replay = Replay(work.graph, make_cluster(num_devices))
                subjects |= dict.fromkeys(_REPLAYS, replay.seconds)
                prepare_for = dict(zip(_REPLAYS, (replay.order, replay.renumber), strict=True))
            for kind in PLACEMENTS:
                cases[num_ops, num_devices, kind] = dataclasses.replace(
                    case(work, kind, num_devices, scale.at(num_ops), subjects),
                    prepare_for=prepare_for,
                )
    found = {}
    for key, by_name in measure(cases, scale.repetitions).items():
        passes = [by_name.pop(name) for name in _PASSES]
        by_name["floor"] = min(passes, key=_median)
        by_name["tuned floor"] = min(by_name["floor"], by_name["tuned floor"], key=_median)
        replays = [by_name.pop(name) for name in _REPLAYS if name in by_name]
        if replays:
            by_name["replay"] = min(replays, key=_median)
        count = scale.at(key[0]).rows * workload(model, key[0]).graph.num_ops
        for name, seconds in by_name.items():
            found[(*key, name)] = seconds * 1e9 / count
    return found


def _against_replay(by_name: dict[str, Floats]) -> tuple[str, str]:
    """The replay, in brackets over the floor; and fifo over the replay."""
    if "replay" not in by_name:
        return "", ""
    replay = by_name["replay"]
    return (
        f"{_median(replay):.1f} ({_median(replay / by_name['floor']):.1f}x)",
        f"{_median(by_name['fifo'] / replay):.1f}x",
    )


def _median(values: Floats) -> float:
    return float(np.median(values))


def _subjects(graph: OpGraph, num_devices: int, *, all_engines: bool) -> Subjects:
    """The floors and the engines that are measured with so many devices."""
    cluster = make_cluster(num_devices)
    floor = Floor.build(graph, cluster)
    subjects: Subjects = dict(
        zip(_PASSES, (floor.seconds, floor.seconds_without_branches), strict=True)
    )
    subjects["tuned floor"] = TunedFloor.build(floor).seconds
    for order in _ORDERS:
        subjects[order] = Simulator(graph, cluster, order=order).evaluate
    if all_engines and num_devices == _OTHER_ENGINES_ON:
        subjects["bus"] = Simulator(graph, make_cluster(num_devices, "bus")).evaluate
        subjects["slots"] = Simulator(graph, make_cluster(num_devices, slots=2)).evaluate
    return subjects


def against_reference(scale: Scale) -> Report:
    """How much faster than the pure-Python reference, and whether the step times are equal."""
    num_devices = 8
    cluster = make_cluster(num_devices)
    found: dict[str, list[float]] = defaultdict(list)

    def subjects(model: Model) -> Subjects:
        work = workload(model, scale.reference_ops)
        simulator = Simulator(work.graph, cluster)

        def fast(rows: NDArray[np.int32]) -> None:
            found["fast"].append(simulator.evaluate(rows).step_time_seconds[0])

        def slow(rows: NDArray[np.int32]) -> None:
            found["slow"].append(reference.simulate(work.graph, cluster, rows[0]).step_time / 1e9)

        return {"fast": fast, "slow": slow}

    cases = {
        (model, kind): case(
            workload(model, scale.reference_ops), kind, num_devices, scale, subjects(model)
        )
        for model in MODELS
        for kind in PLACEMENTS
    }
    seconds = measure(cases, min(scale.repetitions, 2))
    mismatches = int((np.array(found["fast"]) != np.array(found["slow"])).sum())
    rows = [
        (
            *model.words(),
            f"{workload(model, scale.reference_ops).graph.num_ops:,}",
            kind,
            f"{_median(taken['slow']) * 1e3:,.0f}",
            f"{_median(taken['fast']) / scale.rows * 1e6:,.1f}",
            f"{_median(taken['slow'] / taken['fast']) * scale.rows:,.0f}x",
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
                work.placements(kind, num_devices, scale.warm_rows, seed=1),
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
        far[where] = _median(taken["far"] / taken["none"])
        exact[where] = _median(taken["exact"] / taken["none"])
        count = len(cases[model, kind].prepare(0))
        per_op = 1e9 / (count * workload(model, num_ops).graph.num_ops)
        rows.append(
            (
                *model.words(),
                kind,
                count,
                *(f"{_median(taken[name]) * per_op:.1f}" for name in ("none", "far", "exact")),
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
        simulators = {
            str(count): Simulator(work.graph, make_cluster(num_devices), num_threads=count).evaluate
            for count in (1, 2)
        }
        batches = dataclasses.replace(scale, rows=scale.batch)
        cases[model] = case(work, "grouped", num_devices, batches, simulators)
    seconds = measure(cases, scale.repetitions, time.perf_counter_ns)
    gains = {str(model): _median(t["1"] / t["2"]) for model, t in seconds.items()}
    rows = [
        (
            *model.words(),
            f"{_median(taken['1']) * 1e3:.1f}",
            f"{_median(taken['2']) * 1e3:.1f}",
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
