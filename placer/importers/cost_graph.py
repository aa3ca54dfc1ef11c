"""TensorFlow's CostGraphDef in text form."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from placer.errors import FormatError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.importers._parts import ACCELERATOR, build_graph, read_text

KINDS = (ACCELERATOR, "cpu", "gpu", "tpu")
"""Kinds of device on which an op takes its cost."""

_AROUND_A_GRAPH = ("_SOURCE", "_SINK")


def read(
    path: str | os.PathLike[str], *, num_devices: int | None = None, cpu: bool = False
) -> tuple[OpGraph, None]:
    """Reads a cost graph, as REGAL (Paliwal et al., ICLR 2020) places.

    - A node is an op of type ``Node``, as cost graphs name no types. It is called by its name, or,
      where others have that too, by its name and id, ``name/17``. ``_SOURCE`` and ``_SINK``, which
      TensorFlow puts around every graph, are left out.
    - ``input_info`` are its inputs, ``control_input`` its control edges, ``output_info`` its
      tensors.
    - ``compute_cost``, in microseconds, is what it takes on a device of any kind: a cost graph
      knows one cost, wherever that was measured or estimated.
    - ``persistent_memory_size`` is parameter bytes, ``temporary_memory_size`` temporary bytes.

    It says nothing of devices and links, so there is no cluster.

    Args:
        path: The file.
        num_devices: Not for this format.
        cpu: Not for this format.

    Raises:
        FormatError: The file does not follow the format; the message says where.
        GraphError: The edges have a cycle, or read a port that does not exist.
        UsageError: Devices are asked for.
    """
    if cpu or num_devices is not None:
        raise UsageError(
            "a cost graph says nothing of devices; expected no number of them and no CPU, but a "
            "cluster of your own"
        )
    nodes = _decode(path)
    times = Counter(node.name for node in nodes)
    names: dict[int, str] = {}
    for position, node in enumerate(nodes):
        if node.id in names:
            raise FormatError(f"{path}: node[{position}] ({node.name!r}): id {node.id} is taken")
        names[node.id] = node.name if times[node.name] == 1 else f"{node.name}/{node.id}"
    left_out = {node.id for node in nodes if node.name in _AROUND_A_GRAPH}
    return build_graph(
        path,
        [
            _op(f"{path}: node[{position}] ({node.name!r})", node, names, left_out)
            for position, node in enumerate(nodes)
            if node.id not in left_out
        ],
    ), None


def _op(where: str, node: Any, names: dict[int, str], left_out: set[int]) -> Op:
    """A node as an op."""
    sizes = [
        ("compute_cost", node.compute_cost),
        ("temporary_memory_size", node.temporary_memory_size),
        ("persistent_memory_size", node.persistent_memory_size),
        *((f"output_info[{i}].size", output.size) for i, output in enumerate(node.output_info)),
        *(
            (f"input_info[{i}].preceding_port", entry.preceding_port)
            for i, entry in enumerate(node.input_info)
        ),
    ]
    for what, value in sizes:
        if value < 0:
            raise FormatError(f"{where}: {what} is {value}; expected a whole number >= 0")
    producers = [entry.preceding_node for entry in node.input_info]
    for producer in [*producers, *node.control_input]:
        if producer not in names:
            raise FormatError(f"{where}: reads from {producer}, which is the id of no node")
    inputs = [
        f"{names[entry.preceding_node]}:{entry.preceding_port}"
        for entry in node.input_info
        if entry.preceding_node not in left_out
    ]
    controls = [f"^{names[i]}" for i in dict.fromkeys(node.control_input) if i not in left_out]
    return Op(
        names[node.id],
        "Node",
        (*inputs, *controls),
        parameter_bytes=node.persistent_memory_size,
        temporary_bytes=node.temporary_memory_size,
        outputs=tuple(Output(output.size) for output in node.output_info),
        seconds=dict.fromkeys(KINDS, node.compute_cost / 1e6),
    )


def _decode(path: str | os.PathLike[str]) -> Any:
    """The nodes of the file."""
    text = read_text(path)
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tensorflow.core.framework import cost_graph_pb2

    try:
        return text_format.Parse(text, cost_graph_pb2.CostGraphDef()).node
    except text_format.ParseError as error:
        message = " ".join(str(error).split())
        raise FormatError(f"{path}: not a CostGraphDef in text form (line {message})") from None
