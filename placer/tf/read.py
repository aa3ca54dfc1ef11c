"""Reads TensorFlow programs into graphs."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from placer.errors import GraphError, ReadError
from placer.graph import Op, OpGraph, Output
from placer.tf._colocation import colocation_groups, resource_handles
from placer.tf._figures import LOOPS, STRING_BYTES, Figures, graph_figures
from placer.tf._flatten import FlatGraph
from placer.tf._trace import flatten


@dataclass(frozen=True)
class Reading:
    """A graph, and where its figures are less than known.

    Attributes:
        graph: The graph.
        unknown_flops: Ops without a formula for their FLOPs, or with shapes that it needs and that
            depend on data. They have 0, so that their bytes alone decide how long they take.
        guessed_bytes: Ops that make a tensor whose size is known only when it runs (the result of
            ``tf.where``, strings, lists of tensors). It is taken to be as large as the largest
            tensor that the op reads.
        loops: Ops that stand for a whole loop. Their FLOPs and bytes are those of all trips, but
            they are launched once, so that loops of many small ops seem faster than they are.
    """

    graph: OpGraph
    unknown_flops: tuple[str, ...]
    guessed_bytes: tuple[str, ...]
    loops: tuple[str, ...]


def read(
    target: Any,
    *specs: Any,
    name: str | None = None,
    training: bool = False,
    signature: str = "serving_default",
) -> OpGraph:
    """Reads what TensorFlow would run into a graph.

    The ops have the names of TensorFlow's nodes, functions inlined. ``docs/tensorflow.md`` says how
    each figure comes about; :func:`read_report` also says which ones are not known. A loop that is
    not unrolled gives a ``UserWarning``, as it is charged one launch for all its trips.

    Args:
        target: A ``tf.function``, a ConcreteFunction, a Keras model, a SavedModel (loaded, or the
            path of its folder), a GraphDef (or the path of one, ``.pb``), or any function that
            TensorFlow can trace.
        *specs: The arguments to trace with, as ``tf.TensorSpec`` or nested structures of them.
            Needed unless `target` already says: a ``tf.function`` that was traced once, a
            ConcreteFunction, a model with a batch size. For a Keras model's inference: its inputs;
            for a training step: inputs, targets and perhaps sample weights.
        name: What to call the graph; by default as `target` is called.
        training: Whether to read a Keras model's whole training step (forward, loss, backward,
            optimizer, metrics) rather than its inference.
        signature: Which signature of a SavedModel.

    Raises:
        ReadError: Not one of these, specs that are missing or do not fit, an input of unknown
            shape, a loop that runs an unknown number of times.

    Example:
        >>> graph = placer.tf.read(train_step, tf.TensorSpec((32, 784)), tf.TensorSpec((32,)))
    """
    return read_report(target, *specs, name=name, training=training, signature=signature).graph


def read_report(
    target: Any,
    *specs: Any,
    name: str | None = None,
    training: bool = False,
    signature: str = "serving_default",
) -> Reading:
    """As :func:`read`, and says which figures are not known."""
    flat = flatten(target, specs, training, signature)
    return reading_of(flat, name or name_of(target))


def name_of(target: Any) -> str:
    """What the graph of a program is called unless somebody says."""
    if isinstance(target, (str, os.PathLike)):
        return Path(target).stem
    found = getattr(target, "__name__", None) or getattr(target, "name", None)
    if isinstance(found, bytes):
        found = found.decode()
    if not isinstance(found, str):
        return "graph"
    # TensorFlow calls a ConcreteFunction "__inference_step_123", after a counter
    return re.sub(r"^__inference_(.*)_\d+$", r"\1", found)


def reading_of(flat: FlatGraph, name: str) -> Reading:
    """As :func:`read_report`, of a program that is flat.

    Raises:
        ReadError: TensorFlow does not take the graph, or one of its figures is unknown.
    """
    import tensorflow as tf

    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(flat.graph_def, name="")
    except ValueError as error:
        raise ReadError(f"TensorFlow does not take the graph: {error}") from None
    library = {f.signature.name: f for f in flat.graph_def.library.function}
    figures = graph_figures(graph, library)
    nodes = list(flat.graph_def.node)
    resources = resource_handles(nodes, graph)
    groups = colocation_groups(nodes, resources)
    ops = [_op(node, figures[node.name], group) for node, group in zip(nodes, groups, strict=True)]
    try:
        result = OpGraph.from_ops(name, ops)
    except GraphError as error:
        raise ReadError(str(error)) from None
    loops = tuple(n.name for n in nodes if n.op in LOOPS)
    if loops:
        warnings.warn(
            f"graph {name!r} has {len(loops)} loops that are not unrolled, such as {loops[0]!r}: "
            "each is one op with the work of all its trips but one launch overhead",
            stacklevel=3,
        )
    return Reading(
        result,
        tuple(n.name for n in nodes if not figures[n.name].cost.known),
        tuple(n.name for n in nodes if not figures[n.name].sized),
        loops,
    )


def _op(node: Any, figures: Figures, group: str | None) -> Op:
    # TensorFlow has kernels for strings on the CPU only.
    strings = any(t.dtype == "string" for t in (*figures.inputs, *figures.outputs))
    return Op(
        name=node.name,
        type=node.op,
        inputs=tuple(node.input),
        flops=figures.cost.flops,
        bytes_accessed=figures.cost.bytes,
        parameter_bytes=_parameter_bytes(node, figures),
        outputs=tuple(Output(t.bytes, t.shape, t.dtype) for t in figures.outputs),
        colocation_group=group,
        device_kinds=("cpu",) if strings else None,
    )


def _parameter_bytes(node: Any, figures: Figures) -> float:
    import tensorflow as tf

    if node.op == "VarHandleOp":
        elements = tf.TensorShape(node.attr["shape"].shape).num_elements()
        if elements is None:
            raise ReadError(f"variable {node.name!r} has an unknown shape; expected a known one")
        dtype = tf.as_dtype(node.attr["dtype"].type)
        return float(elements * (STRING_BYTES if dtype == tf.string else dtype.size))
    if node.op in ("Variable", "VariableV2"):
        return figures.outputs[0].bytes
    return 0.0
