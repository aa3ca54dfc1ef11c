"""A process that times the ops of steps: ``python -m placer.tf._profiling``.

It takes messages from its standard input, and ends with it. For each program it gets a
:class:`Program`, then a :class:`Run` for each placement and kind of timing.
"""

from __future__ import annotations

import itertools
import os
import queue
import statistics
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from placer.errors import PlacerError
from placer.tf import _wire
from placer.tf._devices import check_kernels
from placer.tf._flatten import FlatGraph
from placer.tf._placed import OUTSIDE, assign_devices, variables_of
from placer.tf._program import load_program
from placer.tf._steps import describe_error, hold_inputs, seconds_of

_SCOPE = "placer_step"  # tells the ops of the graph from those inside its loops and branches


class Program(msgspec.Struct, tag="program", frozen=True):
    """A program to run from now on.

    Attributes:
        folder: Where its files are.
        step: How to run its step.
    """

    folder: str
    step: _wire.Step


class Run(msgspec.Struct, tag="run", frozen=True):
    """Steps to run under a placement.

    Attributes:
        devices: Index of the device of each op, ``[num_ops]``.
        one_by_one: Whether no two ops run at once.
        traced: A file for the seconds of each op, if each step is to be followed by a traced one:
            a JSON object from op to a list with a number for each step.
    """

    devices: list[int]
    one_by_one: bool = False
    traced: str | None = None


_decode = msgspec.json.Decoder(Program | Run).decode


class ProgramRunner:
    """Builds the step of a program under placements and runs it.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        import tensorflow as tf

        self._step = step = program.step
        graph_def, self._config, values = load_program(Path(program.folder))
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

        with tf.compat.v1.Session(self._target, tf.Graph(), self._config) as session:
            return tuple(device.name for device in session.list_devices())

    def run(self, request: Run) -> _wire.Times:
        """Runs the steps; their seconds are those beyond a step of an op that does nothing.

        Raises:
            PlacerError: A placement that cannot be run.
            Exception: Whatever TensorFlow raises.
        """
        with self._session(request) as (session, nothing, targets):
            run, idle = session.make_callable(targets), session.make_callable([nothing])
            warmup = tuple(seconds_of(run) for _ in range(self._step.warmup))
            tracer = None if request.traced is None else _Tracer(session, targets)
            least = statistics.median(seconds_of(idle) for _ in range(10 + self._step.steps))
            steps = []
            for _ in range(self._step.steps):  # by turns, so that both see the same machine
                steps.append(seconds_of(run) - least)
                if tracer is not None:
                    tracer.run()
        if tracer is not None:
            Path(str(request.traced)).write_bytes(msgspec.json.encode(tracer.seconds))
        return _wire.Times(warmup, tuple(steps))

    @contextmanager
    def _session(self, request: Run) -> Iterator[tuple[Any, Any, list[Any]]]:
        """A session in which the variables have their values, an op that does nothing, the ops."""
        import tensorflow as tf

        placed = assign_devices(self._flat, self._variables, request.devices, self._step.devices)
        graph_def = placed.flat.graph_def
        check_kernels(graph_def)
        if request.one_by_one:
            _chain(graph_def)
        hold_inputs(graph_def, self._values, self._step.inputs)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(graph_def, name=_SCOPE)
            writes, feeds = self._writes(graph)
            with tf.device(self._step.devices[request.devices[0]]):
                nothing = tf.raw_ops.NoOp()
        targets = [graph.get_operation_by_name(f"{_SCOPE}/{name}") for name in self._step.targets]
        with tf.compat.v1.Session(self._target, graph, self._config) as session:
            session.run(writes, feeds)
            yield session, nothing, targets

    def _writes(self, graph: Any) -> tuple[list[Any], dict[Any, Any]]:
        """Ops that give all variables their first values, and what to feed them."""
        import tensorflow as tf

        writes, feeds = [], {}
        handles = {name: name for name in self._step.variables}
        handles |= {name: f"{OUTSIDE}/{name}" for name in self._step.inputs}
        for name, handle_name in handles.items():
            handle = graph.get_tensor_by_name(f"{_SCOPE}/{handle_name}:0")
            dtype = tf.as_dtype(handle.op.get_attr("dtype"))
            value = tf.compat.v1.placeholder(dtype, self._values[name].shape)
            with tf.device(handle.device):
                writes.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
            feeds[value] = self._values[name]
        return writes, feeds


class _Tracer:
    """Runs traced steps.

    Attributes:
        seconds: Seconds of each op in each of them.
    """

    def __init__(self, session: Any, targets: Sequence[Any]) -> None:
        from tensorflow.core.protobuf import config_pb2

        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._run = session.make_callable(targets, accept_options=True)
        self._options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
        self._step_stats()  # the first one sets up tracing

    def run(self) -> None:
        for op, seconds in op_times(self._step_stats()).items():
            self.seconds[op].append(seconds)

    def _step_stats(self) -> Any:
        from tensorflow.core.protobuf import config_pb2

        metadata = config_pb2.RunMetadata()
        self._run(options=self._options, run_metadata=metadata)
        return metadata.step_stats


def _chain(graph_def: Any) -> None:
    """Has each node wait for the one before it; they are in an order that their edges allow.

    A handle waits for nothing: its variable gets its value before the step.
    """
    nodes = [node for node in graph_def.node if node.op != "VarHandleOp"]
    for before, node in itertools.pairwise(nodes):
        if not any(ref.split(":")[0].lstrip("^") == before.name for ref in node.input):
            node.input.append(f"^{before.name}")


def op_times(step_stats: Any) -> dict[str, float]:
    """Seconds that each op of a traced step computed, by name.

    On a GPU these are the seconds of its kernels, not of their launch.

    Args:
        step_stats: TensorFlow's ``StepStats`` of a graph in the scope ``placer_step``.
    """
    launched: dict[str, float] = defaultdict(float)
    on_streams: dict[str, float] = defaultdict(float)
    for device in step_stats.dev_stats:
        streams = "/stream:" in device.device
        if streams and not device.device.endswith("/stream:all"):
            continue  # what is in it is in that of all
        for node in device.node_stats:
            name = node.node_name.partition(":")[0]
            if not name.startswith(f"{_SCOPE}/"):
                continue
            nanoseconds = node.op_end_rel_nanos - node.op_start_rel_nanos
            found = on_streams if streams else launched
            found[name.removeprefix(f"{_SCOPE}/")] += nanoseconds * 1e-9
    return {**launched, **on_streams}


def main() -> None:
    """Answers messages until its input ends."""
    replies = _wire.take_stdout()
    messages: queue.SimpleQueue[Program | Run] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()
    runner: ProgramRunner | None = None
    while True:
        message = messages.get()
        reply: _wire.Reply
        try:
            if isinstance(message, Program):
                runner = ProgramRunner(message)
                reply = _wire.Ready(devices=runner.devices())
            else:
                assert runner is not None  # noqa: S101
                reply = runner.run(message)
        except PlacerError as error:
            reply = _wire.Failure(str(error))
        except Exception as error:  # whatever the step does
            reply = _wire.Failure(describe_error(error))
        _wire.write_all(replies, _wire.frame(reply))


def _receive(messages: queue.SimpleQueue[Program | Run]) -> None:
    """Hands messages on. Ends the process with its input, whatever it is doing then."""
    received = b""
    while data := os.read(0, 1 << 20):
        received += data
        while (found := _wire.split_frame(received)) is not None:
            content, received = found
            messages.put(_decode(content))
    os._exit(1)


if __name__ == "__main__":
    main()
