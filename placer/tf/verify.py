"""Says where TensorFlow ran each op, from its own statistics of a step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from placer.errors import MisplacedError, UsageError
from placer.tf._devices import full_name
from placer.tf._placed import OUTSIDE, PlacedGraph, import_placed, strict_config
from placer.tf.apply import PlacedFunction

_SCOPE = "placer_step"  # tells the ops of the graph from those inside its loops and branches
_OP = re.compile(rf"{_SCOPE}/(.+?)(/replicate/_\d+)?")
_COPIED = "a small constant: TensorFlow copies it to each device that reads it"


@dataclass(frozen=True)
class OpRun:
    """Where an op was asked to run, and where it ran.

    Attributes:
        name: The op's name.
        type: Its type.
        asked: The device where the placement has it.
        ran: The devices where it ran: none, one, or those of its copies.
        reason: Why it did not run where it was asked, if that is known.
        copied: Whether copies of it ran in its place.
    """

    name: str
    type: str
    asked: str
    ran: tuple[str, ...]
    reason: str | None = None
    copied: bool = False

    @property
    def as_asked(self) -> bool:
        """Whether it ran where it was asked and nowhere else."""
        return self.ran == (self.asked,)

    def __str__(self) -> str:
        where = ", ".join(self.ran) or "nowhere"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.name} ({self.type}): asked {self.asked}, ran {where}{reason}"


@dataclass(frozen=True)
class Verification:
    """Where each op of a step ran. ``str()`` of it is a report.

    Attributes:
        ops: All ops of the graph in its order.
    """

    ops: tuple[OpRun, ...]

    @property
    def moved(self) -> tuple[OpRun, ...]:
        """Ops that ran elsewhere than asked."""
        return tuple(op for op in self.ops if op.ran and not op.as_asked and not op.copied)

    @property
    def dropped(self) -> tuple[OpRun, ...]:
        """Ops that did not run."""
        return tuple(op for op in self.ops if not op.ran)

    @property
    def copied(self) -> tuple[OpRun, ...]:
        """Small constants of which each device that reads them made its own."""
        return tuple(op for op in self.ops if op.copied)

    def check(self) -> None:
        """Refuses ops that were moved or dropped.

        Copied ones are as good as in place: what they hold is known before the step.

        Raises:
            MisplacedError: There is one.
        """
        wrong = (*self.moved, *self.dropped)
        if wrong:
            some = "; ".join(map(str, wrong[:3]))
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise MisplacedError(
                f"{len(wrong)} of {len(self.ops)} ops did not run where asked: {some}{more}"
            )

    def __str__(self) -> str:
        as_asked = sum(op.as_asked for op in self.ops)
        lines = [f"{as_asked} of {len(self.ops)} ops ran where asked"]
        for kind in ("moved", "dropped", "copied"):
            ops: tuple[OpRun, ...] = getattr(self, kind)
            lines += [f"{len(ops)} {kind}:", *(f"  {op}" for op in ops)] if ops else []
        return "\n".join(lines)


def verify(
    function: PlacedFunction, *args: Any, strict: bool = False, **kwargs: Any
) -> Verification:
    """Runs one step of a placed function with tracing and says where each op ran.

    The step is one of a session on the same devices, which runs the same graph with the same
    settings, on copies of the variables: TensorFlow takes statistics of sessions only.

    Args:
        function: What ``placer.tf.apply`` gave.
        *args: Arguments of the function.
        strict: Whether to :meth:`~Verification.check` the report.
        **kwargs: More arguments of the function.

    Raises:
        MisplacedError: With `strict`, if there is an op that was moved or dropped.
        UsageError: Not such a function, or the placement uses devices both of this process and of
            servers.
    """
    if not isinstance(function, PlacedFunction):
        raise UsageError(
            f"given an object of type {type(function).__name__}; expected what placer.tf.apply gave"
        )
    placed = function.placed
    ran, copies = _devices_of_ops(trace_step(placed, function.flat_arguments(*args, **kwargs)))
    ops = []
    for node in placed.flat.graph_def.node:
        name, reason = node.name, placed.moved.get(node.name)
        copied = name not in ran and name in copies
        where = tuple(sorted(copies[name] if copied else ran.get(name, ())))
        reason = _COPIED if copied else reason
        ops.append(OpRun(name, node.op, placed.asked[name], where, reason, copied))
    report = Verification(tuple(ops))
    if strict:
        report.check()
    return report


def trace_step(placed: PlacedGraph, arguments: Sequence[Any]) -> Any:
    """Runs a step in a session on copies of the variables; returns TensorFlow's ``StepStats``.

    Args:
        placed: The graph. Its ops are in the scope ``placer_step``.
        arguments: The value of each placeholder.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.eager import context
    from tensorflow.python.ops import resource_variable_ops

    flat = placed.flat
    nodes = {node.name: node for node in flat.graph_def.node}
    outside: dict[str, Any] = {}
    writes, values, feeds = [], {}, {}
    for name, handle in flat.variables.items():
        dtype = tf.as_dtype(nodes[name].attr["dtype"].type)
        value = resource_variable_ops.read_variable_op(handle, dtype).numpy()
        values[name] = np.asarray(value, dtype.as_numpy_dtype)  # a single string comes as bytes
    with tf.Graph().as_default() as graph:
        with tf.name_scope(OUTSIDE):
            for name, value in values.items():
                with tf.device(nodes[name].device):
                    outside[name] = resource_variable_ops.var_handle_op(
                        dtype=value.dtype, shape=value.shape, shared_name=name
                    )
                    initial = tf.compat.v1.placeholder(value.dtype, value.shape)
                    writes.append(resource_variable_ops.assign_variable_op(outside[name], initial))
                feeds[initial] = value
            argument_feeds = {}
            for name, argument in zip(flat.inputs, arguments, strict=True):
                outside[name] = tf.compat.v1.placeholder(argument.dtype, argument.shape)
                argument_feeds[outside[name]] = argument.numpy()
        import_placed(placed, outside, _SCOPE)
    config = strict_config(context.context().config)
    devices = {node.device for node in nodes.values()}
    options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
    metadata = config_pb2.RunMetadata()
    target = _target(devices)
    _tell_of_servers(config, target, devices)
    with tf.compat.v1.Session(target, graph, config) as session:
        session.run(writes, feeds)
        fetches = [f"{_SCOPE}/{name}" for name in (*flat.outputs, *placed.targets)]
        session.run(fetches, argument_feeds, options, metadata)
    return metadata.step_stats


