"""What there is to see of a problem: figures of each op group and the traffic between groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._units import least_bytes
from placer.problem import Problem

NUM_TYPES = 16
"""How many op types have a feature of their own; all others share one."""

NUM_DIMS = 4
"""How many dimensions of an op group's largest output are seen."""

NUM_NEIGHBOURS = 4
"""How many groups, by traffic, :func:`heaviest_neighbours` shows each way."""

Features = NDArray[np.float32]


def feature_names(problem: Problem) -> tuple[str, ...]:
    """What each column of :func:`group_features` says, ``[num_features]``."""
    devices = problem.cluster.device_names
    return (
        *(f"type_share:{name}" for name in _main_types(problem)),
        *("type_share:rest",),
        *("num_ops", "flops", "bytes_accessed", "parameter_bytes", "temporary_bytes"),
        *("output_bytes", *(f"largest_output_dim:{i}" for i in range(NUM_DIMS))),
        *("in_degree", "out_degree", "bytes_in", "bytes_out"),
        *("position", "earliest_start", "remaining_path"),
        *(f"log_seconds:{name}" for name in devices),
        *(f"seconds:{name}" for name in devices),
        *(f"allowed:{name}" for name in devices),
    )


def group_features(problem: Problem) -> Features:
    """Figures of each op group, ``[num_groups, num_features]``, all from 0 to 1.

    In order, by :func:`feature_names`:

    - the shares of the group's ops that are of each of the 16 types in which the graph spends most
      time (columns of zeros where it has fewer), and of any other type;
    - the number of ops, FLOPs, bytes accessed, parameter, temporary and output bytes, and the
      first 4 dimensions of the largest output, each as ``log(1 + x)`` over the largest group's;
    - how many groups it reads from and feeds, and the bytes of that, on the same scale;
    - the group's number over the last one's, the time before its first op can start and the time
      from then to the end of the step, both as shares of the critical path of mean op times;
    - per device, the group's seconds there: in nanoseconds on the log scale, one scale for all
      devices, and as a share of the slowest group's on that device;
    - per device, whether the group may go there.

    This is what Mirhoseini, Pham et al. (ICML 2017, section 3.2) feed their policy, type, output
    shape and neighbours, and the costs besides.
    """
    graph, groups = problem.graph, problem.groups.group_of_op

    def total(per_op: NDArray[np.float64]) -> NDArray[np.float64]:
        return _sums(groups, per_op, problem.num_groups)

    traffic = group_traffic(problem)
    output_bytes = _sums(graph.tensor_producer, graph.tensor_bytes, graph.num_ops)
    seconds = np.column_stack([total(column) for column in problem.op_seconds.T])
    logs = np.column_stack(
        [
            total(np.ones(graph.num_ops)),
            *map(total, (graph.flops, graph.bytes_accessed, graph.parameter_bytes)),
            *map(total, (graph.temporary_bytes, output_bytes)),
            _largest_output_dims(problem),
            (traffic > 0).sum(axis=0),
            (traffic > 0).sum(axis=1),
            traffic.sum(axis=0),
            traffic.sum(axis=1),
        ]
    )  # [num_groups, 14]
    position = np.arange(problem.num_groups) / max(problem.num_groups - 1, 1)
    return np.column_stack(
        [
            _type_shares(problem),
            _log_share(logs),
            position,
            _path_shares(problem),
            _log_share(1e9 * seconds, over=1e9 * seconds.max()),
            seconds / np.where(seconds.max(axis=0) > 0, seconds.max(axis=0), 1.0),
            problem.allowed,
        ]
    ).astype(np.float32)


def group_adjacency(problem: Problem) -> Features:
    """Traffic between op groups, ``[num_groups, num_groups]``, from 0 (none) to 1 (the most).

    Entry ``[i, j]`` is ``log(1 + bytes)`` that group ``i`` sends to group ``j``, over the largest.
    """
    traffic = group_traffic(problem)
    return _log_share(traffic, over=traffic.max()).astype(np.float32)


def group_traffic(problem: Problem) -> NDArray[np.float64]:
    """Bytes that each group sends each other, ``[num_groups, num_groups]``; 0 on the diagonal.

    A tensor counts once per group that reads it. A tensor of no bytes and a control edge count
    a byte, or as little as any tensor, so that 0 says that there is no edge.
    """
    graph, groups = problem.graph, problem.groups.group_of_op
    producers, consumers, tensors = graph.edges
    sources, targets = groups[producers], groups[consumers]
    # control edges have tensor -1: give each producer one such tensor of its own
    keys = np.where(tensors >= 0, tensors, graph.num_tensors + producers)
    sizes = np.concatenate([graph.tensor_bytes, np.zeros(graph.num_ops)])
    crossing = sources != targets
    rows = np.column_stack([sources, targets, keys])[crossing]
    sources, targets, keys = np.unique(rows, axis=0).T
    traffic = np.zeros((problem.num_groups, problem.num_groups))
    np.add.at(traffic, (sources, targets), np.maximum(sizes[keys], least_bytes(graph)))
    return traffic


