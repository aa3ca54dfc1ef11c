"""A process that measures placements of one step: ``python -m placer.tf._measuring FOLDER``.

It takes requests from its standard input, and ends with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from placer.errors import PlacerError
from placer.tf import _wire
from placer.tf._steps import Runner, describe_error, seconds_of


class StepRunner(Runner):
    """Builds a step under a placement and times it.

    Args:
        folder: Where the program is.
        step: What else there is to know.

    Attributes:
        ran: Whether the last placement came as far as running a step.
    """

    def __init__(self, folder: Path, step: _wire.Step) -> None:
        super().__init__(folder, step)
        self.ran = False

    def measure(self, request: _wire.Request) -> _wire.Times:
        """Times the step.

        Raises:
            PlacerError: A placement that cannot be run.
            Exception: Whatever TensorFlow raises.
        """
        import tensorflow as tf

        self.ran = False
        graph_def = self.place(request.devices, request.previous)
        with tf.Graph().as_default() as graph:
            targets, writes, feeds = self.build(graph_def)
        with self.session(graph) as session:
            self.ran = True
            session.run(writes, feeds)
            run = session.make_callable(targets)
            warmup = tuple(seconds_of(run) for _ in range(self.step.warmup))
            steps = tuple(seconds_of(run) for _ in range(self.step.steps))
            return _wire.Times(warmup, steps, _trace(session, targets) if request.traced else ())


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


def answer(runner: StepRunner, request: _wire.Request) -> _wire.Times | _wire.Failure:
    """Measures, and says why if that fails."""
    try:
        return runner.measure(request)
    except PlacerError as error:
        return _wire.Failure(str(error))
    except Exception as error:  # whatever the step does
        return _wire.Failure(describe_error(error), runner.ran)


def main() -> None:
    """Prepares the step of the first message, then measures the placements of the others."""
    replies = _wire.take_stdout()
    messages = _wire.receive(_wire.decode_message)
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
        return _wire.Failure(describe_error(error))


if __name__ == "__main__":
    main()
