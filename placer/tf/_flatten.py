"""From anything TensorFlow can run to one flat GraphDef.

The flat GraphDef computes what the original computes. It differs in form alone: functions are
inlined, captured variables are ``VarHandleOp`` nodes, captured constants are ``Const`` nodes,
what is not needed for an output or a side effect is gone, gradients pass no common ``IdentityN``,
a variable is read once between two writes, and no control edge says what other edges say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from placer.errors import ReadError
from placer.graph import split_input


@dataclass(frozen=True)
class FlatGraph:
    """A GraphDef without function calls, and how it is bound to the program it came from.

    Attributes:
        graph_def: The nodes, in topological order, and the functions of control flow that is left.
        inputs: Names of the placeholders that a caller feeds, in the order of the signature.
        outputs: The tensors the caller gets, as ``"op:port"``.
        control_outputs: Ops that run for their side effects alone.
        variables: The handle of the variable behind each ``VarHandleOp`` that stands for a
            captured one.
    """

    graph_def: Any
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    control_outputs: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)


def flatten_function(function: Any) -> FlatGraph:
    """Flattens a ConcreteFunction.

    Raises:
        ReadError: A captured resource that is no variable, or a loop of TensorFlow 1.
    """
    graph_def = function.graph.as_graph_def()
    captures = {placeholder.op.name: tensor for tensor, placeholder in function.graph.captures}
    renamed = _rename_captures(graph_def, captures)
    variables = _bind_captures(graph_def, {renamed[name]: t for name, t in captures.items()})
    flat = FlatGraph(
        graph_def,
        inputs=tuple(t.op.name for t in function.inputs if t.op.name not in captures),
        outputs=tuple(_rename(t.name, renamed) for t in function.outputs),
        control_outputs=tuple(sorted({op.name for op in function.graph.control_outputs})),
        variables=variables,
    )
    roots = [split_input(ref)[0] for ref in flat.outputs] + [*flat.control_outputs, *flat.inputs]
    return _simplify(flat, roots)


def flatten_graph_def(graph_def: Any) -> FlatGraph:
    """Flattens a GraphDef; as it does not say what it is run for, all of it is kept.

    Raises:
        ReadError: A loop of TensorFlow 1.
    """
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    return _simplify(FlatGraph(copy), [node.name for node in copy.node])


def _simplify(flat: FlatGraph, roots: Sequence[str]) -> FlatGraph:
    graph_def = flat.graph_def
    if graph_def.library.function:
        graph_def = _inline(graph_def, roots)
    nodes = {node.name: node for node in graph_def.node}
    for node in nodes.values():
        node.input[:] = _canonical_inputs(node.input)
    _bypass_barriers(nodes, keep=roots)
    reached = reachable(nodes, roots)
    order = _topological(nodes, reached)
    renamed = _merge_reads([nodes[name] for name in order])
    kept = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    kept.node.extend(nodes[name] for name in order if name not in renamed)
    _drop_implied_controls(kept.node)
    names = {node.name for node in kept.node}
    for node in kept.node:
        _rename_colocation(node, renamed, names)
    controls = {renamed.get(name, name) for name in flat.control_outputs}
    return FlatGraph(
        kept,
        flat.inputs,
        tuple(_rename(ref, renamed) for ref in flat.outputs),
        tuple(sorted(controls)),
        {name: v for name, v in flat.variables.items() if name in reached},
    )


def _rename_captures(graph_def: Any, captures: Iterable[str]) -> dict[str, str]:
    """Gives captures names that are the same in every process; returns old name -> new name.

    TensorFlow calls some after a counter that all of the process shares, such as ``lookup/183``.
    """
    taken = {node.name for node in graph_def.node}
    renamed: dict[str, str] = {}
    for name in captures:
        scope, _, last = name.rpartition("/")
        new = name
        if last.isdecimal():
            candidates = (f"{scope}/capture_{i}".lstrip("/") for i in range(len(taken) + 1))
            new = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(new)
        renamed[name] = new
    for node in graph_def.node:
        node.name = renamed.get(node.name, node.name)
        node.input[:] = [_rename(ref, renamed) for ref in node.input]
        _rename_colocation(node, renamed, taken)
    return renamed


def _bind_captures(graph_def: Any, captures: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the placeholders of captures into handles and constants; returns the handles."""
    import tensorflow as tf
    from tensorflow.python.ops.resource_variable_ops import get_eager_safe_handle_data

    handles: dict[str, Any] = {}
    for node in graph_def.node:
        if node.name not in captures:
            continue
        name, tensor = node.name, captures[node.name]
        node.Clear()
        node.name = name
        data = get_eager_safe_handle_data(tensor) if tensor.dtype == tf.resource else None
        if data is not None and data.is_set:
            held = data.shape_and_type[0]
            node.op = "VarHandleOp"
            node.attr["dtype"].type = held.dtype
            node.attr["shape"].shape.CopyFrom(held.shape)
            node.attr["shared_name"].s = name.encode()
            handles[name] = tensor
        elif tensor.dtype in (tf.resource, tf.variant) or not hasattr(tensor, "numpy"):
            raise ReadError(
                f"the function captures {name!r}, which is neither a variable nor a constant but "
                "a table, an iterator or the like; expected it as an argument or not at all"
            )
        else:
            node.op = "Const"
            node.attr["dtype"].type = tensor.dtype.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    return handles


