"""A flat GraphDef whose every node says its device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from placer.errors import PlacementError
from placer.placement import Placement
from placer.tf._colocation import READS, resource_handles
from placer.tf._flatten import FlatGraph
from placer.tf._order import hold_order, order_simulator, previous_ops
from placer.tf._same import check_placement
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
    with warnings.catch_warnings():  # whoever made the placement has seen them
        warnings.simplefilter("ignore")
        graph = reading_of(flat, placement.graph.name).graph
    check_placement(placement, graph, placement.cluster)
    variables, asked = variables_of(flat), placement.devices.tolist()
    placed = assign_devices(flat, variables, asked, devices)
    simulator = order_simulator(placement)
    if simulator is not None:
        chosen, _ = beside_variables(graph.op_names, variables, asked, devices)
        hold_order(placed.flat.graph_def, previous_ops(simulator, chosen))
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
    names = [node.name for node in flat.graph_def.node]
    chosen, moved = beside_variables(names, variables, placement, devices)
    graph_def = type(flat.graph_def)()
    graph_def.CopyFrom(flat.graph_def)
    written: set[str] = set()
    for node, device in zip(graph_def.node, chosen, strict=True):
        node.device = devices[device]
        node.attr.pop("_class", None)  # it would win over the device
        handles = variables.get(node.name, ())
        if node.op not in READS and node.name not in handles:
            written |= set(handles)
    return PlacedGraph(
        replace(flat, graph_def=graph_def),
        {name: devices[device] for name, device in zip(names, placement, strict=True)},
        moved,
        frozenset(written),
    )


def beside_variables(
    ops: Sequence[str],
    variables: Mapping[str, Sequence[str]],
    placement: Sequence[int],
    devices: Sequence[str],
) -> tuple[list[int], dict[str, str]]:
    """Says where ops go: as asked, but those that use a variable go where that is.

    Args:
        ops: Names of the ops, ``[num_ops]``.
        variables: What :func:`variables_of` says of their graph.
        placement: Index of the device of each op, ``[num_ops]``.
        devices: Name of each TensorFlow device, ``[num_devices]``.

    Returns:
        Index of the device of each op, ``[num_ops]``; and why an op has another one than was
        asked, for those that do.

    Raises:
        PlacementError: An op that uses variables of two devices.
    """
    index_of = {name: index for index, name in enumerate(ops)}
    chosen = list(placement)
    moved: dict[str, str] = {}
    for name, handles in variables.items():
        homes = {placement[index_of[handle]]: handle for handle in handles}
        if len(homes) > 1:
            (first, one), (second, other) = list(homes.items())[:2]
            raise PlacementError(
                f"op {name!r} uses {one!r} on {devices[first]} and {other!r} on "
                f"{devices[second]}; expected these on one device"
            )
        ((home, handle),) = homes.items()
        if home != placement[index_of[name]]:  # TensorFlow would move it without a word
            chosen[index_of[name]] = home
            moved[name] = f"uses {handle!r}, which is on {devices[home]}"
    return chosen, moved


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
