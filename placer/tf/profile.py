"""How long each op takes on each device, from TensorFlow's own statistics."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.tf._bench import Bench
from placer.tf._machine import find_devices, names_on
from placer.tf.apply import trace_function
from placer.tf.read import name_of
from placer.tf.workers import Workers

TIMED_SECONDS = 1e-7
"""Ops that take less, a few readings of the clock, are too small to time."""


def profile(
    target: Any,
    *specs: Any,
    cluster: Cluster | None = None,
    devices: Sequence[str] | None = None,
    workers: Workers = None,
    inputs: Sequence[Any] | None = None,
    steps: int = 10,
    runs: int = 3,
    seconds_limit: float = 300.0,
    name: str | None = None,
    training: bool = False,
    signature: str = "serving_default",
) -> OpGraph:
    """Reads a program into a graph that knows how long its ops take.

    All ops run on one device, one at a time, as what two at once on one core take says nothing of
    either. An op takes the median of its times in TensorFlow's statistics of all steps of all runs,
    plus its share of what a step without statistics takes beyond the sum of these: the dispatch
    of ops. So the seconds of all ops add up to the step time of that device, but for what a
    step takes that does nothing. On a throttled worker means take the place of medians, and what
    stops add to ops that are shorter than a stop is shared among these in proportion to their
    times.

    Devices of one model are equally fast: one of them is timed. The models are those of the cluster
    or, without one, of ``Cluster.from_tensorflow`` with the same `devices` and `workers`.

    An op gets no seconds, so that the roofline decides, where it takes less than
    :data:`TIMED_SECONDS` or the statistics do not have it.

    Args:
        target: What ``placer.tf.apply`` takes.
        *specs: As ``placer.tf.read`` was given.
        cluster: The devices; by default those that `devices` and `workers` are.
        devices: Names of TensorFlow devices, with a cluster one for each of its devices. By default
            all of this process, with a cluster those of the same names, or with workers the CPU of
            each.
        workers: As ``placer.tf.MeasuredEvaluator`` takes them.
        inputs: As ``placer.tf.MeasuredEvaluator`` takes them.
        steps: How many steps of each run count.
        runs: How many runs, each a session of its own; the devices take turns.
        seconds_limit: How long the steps of a run may take, with building them.
        name: What to call the graph; by default as `target` is called.
        training: As ``placer.tf.read`` was given.
        signature: As ``placer.tf.read`` was given.

    Returns:
        The graph of ``placer.tf.read`` with ``seconds`` by device model, or kind where that is all.

    Raises:
        ReadError: As ``placer.tf.read``, or a GraphDef.
        UsageError: An argument outside its range, or a device that TensorFlow does not have.
        PlacerError: A process does not start, there is no server where one should be, or a step
            fails; the message says on which device.

    Example:
        >>> graph = placer.tf.profile(train_step, *specs, workers=2)
        >>> simulator = Simulator(graph, Cluster.from_tensorflow(workers=2))
    """
    if steps < 1 or runs < 1:
        raise UsageError(f"steps is {steps} and runs {runs}; expected at least 1 and 1")
    if cluster is None:
        names, described = find_devices(devices, workers)
    else:
        names, described = names_on(cluster, devices, workers), cluster.devices
    function = trace_function(target, specs, training, signature)
    with Bench(workers, seconds_limit) as bench:
        graph = bench.load(
            function, names, name=name or name_of(target), warmup=2, steps=steps, inputs=inputs
        )
        models = [device.model or device.kind for device in described]
        by_model = {model: models.index(model) for model in models}
        found = time_ops(bench, graph, by_model, runs)
    return with_seconds(graph, found)


def time_ops(
    bench: Bench, graph: OpGraph, devices: Mapping[str, int], runs: int
) -> dict[str, dict[str, float]]:
    """Seconds of each op that can be timed, dispatch included, by what to call the device.

    Args:
        bench: What has loaded the graph.
        graph: The graph.
        devices: Index of each device by what to call it.
        runs: How many runs.

    Raises:
        PlacerError: A step fails.
    """
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in devices}
    totals: dict[str, list[float]] = {name: [] for name in devices}
    for _ in range(runs):
        for name, device in devices.items():
            steps, traced = bench.trace([device] * graph.num_ops)
            totals[name] += steps
            for op, seconds in traced.items():
                times[name][op] += seconds
    return {
        name: _with_dispatch(graph, times[name], totals[name], bench.stop_seconds(device))
        for name, device in devices.items()
    }


def with_seconds(graph: OpGraph, seconds: Mapping[str, Mapping[str, float]]) -> OpGraph:
    """The graph with seconds of ops by device model in place of those that it has of these.

    Args:
        graph: The graph.
        seconds: Seconds by op by device model.
    """
    ops = []
    for op in graph.ops():
        known = {model: of[op.name] for model, of in seconds.items() if op.name in of}
        others = {model: s for model, s in op.seconds.items() if model not in seconds}
        ops.append(replace(op, seconds=others | known))
    return OpGraph.from_ops(graph.name, ops)


def _with_dispatch(
    graph: OpGraph,
    times: Mapping[str, Sequence[float]],
    totals: Sequence[float],
    stop_seconds: float,
) -> dict[str, float]:
    """Seconds per op that add up to the step time.

    Args:
        graph: The graph.
        times: Seconds in each traced step by name of the op.
        totals: Seconds of each step without tracing.
        stop_seconds: How long each stop of a throttled worker takes; 0 if it is not throttled.
    """
    known = {
        op: seconds
        for op, seconds in times.items()
        if op in graph.op_index and statistics.median(seconds) >= TIMED_SECONDS
    }
    if not known:
        return {}
    if stop_seconds:
        typical, total = _slowed_by_stops(known, stop_seconds), statistics.fmean(totals)
    else:
        typical = {op: statistics.median(seconds) for op, seconds in known.items()}
        total = statistics.median(totals)
    dispatch = max(0.0, total - sum(typical.values())) / len(typical)
    return {op: seconds + dispatch for op, seconds in typical.items()}


def _slowed_by_stops(times: Mapping[str, Sequence[float]], stop_seconds: float) -> dict[str, float]:
    """What each op takes on average on a worker that is stopped now and then.

    A stop meets few of the samples of a short op, whole: a median knows nothing of it, and in the
    mean of few samples it is chance. But it meets short ops as often as they are long, so all of
    them together are slowed as each one is. An op that is longer than a stop meets about as many
    each time.

    Args:
        times: Seconds in each traced step by name of the op.
        stop_seconds: How long each stop takes.
    """
    means = {op: statistics.fmean(seconds) for op, seconds in times.items()}
    short = {
        op: median
        for op, seconds in times.items()
        if (median := statistics.median(seconds)) < stop_seconds  # so it was not stopped
    }
    if not short:
        return means
    slowdown = sum(means[op] for op in short) / sum(short.values())
    return means | {op: median * slowdown for op, median in short.items()}
