"""A process that measures placements of one step: ``python -m placer.tf._measuring FOLDER``.

It takes requests from its standard input, and ends with it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from placer.errors import PlacerError
from placer.tf import _wire
from placer.tf._devices import check_kernels
from placer.tf._flatten import FlatGraph
from placer.tf._placed import OUTSIDE, assign_devices, variables_of
from placer.tf._program import load_program


class StepRunner:
    """Builds a step under a placement and times it.

    Args:
        folder: Where the program is.
        step: What else there is to know.
    """

    def __init__(self, folder: Path, step: _wire.Step) -> None:
        import tensorflow as tf

        self.step = step
        graph_def, self._config, values = load_program(folder)
        self._values = dict(zip((*step.variables, *step.inputs), values, strict=True))
        self._target = ""
        if self.step.workers:
            tasks = tf.train.ClusterSpec({"worker": list(self.step.workers)})
            self._config.cluster_def.CopyFrom(tasks.as_cluster_def())
            self._config.isolate_session_state = True  # variables end with their session
            self._target = f"grpc://{self.step.workers[0]}"
        self._flat = FlatGraph(graph_def, self.step.inputs)
        self._variables = variables_of(self._flat)
        self.ran = False  # whether the last placement came as far as running a step

    def devices(self) -> tuple[str, ...]:
        """Names of the devices that there are."""
        import tensorflow as tf

        with tf.compat.v1.Session(self._target, tf.Graph(), self._config) as session:
            return tuple(device.name for device in session.list_devices())

    def measure(self, placement: Sequence[int], traced: bool = False) -> _wire.Times:
        """Times the step.

        Args:
            placement: Index of the device of each op, ``[num_ops]``.
            traced: Whether to trace one more step.

        Raises:
            PlacerError: A placement that cannot be run.
            Exception: Whatever TensorFlow raises.
        """
        import tensorflow as tf

        self.ran = False
        graph_def = assign_devices(
            self._flat, self._variables, placement, self.step.devices
        ).flat.graph_def
        check_kernels(graph_def)
        _hold_inputs(graph_def, self._values, self.step.inputs)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name="")
            writes, feeds = self._writes(graph)
        with tf.compat.v1.Session(self._target, graph, self._config) as session:
            self.ran = True
            session.run(writes, feeds)
            # ops, not tensors: the results stay where they are
            targets = [graph.get_operation_by_name(name) for name in self.step.targets]
            run = session.make_callable(targets)
            warmup = tuple(_seconds(run) for _ in range(self.step.warmup))
            steps = tuple(_seconds(run) for _ in range(self.step.steps))
            return _wire.Times(warmup, steps, _trace(session, targets) if traced else ())

    def _writes(self, graph: Any) -> tuple[list[Any], dict[Any, Any]]:
        """Ops that give all variables their first values, and what to feed them."""
        import tensorflow as tf

        writes, feeds = [], {}
        handles = {name: name for name in self.step.variables}
        handles |= {name: f"{OUTSIDE}/{name}" for name in self.step.inputs}
        for name, handle_name in handles.items():
            handle = graph.get_tensor_by_name(f"{handle_name}:0")
            dtype = tf.as_dtype(handle.op.get_attr("dtype"))
            value = tf.compat.v1.placeholder(dtype, self._values[name].shape)
            with tf.device(handle.device):
                writes.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
            feeds[value] = self._values[name]
        return writes, feeds


def _hold_inputs(graph_def: Any, values: Mapping[str, Any], inputs: Sequence[str]) -> None:
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
        node.Clear()
        node.name, node.op, node.device = name, "ReadVariableOp", device
        node.input.append(handle.name)
        node.attr["dtype"].type = dtype


def _trace(session: Any, targets: Sequence[Any]) -> tuple[_wire.OpTimes, ...]:
    """When each op of a step ran; the devices of one machine have one clock."""
    from tensorflow.core.protobuf import config_pb2

    run = session.make_callable(targets, accept_options=True)
    options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
    metadata = config_pb2.RunMetadata()
    for _ in range(2):  # the first one sets tracing up
        run(options=options, run_metadata=metadata)
    nodes = [
        node
        for device in metadata.step_stats.dev_stats
        if "/stream:" not in device.device
        for node in device.node_stats
        if node.scheduled_nanos  # else no op of the graph
    ]
    began = min((node.all_start_nanos for node in nodes), default=0)
    return tuple(
        _wire.OpTimes(
            node.node_name,
            (node.scheduled_nanos - began) * 1e-9,
            (node.all_start_nanos - began) * 1e-9,
            (node.all_start_nanos + node.op_end_rel_nanos - began) * 1e-9,
        )
        for node in nodes
    )


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def answer(runner: StepRunner, request: _wire.Request) -> _wire.Times | _wire.Failure:
    """Measures, and says why if that fails."""
    try:
        return runner.measure(request.devices, request.traced)
    except PlacerError as error:
        return _wire.Failure(str(error))
    except Exception as error:  # whatever the step does
        return _wire.Failure(_describe(error), runner.ran)


def _describe(error: Exception) -> str:
    text = getattr(error, "message", None) or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    if first.startswith("From /job:") and len(lines) > 1:  # then the error of that server
        first = f"{first} {lines[1]}"
    first = first if len(first) <= 300 else f"{first[:300]} …"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def main() -> None:
    """Prepares the step of the first message, then measures the placements of the others."""
    replies = _wire.take_stdout()
    messages: queue.SimpleQueue[_wire.Message] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()
    import tensorflow  # noqa: F401 - it takes seconds, in which workers start

    step = messages.get()
    assert isinstance(step, _wire.Step)  # noqa: S101
    runner = StepRunner(Path(sys.argv[1]), step)
    _wire.write_all(replies, _wire.frame(_ready(runner)))
    while True:
        request = messages.get()
        assert isinstance(request, _wire.Request)  # noqa: S101
        _wire.write_all(replies, _wire.frame(answer(runner, request)))


def _ready(runner: StepRunner) -> _wire.Ready | _wire.Failure:
    try:
        return _wire.Ready(devices=runner.devices())
    except Exception as error:  # whatever TensorFlow raises
        return _wire.Failure(_describe(error))


def _receive(messages: queue.SimpleQueue[_wire.Message]) -> None:
    """Hands messages on. Ends the process with its input, whatever it is doing then."""
    received = b""
    while data := os.read(0, 1 << 20):
        received += data
        while (found := _wire.split_frame(received)) is not None:
            content, received = found
            messages.put(_wire.decode_message(content))
    os._exit(1)


if __name__ == "__main__":
    main()
