"""Latency and bandwidth between devices, from transfers of several sizes."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from placer.cluster import Link
from placer.tf._bench import Bench
from placer.tf._fit import rounded

SIZES_BYTES = (64, 1 << 14, 1 << 17, 1 << 20, 1 << 23)
"""Sizes of the tensors that are sent."""

_NUM_OPS = 13  # of a chain along which a tensor is handed on
_FEW_HOPS = 2


def measure_links(
    bench: Bench, devices: Sequence[str], names: Sequence[str], *, steps: int, runs: int
) -> tuple[Link, ...]:
    """A link for each pair of devices, as fast in either direction as in both on average.

    A tensor is handed from one device to the other and back, again and again. What a step takes
    more than one with fewer hops, per hop, is what a transfer takes.

    Args:
        bench: Where to run steps.
        devices: TensorFlow's names of the devices, ``[num_devices]``.
        names: Their names in the cluster, ``[num_devices]``.
        steps: How many steps of each run count.
        runs: How many runs; sizes and pairs take turns.

    Raises:
        PlacerError: A step fails.
    """
    import tensorflow as tf

    pairs = list(itertools.combinations(range(len(devices)), 2))
    if not pairs:
        return ()
    found: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(runs):
        for size in SIZES_BYTES:
            spec = tf.TensorSpec((size // 4,))
            function = tf.function(_hand_on, autograph=False).get_concrete_function(spec)
            graph = bench.load(function, devices, name="transfers", warmup=2, steps=steps)
            chain = [op for op, kind in enumerate(graph.op_types) if kind == "Identity"]
            for pair in pairs:
                typical = _typical(bench, pair)
                few, many = (
                    typical(bench.run(_there_and_back(graph.num_ops, chain, pair, hops)))
                    for hops in (_FEW_HOPS, len(chain) - 1)
                )
                found[pair][size].append((many - few) / (len(chain) - 1 - _FEW_HOPS))
    links = []
    for source, target in pairs:
        typical = _typical(bench, (source, target))
        seconds = {size: typical(times) for size, times in found[source, target].items()}
        latency, bandwidth = fit_link(list(seconds), list(seconds.values()))
        pair_names = (names[source], names[target])
        links.append(Link(pair_names, rounded(bandwidth), rounded(latency)))
    return tuple(links)


def _typical(bench: Bench, pair: tuple[int, int]) -> Callable[[Iterable[float]], float]:
    """Median or, if one of the devices is throttled, mean: a stop meets some steps and not others.

    Args:
        bench: What has loaded a program for the devices.
        pair: Indices of the devices.
    """
    throttled = any(bench.stop_seconds(device) for device in pair)
    return statistics.fmean if throttled else statistics.median


def fit_link(sizes_bytes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Latency in seconds and bandwidth in bytes per second of ``latency + bytes / bandwidth``.

    The line with the least sum of absolute relative deviations, so that one odd size does not
    decide. One such line goes through two of the points, so it is found among these; where more
    bytes take no more time, the bandwidth is infinite.

    Args:
        sizes_bytes: Sizes of at least two transfers that differ.
        seconds: What they took; less than a nanosecond counts as one.
    """
    sizes = np.asarray(sizes_bytes, float)
    times = np.maximum(np.asarray(seconds, float), 1e-9)
    lines = [(float(t), 0.0) for t in times]
    for i, j in itertools.combinations(range(len(sizes)), 2):
        slope = float((times[j] - times[i]) / (sizes[j] - sizes[i]))
        latency = float(times[i] - slope * sizes[i])
        if slope > 0 and latency >= 0:
            lines.append((latency, slope))
    lines += [(0.0, float(t / b)) for t, b in zip(times, sizes, strict=True)]
    latency, slope = min(
        lines, key=lambda line: float(np.abs((line[0] + line[1] * sizes) / times - 1).sum())
    )
    return latency, 1 / slope if slope > 0 else float("inf")


def _hand_on(x: object) -> object:
    import tensorflow as tf

    for _ in range(_NUM_OPS):
        x = tf.raw_ops.Identity(input=x)
    return x


def _there_and_back(
    num_ops: int, chain: Sequence[int], pair: tuple[int, int], hops: int
) -> list[int]:
    """A placement in which the first ops of a chain are on the two devices by turns.

    Args:
        num_ops: How many ops there are.
        chain: The ops of the chain; the others are on the first device.
        pair: The devices.
        hops: How often the tensor is sent.
    """
    placement = [pair[0]] * num_ops
    for position, op in enumerate(chain):
        placement[op] = pair[min(position, hops) % 2]
    return placement
