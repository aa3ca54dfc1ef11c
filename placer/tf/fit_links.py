"""Latency and bandwidth of links while devices compute, fitted to measured steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec.structs import replace
from numpy.typing import ArrayLike

from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.placement import Order, check_placements
from placer.simulator import Simulator
from placer.tf._fit import rounded

Point = tuple[str | None, float, float]
"""A channel for all links, None for their own; powers of two for latency and slowness."""

_POWERS = np.arange(-1.0, 7.0)  # half as slow to 64 times as slow
_FINER = (0.5, 0.25)
_STARTS = 8


def fit_links(
    graph: OpGraph,
    cluster: Cluster,
    placements: ArrayLike,
    step_seconds: ArrayLike,
    *,
    order: Order = "fifo",
) -> Cluster:
    """Fits the links of a cluster to measured step times.

    Timed alone, a transfer finds its devices idle. In a step of processors that also send and
    receive, it waits for a core and then takes it from the ops. The simulator has no word for
    that, but slower links, whose two directions share a channel, come near it. So three figures
    are fitted that all links have in common: a factor of their latencies, one of their bandwidths,
    and whether the two directions of a pair share a channel. That is too little to fit noise.

    The figures are those with the least mean ``|log(simulated / measured)|``, by a grid of powers
    of two that is then refined.

    Args:
        graph: The graph, with the seconds of its ops.
        cluster: The cluster, with its links as they were timed.
        placements: What was measured, ``[num_placements, num_ops]``.
        step_seconds: The measured step times, ``[num_placements]``.
        order: In which they were measured; with ``"priority"``, by the simulator's own priorities.

    Raises:
        UsageError: Other shapes, no placement, or times that are not positive.

    Example:
        >>> fitted = placer.tf.fit_links(graph, cluster, placements, step_seconds)
    """
    devices = np.atleast_2d(check_placements(placements, graph, cluster))
    measured = np.asarray(step_seconds, float)
    if measured.shape != (len(devices),) or not len(devices):
        raise UsageError(
            f"{len(devices)} placements and step times of shape {measured.shape}; expected as many "
            "times as placements, and at least one"
        )
    if not (np.isfinite(measured) & (measured > 0)).all():
        raise UsageError("a step time is not a positive number of seconds")

    # what was measured had enough memory
    roomy = tuple(replace(device, memory_bytes=np.inf) for device in cluster.devices)
    where = Cluster(cluster.name, roomy, cluster.links)

    def loss(point: Point) -> float:
        simulator = Simulator(graph, _with_links(where, point), order=order)
        simulated = simulator.evaluate(devices).step_time_seconds
        return float(np.abs(np.log(simulated / measured)).mean())

    losses = {point: loss(point) for channel in (None, "unordered") for point in _grid(channel)}
    for step in _FINER:
        # a longer latency makes up for a higher bandwidth: the best may be far along that valley
        for best in sorted(losses, key=losses.__getitem__)[:_STARTS]:
            better = True
            while better:
                around = list(_around(best, step))
                losses |= {point: loss(point) for point in around if point not in losses}
                nearest = min(around, key=losses.__getitem__)
                better = losses[nearest] < losses[best]
                best = nearest if better else best
    return _with_links(cluster, min(losses, key=losses.__getitem__))


def _grid(channel: str | None) -> Iterator[Point]:
    for latency in _POWERS.tolist():
        for slowness in _POWERS.tolist():
            yield channel, latency, slowness


def _around(point: Point, step: float) -> Iterator[Point]:
    channel, latency, slowness = point
    for more_latency in (-step, 0.0, step):
        for more_slowness in (-step, 0.0, step):
            yield channel, latency + more_latency, slowness + more_slowness


def _with_links(cluster: Cluster, point: Point) -> Cluster:
    channel, latency, slowness = point
    links = tuple(
        replace(
            link,
            latency_seconds=rounded(link.latency_seconds * 2.0**latency),
            bandwidth=rounded(link.bandwidth / 2.0**slowness),
            channel=link.channel if channel is None else channel,
        )
        for link in cluster.links
    )
    return Cluster(cluster.name, cluster.devices, links)
