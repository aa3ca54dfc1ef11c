"""What the graph policy knows of a problem: figures whose meaning does not depend on its size.

Seconds are in units of the mean op group on its fastest device, so that a network sees the same
numbers for a graph of microseconds and one of minutes, for ten op groups and for a thousand.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from placer.costs import FAMILIES, family_of
from placer.heuristics._figures import group_seconds
from placer.heuristics._memory import kept_bytes, memory_bytes
from placer.problem import Problem

Tensor: TypeAlias = tf.Tensor
Floats = NDArray[np.float64]

GROUP_FEATURES = (
    *(f"share_of_{family}" for family in FAMILIES),
    *("log_ops", "log_flops", "log_bytes_accessed", "log_parameter_bytes"),
    *("log_temporary_bytes", "log_output_bytes", "time", "spread_over_devices"),
    *("in_degree", "out_degree", "transfers_with_earlier", "transfers_with_later"),
    *("position", "earliest_start", "remaining_path", "allowed"),
    *("graph:parallelism", "graph:transfers_over_work", "graph:num_groups", "graph:num_devices"),
)
"""What is seen of each op group, by name; the last four are of the whole graph."""

DEVICE_FEATURES = (
    *("slowness", "memory_if_all_were_here", "sending", "receiving", "latency"),
    *("sharing_of_channels", "slots", "num_devices", "runs_by_priority"),
)
"""What is seen of each device, by name; the last two are of the whole cluster."""

PAIR_FEATURES = ("slowness", "time", "lookahead", "memory", "allowed")
"""What is seen of each op group on each device, by name."""

_MOST_SHARE = 2.0  # of a memory: what is more does not fit either


class GraphInputs(NamedTuple):
    """What the graph policy knows of a problem. Times are in units of the mean op group.

    Attributes:
        prior_logits: Added to the logits, ``[num_groups, num_devices]``.
        allowed: Where each op group may go, ``[num_groups, num_devices]``.
        features: Figures of each op group, ``[num_groups, num_features]``.
        device_features: Figures of each device, ``[num_devices, num_device_features]``.
        pair_features: Figures of each op group on each device, ``[num_groups, num_devices,
            num_pair_features]``.
        incoming: From which groups each reads; rows sum to 1 or 0, ``[num_groups, num_groups]``.
        outgoing: Which groups each feeds, likewise.
        work: Share of each group of all work, ``[num_groups]``.
        speed: Share of each device of all speed, ``[num_devices]``.
        order: Groups in the order in which they are placed, int32 ``[num_groups]``.
        seconds: Time of each group on each device, ``[num_groups, num_devices]``.
        lookahead: Time expected after each group if it is on a device, ``[num_groups,
            num_devices]``.
        memory: Share of each memory that each group takes, ``[num_groups, num_devices]``.
        own_tensors: How many tensors and signals are sent between a group and one placed before
            it, for the two of them alone, ``[num_groups, num_groups]``.
        own_bytes: Bytes of these.
        shared_tensors: How many tensors a group reads of one placed before it that other groups
            read, too: they are sent to a device once. ``[num_groups, num_groups]``.
        shared_bytes: Bytes of these.
        latency: Time of each link for any transfer, ``[num_devices, num_devices]``.
        time_per_byte: Of each link, ``[num_devices, num_devices]``.
        channels: What transfers of each link queue on, int32 ``[num_devices, num_devices]``, below
            ``num_devices ** 2``.
        queues: Whether they queue at all, ``[num_devices, num_devices]``.
        slots: How many ops each device runs at once, ``[num_devices]``.
    """

    prior_logits: Tensor
    allowed: Tensor
    features: Tensor
    device_features: Tensor
    pair_features: Tensor
    incoming: Tensor
    outgoing: Tensor
    work: Tensor
    speed: Tensor
    order: Tensor
    seconds: Tensor
    lookahead: Tensor
    memory: Tensor
    own_tensors: Tensor
    own_bytes: Tensor
    shared_tensors: Tensor
    shared_bytes: Tensor
    latency: Tensor
    time_per_byte: Tensor
    channels: Tensor
    queues: Tensor
    slots: Tensor


def graph_inputs(problem: Problem, prior_logits: NDArray[np.float32]) -> GraphInputs:
    """What the graph policy is to know of a problem.

    Two groups may depend on each other in both directions, as where each holds its part of a
    forward and of a backward pass. For list scheduling all that two groups exchange counts as sent
    by the one that is numbered first: a backward pass mirrors the forward pass, so that the sum of
    both takes as long as one sweep in which each group runs as a whole.

    Args:
        problem: The problem.
        prior_logits: Added to the logits, ``[num_groups, num_devices]``.

    Returns:
        NumPy arrays.

    Raises:
        InfeasibleError: An op group may go nowhere.
    """
    cluster, allowed = problem.cluster, problem.allowed
    raw = group_seconds(problem)
    unit = float(_least(raw, allowed).mean())
    seconds = raw / unit
    latency, time_per_byte = cluster.latency_seconds / unit, 1.0 / (cluster.bandwidth * unit)
    alone, shared = _exchanges(problem)  # tensors, bytes: each [num_groups, num_groups]
    tensors, traffic = alone + shared
    num_tensors, num_bytes = tensors + tensors.T, traffic + traffic.T
    apart = ~np.eye(problem.num_devices, dtype=bool)
    mean_transfer = np.zeros_like(num_bytes)
    if apart.any():
        mean_transfer = (
            num_tensors * latency[apart].mean() + num_bytes * time_per_byte[apart].mean()
        )
    durations = _least(seconds, allowed)
    before, after = _longest_paths(durations, mean_transfer)
    lookahead = _optimistic_costs(
        np.where(allowed, seconds, np.inf), num_tensors, num_bytes, latency, time_per_byte
    )
    lookahead -= lookahead.min(axis=1, keepdims=True)
    memory = _memory_shares(problem)
    channels = cluster.channel_ids
    order = np.lexsort((np.arange(problem.num_groups), -after)).astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "prior_logits": prior_logits,
        "allowed": allowed,
        "features": _group_features(
            problem, seconds, durations, tensors, mean_transfer, before, after, order
        ),
        "device_features": _device_features(
            seconds, memory, latency, time_per_byte, num_bytes, channels, problem
        ),
        "pair_features": np.stack(
            [
                np.log(seconds / durations[:, None]).clip(-3, 3),
                np.log1p(seconds),
                np.log1p(lookahead),
                memory,
                allowed,
            ],
            axis=2,
        ),
        "incoming": _rows_to_one(np.log1p(traffic.T + tensors.T)),
        "outgoing": _rows_to_one(np.log1p(traffic + tensors)),
        "work": durations / durations.sum(),
        "speed": (1 / seconds.sum(axis=0)) / (1 / seconds.sum(axis=0)).sum(),
        "order": order,
        "seconds": seconds,
        "lookahead": lookahead,
        "memory": memory,
        "own_tensors": tensors + alone[0].T,
        "own_bytes": traffic + alone[1].T,
        "shared_tensors": shared[0].T,
        "shared_bytes": shared[1].T,
        "latency": latency,
        "time_per_byte": time_per_byte,
        "channels": np.maximum(channels, 0),
        "queues": channels >= 0,
        "slots": cluster.num_slots(problem.graph.num_ops).astype(np.float64),
    }
    return GraphInputs(
        **{
            name: array.astype(np.float32) if array.dtype == np.float64 else array
            for name, array in arrays.items()
        }
    )


def rounded(inputs: GraphInputs) -> GraphInputs:
    """Pads to multiples of 64 op groups and of 4 devices, 8 at least, so that few are compiled."""
    num_groups, num_devices = inputs.allowed.shape
    return padded(inputs, -(-num_groups // 64) * 64, max(8, -(-num_devices // 4) * 4))


def padded(inputs: GraphInputs, num_groups: int, num_devices: int) -> GraphInputs:
    """Adds op groups that do nothing and devices where nothing may go.

    So problems of many sizes share one compiled function. What is added is last, groups go to
    device 0, and nothing else changes.

    Args:
        inputs: Of a problem, NumPy arrays.
        num_groups: How many op groups there are to be, at least as many as there are.
        num_devices: Likewise of devices.
    """
    have = inputs.allowed.shape
    groups, devices = num_groups - have[0], num_devices - have[1]

    def pad(array: NDArray[Any], *widths: int, value: float = 0) -> NDArray[Any]:
        return np.pad(array, [(0, width) for width in widths], constant_values=value)

    allowed = pad(inputs.allowed, groups, devices)
    allowed[have[0] :, 0] = True
    return GraphInputs(
        prior_logits=pad(inputs.prior_logits, groups, devices),
        allowed=allowed,
        features=pad(inputs.features, groups, 0),
        device_features=pad(inputs.device_features, devices, 0),
        pair_features=pad(inputs.pair_features, groups, devices, 0),
        incoming=pad(inputs.incoming, groups, groups),
        outgoing=pad(inputs.outgoing, groups, groups),
        work=pad(inputs.work, groups),
        speed=pad(inputs.speed, devices),
        order=np.concatenate([inputs.order, np.arange(have[0], num_groups, dtype=np.int32)]),
        seconds=pad(inputs.seconds, groups, devices),
        lookahead=pad(inputs.lookahead, groups, devices),
        memory=pad(inputs.memory, groups, devices),
        own_tensors=pad(inputs.own_tensors, groups, groups),
        own_bytes=pad(inputs.own_bytes, groups, groups),
        shared_tensors=pad(inputs.shared_tensors, groups, groups),
        shared_bytes=pad(inputs.shared_bytes, groups, groups),
        latency=pad(inputs.latency, devices, devices),
        time_per_byte=pad(inputs.time_per_byte, devices, devices),
        channels=pad(inputs.channels, devices, devices),
        queues=pad(inputs.queues, devices, devices),
        slots=pad(inputs.slots, devices, value=1),
    )


def _least(seconds: Floats, allowed: NDArray[np.bool_]) -> Floats:
    """Time of each group where it is fastest, ``[num_groups]``."""
    least: Floats = np.where(allowed, seconds, np.inf).min(axis=1)
    return least


def _exchanges(problem: Problem) -> tuple[Floats, Floats]:
    """What groups send each other: what one other group alone reads, and what several do.

    Returns:
        Numbers of tensors and signals, and their bytes, ``[2, num_groups, num_groups]`` each.
    """
    graph, groups = problem.graph, problem.groups.group_of_op
    producers, consumers, tensors = graph.edges
    # a producer's control edges are sent as one more tensor, of no bytes
    keys = np.where(tensors >= 0, tensors, graph.num_tensors + producers)
    rows = np.column_stack([groups[producers], groups[consumers], keys])
    sources, targets, keys = np.unique(rows[rows[:, 0] != rows[:, 1]], axis=0).T
    sizes = np.concatenate([graph.tensor_bytes, np.zeros(graph.num_ops)])
    num_readers = np.bincount(keys, minlength=len(sizes))
    found = np.zeros((2, 2, problem.num_groups, problem.num_groups))
    several = (num_readers[keys] > 1).astype(np.int64)
    np.add.at(found, (several, 0, sources, targets), 1.0)
    np.add.at(found, (several, 1, sources, targets), sizes[keys])
    return found[0], found[1]


def _longest_paths(durations: Floats, transfers: Floats) -> tuple[Floats, Floats]:
    """Longest paths to each group, and from it to an end, itself included, ``[num_groups]`` each.

    An edge goes from the group that is numbered first; the second are the upward ranks of Topcuoglu
    et al. (IEEE TPDS 13(3), 2002), section 4.1.
    """
    num_groups = len(durations)
    before, after = np.zeros(num_groups), durations.copy()
    for group in range(num_groups):
        earlier = np.flatnonzero(transfers[group, :group])
        paths = before[earlier] + durations[earlier] + transfers[group, earlier]
        before[group] = paths.max(initial=0.0)
    for group in reversed(range(num_groups)):
        later = group + 1 + np.flatnonzero(transfers[group, group + 1 :])
        after[group] += (transfers[group, later] + after[later]).max(initial=0.0)
    return before, after


def _optimistic_costs(
    seconds: Floats,
    num_tensors: Floats,
    num_bytes: Floats,
    latency: Floats,
    time_per_byte: Floats,
) -> Floats:
    """The optimistic cost table: time after each group on each device if all goes well.

    Arabnejad and Barbosa (IEEE TPDS 25(3), 2014), equation 4.

    Returns:
        ``[num_groups, num_devices]``.
    """
    costs = np.zeros(seconds.shape)
    for group in reversed(range(len(seconds))):
        later = group + 1 + np.flatnonzero(num_tensors[group, group + 1 :])
        if len(later):
            transfers = (
                num_tensors[group, later, None, None] * latency
                + num_bytes[group, later, None, None] * time_per_byte
            )  # [later, here, there]
            there = (costs[later] + seconds[later])[:, None, :]
            costs[group] = (transfers + there).min(axis=2).max(axis=0)
    return costs


def _memory_shares(problem: Problem) -> Floats:
    """Share of each memory that each group takes, ``[num_groups, num_devices]``."""
    kept, capacity = kept_bytes(problem), memory_bytes(problem)
    shares: Floats = kept[:, None] / np.maximum(capacity, 1.0)
    return np.minimum(shares, _MOST_SHARE)


def _group_features(
    problem: Problem,
    seconds: Floats,
    durations: Floats,
    tensors: Floats,
    mean_transfer: Floats,
    before: Floats,
    after: Floats,
    order: NDArray[np.int32],
) -> Floats:
    """Figures of each op group by :data:`GROUP_FEATURES`, ``[num_groups, num_features]``."""
    graph, groups = problem.graph, problem.groups.group_of_op
    num_groups = problem.num_groups

    def log_total(per_op: Floats) -> Floats:
        totals: Floats = np.log10(1 + np.bincount(groups, per_op, num_groups)) / 12
        return totals

    output_bytes = np.zeros(graph.num_ops)
    np.add.at(output_bytes, graph.tensor_producer, graph.tensor_bytes)
    position = np.empty(num_groups)
    position[order] = np.linspace(0, 1, num_groups)
    critical_path = float((before + after).max())
    whole = [
        np.log1p(durations.sum() / critical_path),
        np.log1p(np.triu(mean_transfer).sum() / durations.sum()),
        np.log(num_groups) / 6,
        np.log(problem.num_devices) / 3,
    ]
    return np.column_stack(
        [
            _family_shares(problem),
            np.log10(np.bincount(groups, minlength=num_groups)) / 3,
            *map(log_total, (graph.flops, graph.bytes_accessed, graph.parameter_bytes)),
            *map(log_total, (graph.temporary_bytes, output_bytes)),
            np.log1p(durations),
            np.log(seconds.max(axis=1) / seconds.min(axis=1)) / 3,
            np.log1p((tensors > 0).sum(axis=0)) / 3,
            np.log1p((tensors > 0).sum(axis=1)) / 3,
            np.log1p(np.tril(mean_transfer).sum(axis=1)),
            np.log1p(np.triu(mean_transfer).sum(axis=1)),
            position,
            before / critical_path,
            after / critical_path,
            problem.allowed.mean(axis=1),
            np.broadcast_to(whole, (num_groups, len(whole))),
        ]
    )


def _family_shares(problem: Problem) -> Floats:
    """Share of each group's time that is in ops of each family, ``[num_groups, num_families]``."""
    column = {family: i for i, family in enumerate(FAMILIES)}
    columns = np.array([column[family_of(op_type)] for op_type in problem.graph.op_types])
    shares = np.zeros((problem.num_groups, len(FAMILIES)))
    means = np.maximum(problem.op_seconds.mean(axis=1), 1e-9)
    np.add.at(shares, (problem.groups.group_of_op, columns), means)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _device_features(
    seconds: Floats,
    memory: Floats,
    latency: Floats,
    time_per_byte: Floats,
    num_bytes: Floats,
    channels: NDArray[np.int32],
    problem: Problem,
) -> Floats:
    """Figures of each device by :data:`DEVICE_FEATURES`, ``[num_devices, num_features]``."""
    totals = seconds.sum(axis=0)
    num_devices = len(totals)
    others = max(num_devices - 1, 1)
    mean_bytes = num_bytes.sum() / max(np.count_nonzero(num_bytes), 1)
    sharing = np.bincount(channels[channels >= 0], minlength=num_devices**2)
    crowd = np.where(channels >= 0, sharing[np.maximum(channels, 0)], 1.0)
    np.fill_diagonal(crowd, 0.0)
    return np.column_stack(
        [
            np.log(totals / totals.min()).clip(0, 6) / 2,
            np.log1p(memory.sum(axis=0)),
            np.log1p(mean_bytes * time_per_byte.sum(axis=1) / others),
            np.log1p(mean_bytes * time_per_byte.sum(axis=0) / others),
            np.log1p(latency.sum(axis=1) / others),
            np.log1p(crowd.sum(axis=1) / others) / 2,
            np.log(problem.cluster.num_slots(problem.graph.num_ops)),
            np.full(num_devices, np.log(num_devices) / 3),
            np.full(num_devices, problem.order == "priority"),
        ]
    )


def _rows_to_one(weights: Floats) -> Floats:
    """Rows over their sums; rows of zeros stay."""
    sums = weights.sum(axis=1, keepdims=True)
    rows: Floats = weights / np.where(sums > 0, sums, 1.0)
    return rows
