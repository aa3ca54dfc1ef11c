"""A program as files, for a process that cannot see the objects of this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from placer.errors import UsageError
from placer.tf import _wire
from placer.tf._flatten import FlatGraph
from placer.tf._placed import strict_config


def step_of(flat: FlatGraph, devices: Sequence[str], *, warmup: int, steps: int) -> _wire.Step:
    """How to run the step of a graph, but for where the workers are.

    Args:
        flat: The graph.
        devices: Names of the TensorFlow devices of placements in full, ``[num_devices]``.
        warmup: How many steps warm up.
        steps: How many steps count.
    """
    outputs = [ref.partition(":")[0] for ref in flat.outputs]
    return _wire.Step(
        devices=tuple(devices),
        workers=(),
        variables=tuple(flat.variables),
        inputs=flat.inputs,
        targets=tuple(dict.fromkeys((*outputs, *flat.control_outputs, *flat.inputs))),
        warmup=warmup,
        steps=steps,
    )


def values_of(flat: FlatGraph, inputs: Sequence[Any] | None) -> list[Any]:
    """The values that a step starts with, as arrays: those of the variables, then the inputs.

    Args:
        flat: The graph.
        inputs: The arguments; None for normally distributed numbers, and zeros where they are no
            floats.

    Raises:
        UsageError: Inputs that do not fit.
    """
    return [*_variable_values(flat), *_input_values(flat, inputs)]


def save_program(folder: Path, graph_def: Any, values: Sequence[Any], *, on_workers: bool) -> None:
    """Writes a program to an empty folder.

    Args:
        folder: The folder.
        graph_def: The flat graph.
        values: What :func:`values_of` says of it.
        on_workers: Whether it runs on workers, not on the devices of the process that loads it.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    # the devices of this process, as its user has set them up, are those of the other one
    config = strict_config(None if on_workers else context.context().config)
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


def _variable_values(flat: FlatGraph) -> list[Any]:
    import tensorflow as tf
    from tensorflow.python.ops.resource_variable_ops import read_variable_op

    types = {node.name: node.attr["dtype"].type for node in flat.graph_def.node}
    return [
        read_variable_op(handle, tf.as_dtype(types[name])).numpy()
        for name, handle in flat.variables.items()
    ]


def _input_values(flat: FlatGraph, inputs: Sequence[Any] | None) -> list[Any]:
    """The value of each placeholder."""
    import tensorflow as tf

    nodes = {node.name: node for node in flat.graph_def.node}
    specs = [
        tf.TensorSpec(nodes[name].attr["shape"].shape, nodes[name].attr["dtype"].type, name)
        for name in flat.inputs
    ]
    if inputs is None:
        rng = np.random.default_rng(0)
        return [_made_up(spec, rng) for spec in specs]
    given = tf.nest.flatten(list(inputs))
    if len(given) != len(specs):
        raise UsageError(f"inputs has {len(given)} tensors; expected {len(specs)}: {specs!r}")
    values = []
    for value, spec in zip(given, specs, strict=True):
        try:
            tensor = tf.convert_to_tensor(value, spec.dtype)
        except (TypeError, ValueError) as error:
            raise UsageError(f"input {spec.name!r}: {error}; expected {spec!r}") from None
        if tensor.shape != spec.shape:
            raise UsageError(f"input {spec.name!r} has shape {tensor.shape}; expected {spec!r}")
        values.append(tensor.numpy())
    return values


def _made_up(spec: Any, rng: np.random.Generator) -> Any:
    import tensorflow as tf

    if spec.dtype.is_floating:
        return tf.constant(rng.normal(size=spec.shape), spec.dtype).numpy()
    return tf.zeros(spec.shape, spec.dtype).numpy()
