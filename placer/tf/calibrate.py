"""Cluster files of real devices: described, measured, fitted."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from placer.cluster import Cluster, Device, Link
from placer.errors import PlacerError, UsageError
from placer.graph import OpGraph
from placer.tf._bench import Bench
from placer.tf._fit import Fit, fit_device, rounded
from placer.tf._links import measure_links
from placer.tf._machine import find_devices
from placer.tf.profile import time_ops
from placer.tf.workers import Workers, num_workers

_SECONDS_LIMIT = 120.0
_MATMUL_SIZE = {"cpu": 1024}  # others are so fast that dispatch would count
_COPY_BYTES = 1 << 26
_NUM_TINY = 1000
_STEPS, _RUNS = 5, 3


@dataclass(frozen=True)
class Calibration:
    """A calibrated cluster. ``str()`` of it says how well it fits.

    Attributes:
        cluster: The cluster.
        fits: What was fitted for each device model, or kind where that is all.
    """

    cluster: Cluster
    fits: Mapping[str, Fit]

    def __str__(self) -> str:
        lines = [str(fit) for fit in self.fits.values()]
        lines += [
            f"{' - '.join(link.devices)}: latency {link.latency_seconds * 1e6:.4g} us, "
            f"{link.bandwidth / 1e9:.4g} GB/s"
            for link in self.cluster.links
        ]
        return "\n".join(lines)


def describe_machine(
    *, devices: Sequence[str] | None = None, workers: Workers = None, name: str = "tensorflow"
) -> Cluster:
    """What ``Cluster.from_tensorflow`` does, which says more."""
    names, described = find_devices(devices, workers)
    measured: dict[str, Device] = {}
    with Bench(workers, _SECONDS_LIMIT) as bench:
        for index, device in enumerate(described):
            if device.model not in measured:
                measured[device.model] = _measure_peaks(bench, names, index, device)
        links = measure_links(bench, names, [d.name for d in described], steps=_STEPS, runs=_RUNS)
    figures = [
        replace(measured[device.model], name=device.name, memory_bytes=device.memory_bytes)
        for device in described
    ]
    return Cluster(name, tuple(figures), links)


def calibrate(
    graphs: Sequence[OpGraph],
    cluster: Cluster,
    *,
    devices: Sequence[str] | None = None,
    workers: Workers = None,
    steps: int = _STEPS,
    runs: int = _RUNS,
) -> Cluster:
    """Fits a cluster's figures to what its devices do.

    Of each device, the overhead per op and the fractions of its peaks that families and types of
    ops reach are fitted to the seconds in the graphs; of each pair of devices, latency and
    bandwidth to transfers of several sizes. All else stays as it is.

    Args:
        graphs: Graphs of :func:`profile`, with seconds for the model, or kind, of each device.
        cluster: The cluster, such as ``Cluster.from_tensorflow`` gives.
        devices: Name of the TensorFlow device for each device of the cluster. By default those of
            the same names or, with workers, the CPU of each.
        workers: As ``placer.tf.MeasuredEvaluator`` takes them.
        steps: How many steps of each run count, for transfers.
        runs: How many runs.

    Raises:
        UsageError: No graph, a device without peaks or without seconds in any graph, an argument
            outside its range, or a device that TensorFlow does not have.
        PlacerError: A process does not start, there is no server where one should be, or a
            transfer fails.

    Example:
        >>> cluster = Cluster.from_tensorflow(workers=2)
        >>> graph = placer.tf.profile(train_step, *specs, workers=2)
        >>> placer.tf.calibrate([graph], cluster, workers=2).save("workers.toml")
    """
    return calibrate_report(
        graphs, cluster, devices=devices, workers=workers, steps=steps, runs=runs
    ).cluster


def calibrate_report(
    graphs: Sequence[OpGraph],
    cluster: Cluster,
    *,
    devices: Sequence[str] | None = None,
    workers: Workers = None,
    steps: int = _STEPS,
    runs: int = _RUNS,
) -> Calibration:
    """As :func:`calibrate`, and says how well the figures fit."""
    _check_counts(steps, runs)
    if not graphs:
        raise UsageError("no graphs to calibrate with; expected graphs of placer.tf.profile")
    fits: dict[str, Fit] = {}
    models = [device.model or device.kind for device in cluster.devices]
    for model, device in zip(models, cluster.devices, strict=True):
        if model not in fits:
            fits[model] = fit_device(graphs, device)
    figures = tuple(
        replace(
            device,
            op_overhead_seconds=fits[model].device.op_overhead_seconds,
            efficiency=fits[model].device.efficiency,
        )
        for model, device in zip(models, cluster.devices, strict=True)
    )
    links = time_links(cluster, devices=devices, workers=workers, steps=steps, runs=runs)
    return Calibration(Cluster(cluster.name, figures, links), fits)


def time_links(
    cluster: Cluster,
    *,
    devices: Sequence[str] | None,
    workers: Workers,
    steps: int,
    runs: int,
) -> tuple[Link, ...]:
    """Links of a cluster by timing transfers; each keeps its channel.

    Raises:
        UsageError, PlacerError: As :func:`calibrate`.
    """
    if cluster.num_devices < 2:
        return ()
    if devices is None and not workers:
        devices = cluster.device_names
    names, _ = find_devices(devices, workers)
    if len(names) != cluster.num_devices:
        raise UsageError(
            f"{num_workers(workers) if workers else len(names)} TensorFlow devices for the "
            f"{cluster.num_devices} devices of cluster {cluster.name!r}; expected one for each"
        )
    with Bench(workers, _SECONDS_LIMIT) as bench:
        links = measure_links(bench, names, cluster.device_names, steps=steps, runs=runs)
    return tuple(replace(link, channel=_channel(cluster, link.devices)) for link in links)


def _channel(cluster: Cluster, pair: Sequence[str]) -> str:
    """What transfers between two devices queue on."""
    return next(link.channel for link in cluster.links if set(pair) <= set(link.devices))


def _measure_peaks(bench: Bench, names: Sequence[str], index: int, device: Device) -> Device:
    """A device with the rates of a large matrix product, a copy and tiny ops.

    Args:
        bench: Where to run steps.
        names: TensorFlow's names of all devices.
        index: Which one is measured.
        device: What is known of it.
    """
    import tensorflow as tf

    def rates(function: Any, kind: str, *shape: int) -> tuple[float, float, float]:
        """FLOP/s, bytes per second and seconds of ops of a type, the medians."""
        spec = tf.TensorSpec(shape)
        traced = tf.function(function, autograph=False).get_concrete_function(spec)
        graph = bench.load(traced, names, name="peaks", warmup=2, steps=_STEPS)
        known = time_ops(bench, graph, {"": index}, _RUNS)[""]
        ops = [op for op, found in enumerate(graph.op_types) if found == kind]
        times = [known[name] for op in ops if (name := graph.op_names[op]) in known]
        if not times:
            raise PlacerError(
                f"TensorFlow's statistics do not say what {kind} takes on {names[index]}; "
                "expected a device that it can trace"
            )
        seconds = statistics.median(times)
        return graph.flops[ops[0]] / seconds, graph.bytes_accessed[ops[0]] / seconds, seconds

    size = _MATMUL_SIZE.get(device.kind, 4096)
    flops, _, _ = rates(lambda x: x @ x, "MatMul", size, size)
    _, bandwidth, _ = rates(tf.negative, "Neg", _COPY_BYTES // 4)
    _, _, overhead = rates(_many_tiny, "Sqrt", 16)
    return replace(
        device,
        flops=rounded(flops),
        memory_bandwidth=rounded(bandwidth),
        op_overhead_seconds=rounded(overhead),
    )


def _many_tiny(x: Any) -> Any:
    import tensorflow as tf

    for _ in range(_NUM_TINY):
        x = tf.sqrt(x)
    return x


def _check_counts(steps: int, runs: int) -> None:
    if steps < 1 or runs < 1:
        raise UsageError(f"steps is {steps} and runs {runs}; expected at least 1 and 1")