def _inline(graph_def: Any, roots: Sequence[str]) -> Any:
    """Inlines all function calls; functional control flow stays as it is."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    for nodes in (graph_def.node, *(f.node_def for f in graph_def.library.function)):
        for node in nodes:
            for attribute in ("_lower_using_switch_merge", "_XlaMustCompile"):
                node.attr.pop(attribute, None)
    for function in graph_def.library.function:
        function.attr.pop("_noinline", None)
    with tf.Graph().as_default():
        tf.import_graph_def(graph_def, name="")
        meta = tf.compat.v1.train.export_meta_graph(graph_def=graph_def)
    fetches = meta_graph_pb2.CollectionDef()
    fetches.node_list.value.extend(dict.fromkeys(roots))
    meta.collection_def["train_op"].CopyFrom(fetches)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers.append("function")
    rewrite.min_graph_nodes = -1
    rewrite.meta_optimizer_iterations = rewrite.ONE
    return tf_optimizer.OptimizeGraph(config, meta)


def _canonical_inputs(inputs: Iterable[str]) -> list[str]:
    """Data inputs as ``op`` or ``op:port`` with port > 0, then control inputs, sorted."""
    data = [ref.removesuffix(":0") for ref in inputs if not ref.startswith("^")]
    return data + sorted({ref for ref in inputs if ref.startswith("^")})


def _bypass_barriers(nodes: dict[str, Any], keep: Sequence[str]) -> None:
    """Makes readers of an ``IdentityN`` read its inputs.

    Keras sends all gradients through one before the optimizer. It is no part of the model, and it
    would make each update wait for all gradients and send them all through one device.
    """
    barriers = {n: node for n, node in nodes.items() if node.op == "IdentityN" and n not in keep}

    def resolve(ref: str) -> list[str]:
        name, port = split_input(ref)
        if name not in barriers:
            return [ref]
        inputs = barriers[name].input
        controls = [i for i in inputs if i.startswith("^")]
        if port is None:
            through = [f"^{split_input(i)[0]}" for i in inputs if not i.startswith("^")] + controls
        else:
            through = [inputs[port], *controls]
        return [resolved for one in through for resolved in resolve(one)]

    for node in nodes.values():
        if any(split_input(ref)[0] in barriers for ref in node.input):
            node.input[:] = _canonical_inputs([r for ref in node.input for r in resolve(ref)])


def reachable(nodes: dict[str, Any], roots: Sequence[str]) -> set[str]:
    """The nodes that must run for some of them, by name; these included."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [split_input(ref)[0] for ref in nodes[name].input]
    return found


def _topological(nodes: dict[str, Any], wanted: set[str]) -> list[str]:
    """The wanted nodes, inputs first, else in the order of `nodes`.

    Raises:
        ReadError: A cycle, which only the control flow of TensorFlow 1 has.
    """
    done: set[str] = set()
    path: dict[str, None] = {}
    order: list[str] = []
    for root in nodes:
        if root not in wanted or root in done:
            continue
        stack = [(root, iter(nodes[root].input))]
        path[root] = None
        while stack:
            name, refs = stack[-1]
            child = next((c for c in (split_input(r)[0] for r in refs) if c not in done), None)
            if child is None:
                stack.pop()
                del path[name]
                done.add(name)
                order.append(name)
            elif child in path:
                raise ReadError(
                    f"op {child!r} ({nodes[child].op}) is part of a loop in the form of "
                    "TensorFlow 1; expected a graph without cycles: unroll the loop"
                )
            else:
                path[child] = None
                stack.append((child, iter(nodes[child].input)))
    return order


def _merge_reads(nodes: Sequence[Any]) -> dict[str, str]:
    """Lets reads of a variable between the same two writes be one; returns old name -> new name.

    TensorFlow's reads share the variable's buffer, so that forty of them cost no more than one.
    """
    first: dict[tuple[str, ...], str] = {}
    renamed: dict[str, str] = {}
    for node in nodes:
        if any(split_input(ref)[0] in renamed for ref in node.input):
            node.input[:] = _canonical_inputs([_rename(ref, renamed) for ref in node.input])
        if node.op == "ReadVariableOp":
            name = first.setdefault(tuple(node.input), node.name)
            if name != node.name:
                renamed[node.name] = name
    return renamed


def _drop_implied_controls(nodes: Sequence[Any]) -> None:
    """Removes control edges that other paths imply, as TensorFlow's own optimizer does.

    The end of a ``tf.function`` waits for every read of a variable, though each was long over when
    the update that it serves was; between devices each such edge would be a transfer.

    Args:
        nodes: The nodes, inputs first.
    """
    sources = {split_input(r)[0] for node in nodes for r in node.input if r.startswith("^")}
    bits = {name: 1 << i for i, name in enumerate(sorted(sources))}
    before: dict[str, int] = {}  # which sources must finish before a node starts, as bits
    for node in nodes:
        inputs = [split_input(ref) for ref in node.input]
        implied = 0
        for name, port in inputs:
            implied |= before[name] | (bits.get(name, 0) if port is not None else 0)
        kept = [
            ref
            for ref, (name, port) in zip(node.input, inputs, strict=True)
            if port is not None or not implied & bits[name]
        ]
        before[node.name] = implied
        for name, port in inputs:
            before[node.name] |= bits[name] if port is None else 0
        node.input[:] = kept


def _rename(ref: str, renamed: Mapping[str, str]) -> str:
    name, port = split_input(ref)
    if name not in renamed:
        return ref
    return f"^{renamed[name]}" if port is None else f"{renamed[name]}:{port}"


def _rename_colocation(node: Any, renamed: Mapping[str, str], known: Container[str]) -> None:
    """Brings ``_class`` in line with new names; drops what names no node any more."""
    if "_class" not in node.attr:
        return
    others = [entry.decode().removeprefix("loc:@") for entry in node.attr["_class"].list.s]
    others = [renamed.get(other, other) for other in others]
    del node.attr["_class"].list.s[:]
    node.attr["_class"].list.s.extend(f"loc:@{o}".encode() for o in others if o in known)
