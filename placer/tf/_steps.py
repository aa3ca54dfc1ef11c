"""What processes that run steps have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from placer.tf import _wire
from placer.tf._devices import check_kernels
from placer.tf._flatten import FlatGraph
from placer.tf._order import hold_order
from placer.tf._placed import OUTSIDE, assign_devices, variables_of
from placer.tf._program import load_program


class Runner:
    """A program whose step can be placed and built in sessions.

    Args:
        folder: Where its files are.
        step: How to run its step.

    Attributes:
        step: As given.
    """

    def __init__(self, folder: Path, step: _wire.Step) -> None:
        import tensorflow as tf

        self.step = step
        graph_def, self._config, values = load_program(folder)
        self._values = dict(zip((*step.variables, *step.inputs), values, strict=True))
        self._target = ""
        if step.workers:
            tasks = tf.train.ClusterSpec({"worker": list(step.workers)})
            self._config.cluster_def.CopyFrom(tasks.as_cluster_def())
            self._config.isolate_session_state = True  # variables end with their session
            self._target = f"grpc://{step.workers[0]}"
        self._flat = FlatGraph(graph_def, step.inputs)
        self._variables = variables_of(self._flat)

    def devices(self) -> tuple[str, ...]:
        """Names of the devices that there are."""
        import tensorflow as tf

        with self.session(tf.Graph()) as session:
            return tuple(device.name for device in session.list_devices())

    def session(self, graph: Any) -> Any:
        """A session of a ``tf.Graph``."""
        import tensorflow as tf

        return tf.compat.v1.Session(self._target, graph, self._config)

    def place(self, placement: Sequence[int], previous: Sequence[int] = ()) -> Any:
        """The program's GraphDef under a placement.

        Args:
            placement: Index of the device of each op, ``[num_ops]``.
            previous: Index of the op that each op follows on its device, -1 for none,
                ``[num_ops]``; empty for TensorFlow's own order.

        Raises:
            PlacerError: A placement that cannot be run.
        """
        placed = assign_devices(self._flat, self._variables, placement, self.step.devices)
        check_kernels(placed.flat.graph_def)
        if previous:
            hold_order(placed.flat.graph_def, previous)
        return placed.flat.graph_def

    def build(self, graph_def: Any, scope: str = "") -> tuple[list[Any], list[Any], dict[Any, Any]]:
        """Puts a placed GraphDef into the present ``tf.Graph``.

        Args:
            graph_def: What :meth:`place` gave; inputs become variables in it.
            scope: The scope of its ops.

        Returns:
            The ops to run for a step, those that give all variables their first values, and what
            to feed the latter.
        """
        import tensorflow as tf

        hold_inputs(graph_def, self._values, self.step.inputs)
        tf.import_graph_def(graph_def, name=scope)
        graph = tf.compat.v1.get_default_graph()
        prefix = f"{scope}/" if scope else ""
        # ops, not tensors: the results stay where they are
        targets = [graph.get_operation_by_name(prefix + name) for name in self.step.targets]
        writes, feeds = [], {}
        handles = {name: name for name in self.step.variables}
        handles |= {name: f"{OUTSIDE}/{name}" for name in self.step.inputs}
        for name, handle_name in handles.items():
            handle = graph.get_tensor_by_name(f"{prefix}{handle_name}:0")
            dtype = tf.as_dtype(handle.op.get_attr("dtype"))
            value = tf.compat.v1.placeholder(dtype, self._values[name].shape)
            with tf.device(handle.device):
                writes.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
            feeds[value] = self._values[name]
        return targets, writes, feeds


def hold_inputs(graph_def: Any, values: Mapping[str, Any], inputs: Sequence[str]) -> None:
    """Has each placeholder read a variable on its device.

    What is fed to a session starts on the device of its target, and would be sent in each step.
    """
    nodes = {node.name: node for node in graph_def.node}
    for name in inputs:
        node = nodes[name]
        handle = graph_def.node.add(name=f"{OUTSIDE}/{name}", op="VarHandleOp", device=node.device)
        handle.attr["dtype"].type = node.attr["dtype"].type
        for size in values[name].shape:
            handle.attr["shape"].shape.dim.add(size=size)
        handle.attr["shared_name"].s = handle.name.encode()
        device, dtype = node.device, node.attr["dtype"].type
        controls = [ref for ref in node.input if ref.startswith("^")]
        node.Clear()
        node.name, node.op, node.device = name, "ReadVariableOp", device
        node.input.extend([handle.name, *controls])
        node.attr["dtype"].type = dtype


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def describe_error(error: Exception) -> str:
    """What went wrong in a step, in a line."""
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if line != "Graph execution error:"]
    first = lines[0] if lines else ""
    if first.startswith("From /job:") and len(lines) > 1:  # then the error of that server
        first = f"{first} {lines[1]}"
    first = first if len(first) <= 300 else f"{first[:300]} …"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
