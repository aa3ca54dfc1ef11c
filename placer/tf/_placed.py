"""A flat GraphDef whose every node says its device."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from placer.errors import PlacementError
from placer.graph import split_input
from placer.placement import Placement
from placer.simulator import Simulator
from placer.tf._colocation import READS, resource_handles
from placer.tf._flatten import FlatGraph
from placer.tf.read import reading_of

OUTSIDE = "placer_outside"
"""Scope of what a placed graph takes from outside."""


@dataclass(frozen=True)
class PlacedGraph:
    """A flat graph with devices.

    Attributes:
        flat: The graph, each node with the name of its device.
        asked: Where the placement has each op.
        moved: Why an op has another device than was asked, for those that do.
        written: The handles of the variables that the graph may write.
    """

    flat: FlatGraph
    asked: Mapping[str, str]
    moved: Mapping[str, str]
    written: frozenset[str]

    @property
    def targets(self) -> tuple[str, ...]:
        """Ops that run though no output needs them: side effects, and arguments nobody reads."""
        return (*self.flat.control_outputs, *self.flat.inputs)


def place_flat(flat: FlatGraph, placement: Placement, devices: Sequence[str]) -> PlacedGraph:
    """Gives each node its device, and with ``order="priority"`` its place in the device's order.

    Args:
        flat: The graph that the placement is of.
        placement: The placement.
        devices: Name of the TensorFlow device for each device of the cluster, ``[num_devices]``.

    Raises:
        PlacementError: A placement of another graph, or an op that uses variables of two devices.
    """
    _check_same_graph(flat, placement)
    op_index = placement.graph.op_index
    asked = [int(placement.devices[op_index[node.name]]) for node in flat.graph_def.node]
    placed = assign_devices(flat, variables_of(flat), asked, devices)
    if placement.order == "priority":
        index_of = {name: index for index, name in enumerate(devices)}
        by_name = {node.name: node for node in placed.flat.graph_def.node}
        chosen = [index_of[by_name[name].device] for name in op_index]
        for before, after in order_edges(placement, chosen):
            if before not in {split_input(ref)[0] for ref in by_name[after].input}:
                by_name[after].input.append(f"^{before}")
    return placed


def assign_devices(
    flat: FlatGraph,
    variables: Mapping[str, Sequence[str]],
    placement: Sequence[int],
    devices: Sequence[str],
) -> PlacedGraph:
    """Gives each node its device, but ops that use a variable that of the variable.

    Args:
        flat: The graph.
        variables: What :func:`variables_of` says of it.
        placement: Index of the device of each node, ``[num_ops]``.
        devices: Name of each TensorFlow device, ``[num_devices]``.

    Raises:
        PlacementError: An op that uses variables of two devices.
    """
    types = {node.name: node.op for node in flat.graph_def.node}
    asked = dict(zip(types, placement, strict=True))
    chosen = dict(asked)
    moved: dict[str, str] = {}
    written: set[str] = set()
    for name, handles in variables.items():
        if types[name] not in READS and name not in handles:
            written |= set(handles)
        homes = {asked[handle]: handle for handle in handles}
        if len(homes) > 1:
            (first, one), (second, other) = list(homes.items())[:2]
            raise PlacementError(
                f"op {name!r} uses {one!r} on {devices[first]} and {other!r} on "
                f"{devices[second]}; expected these on one device"
            )
        ((home, handle),) = homes.items()
        if home != asked[name]:  # TensorFlow would move it without a word
            chosen[name] = home
            moved[name] = f"uses {handle!r}, which is on {devices[home]}"
    graph_def = type(flat.graph_def)()
    graph_def.CopyFrom(flat.graph_def)
    for node in graph_def.node:
        node.device = devices[chosen[node.name]]
        node.attr.pop("_class", None)  # it would win over the device
    return PlacedGraph(
        replace(flat, graph_def=graph_def),
        {name: devices[device] for name, device in asked.items()},
        moved,
        frozenset(written),
    )


def variables_of(flat: FlatGraph) -> Mapping[str, Sequence[str]]:
    """The handles of the variables that each op uses, of those that use any."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(flat.graph_def, name="")
    return resource_handles(list(flat.graph_def.node), graph)


def import_placed(placed: PlacedGraph, outside: Mapping[str, Any], scope: str = "") -> None:
    """Imports a placed graph into the present ``tf.Graph``.

    Args:
        placed: The graph.
        outside: A tensor from outside for each placeholder, and for handles of variables. In
            place of these ops come ones that hand the tensor on from the device of the op.
        scope: A scope to put the ops in.
    """
    import tensorflow as tf

    graph_def = type(placed.flat.graph_def)()
    graph_def.CopyFrom(placed.flat.graph_def)
    for node in graph_def.node:
        if node.name in outside:
            controls = [ref for ref in node.input if ref.startswith("^")]
            name, device = node.name, node.device
            node.Clear()
            node.name, node.device, node.op = name, device, "Identity"
            node.input.extend([f"{OUTSIDE}/{name}", *controls])
            node.attr["T"].type = outside[name].dtype.as_datatype_enum
    given = {f"{OUTSIDE}/{name}:0": tensor for name, tensor in outside.items()}
    tf.import_graph_def(graph_def, given, name=scope)


def strict_config(base: Any = None) -> Any:
    """A ConfigProto with which TensorFlow runs each op, and each where the graph says.

    Grappler would fold constants and fuse ops across devices, XLA would cluster them.

    Args:
        base: What else it says.
    """
    from tensorflow.core.protobuf import config_pb2

    config = config_pb2.ConfigProto()
    if base is not None:
        config.CopyFrom(base)
    config.allow_soft_placement = False
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    optimizer = config.graph_options.optimizer_options
    optimizer.opt_level = config_pb2.OptimizerOptions.L0
    optimizer.global_jit_level = config_pb2.OptimizerOptions.OFF
    return config


def _check_same_graph(flat: FlatGraph, placement: Placement) -> None:
    with warnings.catch_warnings():  # whoever made the placement has seen them
        warnings.simplefilter("ignore")
        graph = reading_of(flat, placement.graph.name).graph
    Placement.from_json(placement.to_json(), graph, placement.cluster)


def order_edges(placement: Placement, devices: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Pairs of ops such that each device runs its ops in the order of the simulated schedule.

    Each op follows the one that had its slot before. Together with the graph's own edges that
    makes no cycle, so it cannot deadlock: along an edge of either kind, the first op has finished
    in the schedule when the second one starts, and as every op takes time, starts grow along
    every path.
    """
    simulator = Simulator(
        placement.graph, placement.cluster, order="priority", priorities=placement.priorities
    )
    schedule = simulator.schedule(np.asarray(devices, np.int32))
    # when each slot is free next, and the op that it is free after
    slots: dict[str, list[tuple[float, int, str]]] = {
        device.name: [(0.0, -1 - slot, "") for slot in range(device.slots)]
        for device in placement.cluster.devices
    }
    types = placement.graph.op_types
    for index, op in sorted(enumerate(schedule.ops), key=lambda pair: pair[1].start_seconds):
        if types[index].startswith("Placeholder"):  # what is fed waits for nothing
            continue
        _, _, before = heapq.heapreplace(slots[op.device], (op.finish_seconds, index, op.name))
        if before:
            yield before, op.name
