"""A process that times the ops of steps: ``python -m placer.tf._profiling``.

It takes messages from its standard input, and ends with it. For each program it gets a
:class:`Program`, then a :class:`Run` for each placement and kind of timing.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from placer.errors import PlacerError
from placer.tf import _wire
from placer.tf._steps import Runner, describe_error, seconds_of

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


class ProgramRunner(Runner):
    """Builds the step of a program under placements and runs it."""

    def run(self, request: Run) -> _wire.Times:
        """Runs the steps; their seconds are those beyond a step of an op that does nothing.

        Raises:
            PlacerError: A placement that cannot be run.
            Exception: Whatever TensorFlow raises.
        """
        with self._session(request) as (session, nothing, targets):
            run, idle = session.make_callable(targets), session.make_callable([nothing])
            warmup = tuple(seconds_of(run) for _ in range(self.step.warmup))
            tracer = None if request.traced is None else _Tracer(session, targets)
            least = statistics.median(seconds_of(idle) for _ in range(10 + self.step.steps))
            steps = []
            for _ in range(self.step.steps):  # by turns, so that both see the same machine
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

        graph_def = self.place(request.devices)
        if request.one_by_one:
            _chain(graph_def)
        with tf.Graph().as_default() as graph:
            targets, writes, feeds = self.build(graph_def, _SCOPE)
            with tf.device(self.step.devices[request.devices[0]]):
                nothing = tf.raw_ops.NoOp()
        with self.session(graph) as session:
            session.run(writes, feeds)
            yield session, nothing, targets


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
    messages = _wire.receive(_decode)
    runner: ProgramRunner | None = None
    while True:
        message = messages.get()
        reply: _wire.Reply
        try:
            if isinstance(message, Program):
                runner = ProgramRunner(Path(message.folder), message.step)
                reply = _wire.Ready(devices=runner.devices())
            else:
                assert runner is not None  # noqa: S101
                reply = runner.run(message)
        except PlacerError as error:
            reply = _wire.Failure(str(error))
        except Exception as error:  # whatever the step does
            reply = _wire.Failure(describe_error(error))
        _wire.write_all(replies, _wire.frame(reply))


if __name__ == "__main__":
    main()