def _target(devices: Iterable[str]) -> str:
    """Where a session has to run to reach these devices; empty for this process."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    specs = [tf.DeviceSpec.from_string(device) for device in sorted(devices)]
    remote = [spec for spec in specs if spec.job != "localhost"]
    if not remote:
        return ""
    if len(remote) < len(specs):
        raise UsageError(
            f"the placement uses devices of this process and of servers ({', '.join(devices)}); "
            "expected either, as TensorFlow takes statistics of no step across both"
        )
    jobs = {job.name: job.tasks for job in context.context().get_server_def().cluster.job}
    return f"grpc://{jobs[remote[0].job][remote[0].task]}"


def _tell_of_servers(config: Any, target: str, devices: Set[str]) -> None:
    """Says in the config of a session where the servers are, if the one it runs on does not know.

    One that was started with all addresses does, and would not take them again; one that was
    started alone, as ``placer worker`` does, learns them from each session.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    if not target:
        return
    with tf.compat.v1.Session(target, tf.Graph()) as session:
        if devices <= {device.name for device in session.list_devices()}:
            return
    jobs = context.context().get_server_def().cluster.job
    config.cluster_def.job.extend(job for job in jobs if job.name != "localhost")
    config.isolate_session_state = True  # variables end with the session


def _devices_of_ops(step_stats: Any) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    import tensorflow as tf

    devices = {full_name(device.name) for device in tf.config.list_logical_devices()}
    ran: dict[str, set[str]] = defaultdict(set)
    copies: dict[str, set[str]] = defaultdict(set)
    for statistics in step_stats.dev_stats:
        if statistics.device in devices:  # others are streams of these
            for node in statistics.node_stats:
                if op := _OP.fullmatch(node.node_name):
                    (copies if op[2] else ran)[op[1]].add(statistics.device)
    return ran, copies
