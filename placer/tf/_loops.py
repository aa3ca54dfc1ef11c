"""How often a loop runs, where that is known before it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from placer.graph import split_input
from placer.tf._flatten import reachable

_MOST_TRIPS = 100_000


def trip_count(loop: Any, library: Mapping[str, Any], counts: Mapping[str, int]) -> int | None:
    """Runs the counters of a ``While`` op, or else takes the most iterations it says.

    Args:
        loop: The operation.
        library: FunctionDefs by name.
        counts: Trips of the loops before it, which the loop of a gradient repeats.

    Returns:
        The trips; None if they depend on data and nothing bounds them.
    """
    exact = _run_counters(loop, library, counts)
    if exact is not None:
        return exact
    most = _constant(loop.inputs[1], counts) if len(loop.inputs) > 1 else None
    return (
        int(most)
        if most is not None and most.dtype.kind == "i" and most.ndim == 0 and most >= 0
        else None
    )


def _run_counters(loop: Any, library: Mapping[str, Any], counts: Mapping[str, int]) -> int | None:
    """Trips, if all that the condition depends on starts from constants."""
    test = function_graph(library[loop.get_attr("cond").name], loop, loop.inputs)
    body = function_graph(library[loop.get_attr("body").name], loop, loop.inputs)
    needed = _sources(test.outputs, test.inputs)
    while not needed.issuperset(more := _sources([body.outputs[i] for i in needed], body.inputs)):
        needed |= more
    positions = sorted(needed)
    values = [_constant(loop.inputs[i], counts) for i in positions]
    if any(value is None for value in values):
        return None
    more_trips, following = test.outputs[0], [body.outputs[i] for i in positions]
    with _session(test, [more_trips]) as tests, _session(body, following) as bodies:
        for trips in range(_MOST_TRIPS):
            feed = {test.inputs[i].name: v for i, v in zip(positions, values, strict=True)}
            if not tests.run(more_trips.name, feed):
                return trips
            feed = {body.inputs[i].name: v for i, v in zip(positions, values, strict=True)}
            values = bodies.run([tensor.name for tensor in following], feed)
    return None


def _session(function: Function, outputs: Sequence[Any]) -> Any:
    """A session that computes outputs of a function, whatever else has to run before them.

    All else is left out: TensorFlow might not take it, as a copy knows no shapes behind handles.
    """
    import tensorflow as tf

    graph_def = function.graph.as_graph_def()
    nodes = {node.name: node for node in graph_def.node}
    for node in nodes.values():
        node.input[:] = [ref for ref in node.input if not ref.startswith("^")]
    needed = reachable(nodes, [tensor.op.name for tensor in (*outputs, *function.inputs)])
    part = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    part.node.extend(node for node in graph_def.node if node.name in needed)
    with tf.Graph().as_default() as copy:
        tf.import_graph_def(part, name="")
    return tf.compat.v1.Session(graph=copy)


@dataclass(frozen=True)
class Function:
    """The graph of a function, with its inputs and outputs as tensors of it."""

    graph: Any
    inputs: list[Any]
    outputs: list[Any]


def function_graph(definition: Any, caller: Any, inputs: Sequence[Any]) -> Function:
    """The graph of a function that `caller` calls with these inputs, whose shapes it takes over."""
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def
    from tensorflow.python.ops import handle_data_util

    shapes = [t.shape.as_proto() for t in inputs]
    with caller.graph.as_default():
        graph_def, flat_names = function_def_to_graph_def(
            definition, input_shapes=shapes, include_library_functions=True
        )
    names = [flat_names[arg.name].removesuffix(":0") for arg in definition.signature.input_arg]
    kept = [node for node in graph_def.node if node.name not in names]
    # TensorFlow's inlining leaves control edges from arguments, which are there before, and
    # colocation with nodes that are gone
    arguments = {f"^{name}" for name in names}
    for node in kept:
        node.input[:] = [ref for ref in node.input if ref not in arguments]
        node.attr.pop("_class", None)
    del graph_def.node[:]
    graph_def.node.extend(kept)
    graph = tf.Graph()
    with graph.as_default():
        placeholders = []
        for name, tensor in zip(names, inputs, strict=True):
            placeholder = tf.compat.v1.placeholder(tensor.dtype, tensor.shape, name)
            # the shapes behind handles and lists, without which their reads have none
            if tensor.dtype in (tf.resource, tf.variant):
                handle_data_util.set_handle_data(placeholder, _handle_data(tensor))
            placeholders.append(placeholder)
        read = {split_input(ref)[0] for node in kept for ref in node.input}
        bound = {t.op.name: t for t in placeholders if t.op.name in read}
        tf.import_graph_def(graph_def, bound, name="")
        outputs = [
            graph.get_tensor_by_name(flat_names[definition.ret[arg.name]])
            for arg in definition.signature.output_arg
        ]
    return Function(graph, placeholders, outputs)


def _handle_data(tensor: Any) -> Any:
    """The shape and type behind a handle or list; a loop hands on what it was given."""
    from tensorflow.python.ops import handle_data_util

    while tensor.op.type in ("While", "StatelessWhile", "Identity"):
        tensor = tensor.op.inputs[tensor.value_index]
    return handle_data_util.get_resource_handle_data(tensor)


def _sources(outputs: Sequence[Any], inputs: Sequence[Any]) -> set[int]:
    """Positions of the inputs that the outputs depend on."""
    positions = {tensor.name: i for i, tensor in enumerate(inputs)}
    found: set[int] = set()
    seen: set[str] = set()
    todo = list(outputs)
    while todo:
        tensor = todo.pop()
        if tensor.name in positions:
            found.add(positions[tensor.name])
        elif tensor.op.name not in seen:
            seen.add(tensor.op.name)
            todo += tensor.op.inputs
    return found


def _constant(tensor: Any, counts: Mapping[str, int]) -> Any:
    """The value of a tensor that no input decides, else None."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework.tensor_util import try_evaluate_constant

    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    if tensor.op.name in counts and tensor.value_index == 0:
        return np.int32(counts[tensor.op.name])
    if tensor.dtype in (tf.resource, tf.variant):
        return None
    return try_evaluate_constant(tensor)