def heaviest_neighbours(problem: Problem) -> Features:
    """The groups with which each has most traffic, ``[num_groups, 4 * 4]``, all from 0 to 1.

    Four that it reads from, heaviest first, then four that it feeds; for each its number, from
    ``1 / num_groups`` to 1, and the traffic as in :func:`group_adjacency`; 0 where there are fewer.
    """
    adjacency = group_adjacency(problem)
    result = np.zeros((problem.num_groups, 2, NUM_NEIGHBOURS, 2), np.float32)
    for way, weights in enumerate((adjacency.T, adjacency)):
        nearest = np.argsort(-weights, axis=1, kind="stable")[:, :NUM_NEIGHBOURS]
        heaviest = np.take_along_axis(weights, nearest, axis=1)
        shown = nearest.shape[1]
        result[:, way, :shown, 0] = np.where(heaviest > 0, (nearest + 1) / problem.num_groups, 0)
        result[:, way, :shown, 1] = heaviest
    return result.reshape(problem.num_groups, -1)


def _sums(
    rows: NDArray[np.int32], values: NDArray[np.float64], num_rows: int
) -> NDArray[np.float64]:
    """Sum of the values of each row, ``[num_rows]``."""
    sums = np.zeros(num_rows)
    np.add.at(sums, rows, values)
    return sums


def _log_share(
    values: NDArray[np.float64], over: NDArray[np.float64] | float | None = None
) -> NDArray[np.float64]:
    """``log(1 + x)`` over that of `over`, by default the largest of the column."""
    most = np.log1p(values.max(axis=0) if over is None else over)
    return np.log1p(values) / np.where(most > 0, most, 1.0)


def _main_types(problem: Problem) -> tuple[str, ...]:
    """The op types in which the graph spends most time, ``[NUM_TYPES]``, ``""`` for none."""
    seconds: dict[str, float] = {}
    means = problem.op_seconds.mean(axis=1).tolist()
    for name, mean in zip(problem.graph.op_types, means, strict=True):
        seconds[name] = seconds.get(name, 0.0) + mean
    main = sorted(seconds, key=lambda name: (-seconds[name], name))[:NUM_TYPES]
    return (*main, *[""] * (NUM_TYPES - len(main)))


def _type_shares(problem: Problem) -> NDArray[np.float64]:
    """Share of each group's ops per main type, and of other types, ``[num_groups, 16 + 1]``."""
    column = {name: i for i, name in enumerate(_main_types(problem)) if name}
    columns = np.array([column.get(name, NUM_TYPES) for name in problem.graph.op_types])
    counts = np.zeros((problem.num_groups, NUM_TYPES + 1))
    np.add.at(counts, (problem.groups.group_of_op, columns), 1)
    shares: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _largest_output_dims(problem: Problem) -> NDArray[np.float64]:
    """First dimensions of the largest tensor that each group makes, ``[num_groups, NUM_DIMS]``."""
    graph = problem.graph
    dims = np.zeros((problem.num_groups, NUM_DIMS))
    most = np.full(problem.num_groups, -1.0)
    groups = problem.groups.group_of_op[graph.tensor_producer]
    for tensor, group in enumerate(groups.tolist()):
        shape = graph.tensor_shapes[tensor]
        if shape is not None and graph.tensor_bytes[tensor] > most[group]:
            most[group] = graph.tensor_bytes[tensor]
            dims[group] = 0
            dims[group, : len(shape)] = np.maximum(shape[:NUM_DIMS], 0)  # -1: unknown
    return dims


def _path_shares(problem: Problem) -> NDArray[np.float64]:
    """Earliest start and remaining path of each group, ``[num_groups, 2]``, from 0 to 1.

    Both are of the group's ops' extremes, along the longest chains of mean op times.
    """
    graph = problem.graph
    producers, consumers, _ = graph.edges
    means = problem.op_seconds.mean(axis=1)
    parents: list[list[int]] = [[] for _ in range(graph.num_ops)]
    for producer, consumer in zip(producers.tolist(), consumers.tolist(), strict=True):
        parents[consumer].append(producer)
    durations = means.tolist()
    start = [0.0] * graph.num_ops
    rest = list(durations)  # from an op's own start to the end of the step
    order = graph.topological_order.tolist()
    for op in order:
        start[op] = max((start[p] + durations[p] for p in parents[op]), default=0.0)
    for op in reversed(order):
        for parent in parents[op]:
            rest[parent] = max(rest[parent], durations[parent] + rest[op])
    earliest = np.full(problem.num_groups, np.inf)
    remaining = np.zeros(problem.num_groups)
    np.minimum.at(earliest, problem.groups.group_of_op, start)
    np.maximum.at(remaining, problem.groups.group_of_op, rest)
    critical_path = max(rest)
    shares: NDArray[np.float64] = np.column_stack([earliest, remaining]) / (critical_path or 1.0)
    return np.minimum(shares, 1.0)  # sums in another order may exceed it by a rounding
