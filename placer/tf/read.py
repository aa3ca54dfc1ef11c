"""Reads TensorFlow programs into graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from placer.errors import ReadError
from placer.graph import Op, OpGraph, Output, split_input
from placer.tf._colocation import colocation_groups
from placer.tf._costs import NO_WORK, Cost, Tensor, cost_of
from placer.tf._flatten import FlatGraph, flatten_function, flatten_graph_def

_HANDLE_BYTES = 8.0
_STRING_BYTES = 16.0


@dataclass(frozen=True)
class Reading:
    """A graph, and where its figures are less than known.

    Attributes:
        graph: The graph.
        unknown_flops: Ops without a formula for their FLOPs: 0 FLOPs, so that their bytes alone
            decide how long they take.
        guessed_bytes: Ops that make a tensor whose size depends on data: taken to be as large as
            the largest tensor that the op reads.
    """

    graph: OpGraph
    unknown_flops: tuple[str, ...]
    guessed_bytes: tuple[str, ...]


def read(target: Any, *specs: Any, name: str | None = None, training: bool = False) -> OpGraph:
    return read_report(target, *specs, name=name, training=training).graph


def read_report(
    target: Any, *specs: Any, name: str | None = None, training: bool = False
) -> Reading:
    flat = flatten_function(target.get_concrete_function(*specs))
    return _build(flat, name or "graph")


def _build(flat: FlatGraph, name: str) -> Reading:
    import tensorflow as tf
    from tensorflow.python.framework import ops as tf_ops
    from tensorflow.python.profiler.internal import flops_registry  # noqa: F401 (registers)

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(flat.graph_def, name="")

    def registry(node: Any) -> float | None:
        try:
            value = tf_ops.get_stats_for_node_def(graph, node, "flops").value
        except (ValueError, IndexError):
            return None
        return None if value is None else float(value)

    nodes = list(flat.graph_def.node)
    operations = {node.name: graph.get_operation_by_name(node.name) for node in nodes}
    resources = _resources(nodes, operations)
    groups = colocation_groups(nodes, resources)
    variable_bytes = {
        n.name: _variable_bytes(n) for n in nodes if n.op == "VarHandleOp"
    }
    tensors: dict[str, list[Tensor]] = {}
    ops: list[Op] = []
    unknown: list[str] = []
    guessed: list[str] = []
    for node, group in zip(nodes, groups, strict=True):
        inputs = [
            tensors[source][port]
            for source, port in map(split_input, node.input)
            if port is not None
        ]
        outputs, sure = _outputs(operations[node.name], inputs)
        tensors[node.name] = outputs
        touched = [variable_bytes.get(h, 0.0) for h in resources.get(node.name, ())]
        cost = cost_of(node, inputs, outputs, touched, registry)
        if cost.flops is None:
            unknown.append(node.name)
        if not sure:
            guessed.append(node.name)
        strings = any(t.dtype == "string" for t in (*inputs, *outputs))
        ops.append(
            Op(
                name=node.name,
                type=node.op,
                inputs=tuple(node.input),
                flops=cost.flops or 0.0,
                bytes_accessed=cost.bytes,
                parameter_bytes=variable_bytes.get(node.name, 0.0),
                outputs=tuple(Output(t.bytes, t.shape, t.dtype) for t in outputs),
                colocation_group=group,
                device_kinds=("cpu",) if strings else None,
            )
        )
    return Reading(OpGraph.from_ops(name, ops), tuple(unknown), tuple(guessed))


def _resources(nodes: Sequence[Any], operations: Mapping[str, Any]) -> dict[str, list[str]]:
    """The handles behind each op's resource inputs; a handle's own name for a handle."""
    import tensorflow as tf

    found: dict[str, list[str]] = {}
    for node in nodes:
        operation = operations[node.name]
        handles = [
            handle
            for tensor in operation.inputs
            if tensor.dtype == tf.resource
            for handle in found[tensor.op.name]
        ]
        if not handles and any(t.dtype == tf.resource for t in operation.outputs):
            handles = [node.name]
        if handles:
            found[node.name] = list(dict.fromkeys(handles))
    return found


def _variable_bytes(node: Any) -> float:
    import tensorflow as tf

    shape = tf.TensorShape(node.attr["shape"].shape)
    return float(shape.num_elements() * tf.as_dtype(node.attr["dtype"].type).size)


def _outputs(operation: Any, inputs: Sequence[Tensor]) -> tuple[list[Tensor], bool]:
    """The tensors an op makes, and whether all their sizes are known."""
    import tensorflow as tf

    result: list[Tensor] = []
    sure = True
    for tensor in operation.outputs:
        dtype = tensor.dtype.base_dtype
        shape = (
            None
            if tensor.shape.rank is None
            else tuple(-1 if d is None else int(d) for d in tensor.shape.as_list())
        )
        if dtype in (tf.resource, tf.variant):
            result.append(Tensor(shape, dtype.name, _HANDLE_BYTES))
            continue
        size = _STRING_BYTES if dtype == tf.string else float(dtype.size)
        elements = tensor.shape.num_elements()
        if elements is None:
            sure = False
            size_bytes = max((t.bytes for t in inputs), default=0.0)
        else:
            size_bytes = elements * size
        result.append(Tensor(shape, dtype.name, size_bytes))
    return result, sure
