"""Times ops and calibrates clusters for ``placer profile`` and ``placer calibrate``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.measuring import MeasuringConfig
from placer import files
from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.tf import Calibration


def profile(config: MeasuringConfig, runs: int, cluster: Cluster | None) -> OpGraph:
    """The graph of a workload with seconds of its ops.

    Args:
        config: Which step is timed, and on what.
        runs: How many runs.
        cluster: The devices; None for those that the config says.

    Raises:
        PlacerError: As ``placer.tf.profile``.
    """
    from placer import tf

    step, specs = config.build_step()
    with config.open_workers() as workers:
        return tf.profile(
            step,
            *specs,
            cluster=cluster,
            devices=config.devices or None,
            workers=workers or None,
            steps=config.steps,
            runs=runs,
            seconds_limit=config.seconds_limit,
            name=config.workload,
        )


def calibrate(
    config: MeasuringConfig, graphs: Sequence[OpGraph], cluster: Cluster | None
) -> Calibration:
    """A cluster fitted to the seconds in graphs.

    Args:
        config: On what it is measured.
        graphs: The graphs; none to describe the devices only.
        cluster: The cluster to fit; None for a description of the devices.

    Raises:
        UsageError: Neither graphs nor devices to describe.
        PlacerError: As ``placer.tf.calibrate``.
    """
    from placer import tf

    if cluster is not None and not graphs:
        raise UsageError("nothing to fit the cluster to: give graphs of placer profile")
    devices = config.devices or None
    with config.open_workers() as addresses:
        workers = addresses or None
        if not graphs:
            return Calibration(Cluster.from_tensorflow(devices=devices, workers=workers), {})
        if cluster is None:
            cluster = Cluster.from_tensorflow(devices=devices, workers=workers)
        return tf.calibrate_report(graphs, cluster, devices=devices, workers=workers)


def check_out(path: str | os.PathLike[str], suffixes: Sequence[str]) -> None:
    """Refuses a file to write whose name says another format, or that could not be written.

    Raises:
        UsageError: The name does.
        PlacerError: It could not.
    """
    if not Path(path).name.endswith(tuple(suffixes)):
        raise UsageError(f"{os.fspath(path)}: unknown suffix; expected {' or '.join(suffixes)}")
    files.check_writable(path)


def summarize_profile(graph: OpGraph) -> dict[str, Any]:
    """What ``placer profile --json`` prints."""
    models: dict[str, dict[str, Any]] = {}
    for known in graph.seconds:
        for model, seconds in known.items():
            summary = models.setdefault(model, {"num_ops": 0, "seconds": 0.0})
            summary["num_ops"] += 1
            summary["seconds"] += seconds
    return {"graph": graph.name, "num_ops": graph.num_ops, "models": models}


def summarize_calibration(calibration: Calibration) -> dict[str, Any]:
    """What ``placer calibrate --json`` prints."""
    cluster = calibration.cluster
    return {
        "devices": [
            {
                "name": device.name,
                "model": device.model,
                "flops": device.flops,
                "memory_bandwidth": device.memory_bandwidth,
                "op_overhead_seconds": device.op_overhead_seconds,
            }
            for device in cluster.devices
        ],
        "links": [
            {
                "devices": link.devices,
                "bandwidth": link.bandwidth if link.bandwidth < float("inf") else None,
                "latency_seconds": link.latency_seconds,
            }
            for link in cluster.links
        ],
        "fits": {
            model: {
                "num_ops": fit.num_ops,
                "median_error": fit.median_error,
                "total_error": fit.total_error,
            }
            for model, fit in calibration.fits.items()
        },
    }
