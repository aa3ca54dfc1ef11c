"""A program as files, for a process that cannot see the objects of this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def save_program(folder: Path, graph_def: Any, config: Any, values: Sequence[Any]) -> None:
    """Writes a program to an empty folder.

    Args:
        folder: The folder.
        graph_def: The flat graph.
        config: The ConfigProto of sessions.
        values: The values that it starts with, as arrays.
    """
    import tensorflow as tf

    (folder / "graph.pb").write_bytes(graph_def.SerializeToString())
    (folder / "config.pb").write_bytes(config.SerializeToString())
    for index, value in enumerate(values):
        path = folder / f"value-{index}.pb"
        path.write_bytes(tf.make_tensor_proto(value).SerializeToString())


def load_program(folder: Path) -> tuple[Any, Any, list[Any]]:
    """Reads what :func:`save_program` wrote: GraphDef, ConfigProto and values."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    graph_def = tf.compat.v1.GraphDef.FromString((folder / "graph.pb").read_bytes())
    config = tf.compat.v1.ConfigProto.FromString((folder / "config.pb").read_bytes())
    values: list[Any] = []
    while (path := folder / f"value-{len(values)}.pb").exists():
        proto = tensor_pb2.TensorProto.FromString(path.read_bytes())
        values.append(tf.make_ndarray(proto))
    return graph_def, config, values
