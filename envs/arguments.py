"""What the environments' constructors and steps are given."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.problem import Problem

GraphLike = OpGraph | str | os.PathLike[str]
ClusterLike = Cluster | str | os.PathLike[str]


def resolve_problem(
    problem: Problem | None,
    graph: GraphLike | None,
    cluster: ClusterLike | None,
    num_groups: int | None,
) -> Problem:
    """The problem that is given, or one built with simulated step times.

    Args:
        problem: A problem; or None, and then the others say it.
        graph: A graph, or the name of a bundled one, or a file.
        cluster: A cluster, or the name of a preset, or a file.
        num_groups: At most so many op groups; None for the grouping's own choice.

    Raises:
        UsageError: Neither a problem alone nor a graph and a cluster.
        PlacerError: As loading them.
    """
    if problem is not None:
        if graph is not None or cluster is not None or num_groups is not None:
            raise UsageError("a problem is given; expected no graph, cluster or num_groups with it")
        return problem
    if graph is None or cluster is None:
        missing = " and ".join(n for n, v in (("graph", graph), ("cluster", cluster)) if v is None)
        raise UsageError(f"no {missing} given; expected a problem, or a graph and a cluster")
    if not isinstance(graph, OpGraph):
        graph = OpGraph.load(graph)
    if not isinstance(cluster, Cluster):
        cluster = Cluster.load(cluster)
    return Problem.build(graph, cluster, num_groups=num_groups)


def check_actions(actions: ArrayLike, shape: Sequence[int], num_devices: int) -> NDArray[np.int32]:
    """Returns actions as an array of device indices.

    Raises:
        UsageError: Another shape than `shape`, not integers, or an index of no device.
    """
    try:
        array = np.asarray(actions)
    except ValueError as error:  # rows of unlike lengths
        raise UsageError(f"action is no array: {error}") from None
    if array.shape != tuple(shape):
        raise UsageError(f"action has shape {array.shape}; expected {tuple(shape)}")
    if array.dtype.kind not in "iu":
        raise UsageError(f"action has dtype {array.dtype}; expected integers")
    if array.size and not (array.min() >= 0 and array.max() < num_devices):
        raise UsageError(
            f"action has values from {array.min()} to {array.max()}; "
            f"expected device indices from 0 to {num_devices - 1}"
        )
    return array.astype(np.int32)
