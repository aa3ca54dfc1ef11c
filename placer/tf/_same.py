"""Whether a graph or a placement is of a program, whatever is known of the seconds of its ops."""

from __future__ import annotations

import dataclasses
import functools

from msgspec.structs import replace

from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph
from placer.placement import Placement


def check_graph(graph: OpGraph, program: OpGraph) -> None:
    """Refuses a graph of another program.

    Args:
        graph: The graph, perhaps with seconds of ops.
        program: The graph of the program, as ``placer.tf.read`` gives it.

    Raises:
        UsageError: It is one.
    """
    if graph.op_names != program.op_names:
        raise UsageError(
            f"graph {graph.name!r} has other ops than the program {program.name!r}: "
            f"{graph.num_ops}, not {program.num_ops}, or of other names"
        )
    if _without_seconds(graph).fingerprint != program.fingerprint:
        raise UsageError(
            f"graph {graph.name!r} has the ops of the program {program.name!r}, but other figures "
            "or edges; expected one that was read in the same sizes"
        )


def check_placement(placement: Placement, program: OpGraph, cluster: Cluster) -> None:
    """Refuses a placement of another program or on another cluster.

    Args:
        placement: The placement; its graph may have seconds of ops.
        program: The graph of the program, as ``placer.tf.read`` gives it.
        cluster: The cluster.

    Raises:
        PlacementError: It is one; the message says what differs.
    """
    without_seconds = dataclasses.replace(placement, graph=_without_seconds(placement.graph))
    Placement.from_json(without_seconds.to_json(), program, cluster)


@functools.lru_cache(maxsize=2)  # of a graph that is asked for with each placement
def _without_seconds(graph: OpGraph) -> OpGraph:
    if not any(graph.seconds):
        return graph
    return OpGraph.from_ops(graph.name, [replace(op, seconds={}) for op in graph.ops()])
