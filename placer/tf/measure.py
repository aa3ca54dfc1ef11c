"""Measures how long steps take where a placement says."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer.cluster import Cluster
from placer.errors import PlacementError, PlacerError, UsageError
from placer.placement import Evaluations, Placement, check_placements
from placer.tf import _wire
from placer.tf._devices import device_names, full_name, present_devices
from placer.tf._flatten import FlatGraph, flatten_function
from placer.tf._placed import strict_config
from placer.tf._processes import START_SECONDS, LostError, Process
from placer.tf._program import save_program
from placer.tf.apply import trace_function
from placer.tf.read import name_of, reading_of

_MEASURING = "placer.tf._measuring"
_SERVING = "placer.tf._serving"


@dataclass(frozen=True)
class Measurement:
    """What measuring a placement gave.

    Attributes:
        step_seconds: Seconds of each step that counts; none if it failed.
        warmup_seconds: Seconds of each step before.
        reason: Why it failed, if it did.
    """

    step_seconds: tuple[float, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def step_time_seconds(self) -> float:
        """The median; infinite if the placement failed."""
        return float("inf") if self.reason is not None else float(np.median(self.step_seconds))

    @property
    def spread_seconds(self) -> float:
        """From the first to the third quartile; nan if the placement failed."""
        if self.reason is not None:
            return float("nan")
        first, third = np.percentile(self.step_seconds, [25, 75])
        return float(third - first)


class MeasuredEvaluator:
    """Measures placements: the ``Evaluator`` of a ``Problem`` whose step times are real.

    A process of its own builds the step under each placement and times it, on the devices of this
    machine or on workers, which are processes or hosts with TensorFlow servers. Where a step
    crashes, hangs, runs out of memory or lacks a kernel, the placement is infeasible with that
    reason and the processes are replaced. What was measured once is not measured again.

    The step starts from the present values of its variables, which do not change. Its results
    stay on their devices.

    Args:
        target: What ``placer.tf.apply`` takes.
        cluster: The devices of placements.
        *specs: As ``placer.tf.read`` was given.
        devices: Name of the TensorFlow device for each device of the cluster. By default those of
            the same names or, with workers, the CPU of each.
        workers: How many processes to start on this machine, each on a core of its own; or where
            TensorFlow servers are, as ``"host:port"``. They are the tasks of job ``worker``.
        inputs: The arguments to measure with, in the structure of `specs`. By default normally
            distributed numbers, and zeros where they are no floats.
        warmup: How many steps warm up.
        steps: How many steps count.
        seconds_limit: How long a placement may take in all, with building and warming up.
        log: A file to append each measurement to, a line of JSON each.
        training: As ``placer.tf.read`` was given.
        signature: As ``placer.tf.read`` was given.

    Attributes:
        graph: The graph, as ``placer.tf.read`` gives it.
        cluster: The cluster.

    Raises:
        ReadError: As ``placer.tf.read``, or a GraphDef.
        UsageError: An argument outside its range, or a device that TensorFlow does not have.
        PlacerError: A process does not start, or there is no server where one should be.

    Example:
        >>> with MeasuredEvaluator(train_step, cluster, *specs, workers=2) as evaluator:
        ...     graph = evaluator.graph
        ...     problem = Problem(graph, cluster, group_ops(graph), evaluator)
        ...     result = anneal(problem, evaluations=200, seed=0)
    """

    def __init__(
        self,
        target: Any,
        cluster: Cluster,
        *specs: Any,
        devices: Sequence[str] | None = None,
        workers: int | Sequence[str] = 0,
        inputs: Sequence[Any] | None = None,
        warmup: int = 3,
        steps: int = 10,
        seconds_limit: float = 60.0,
        log: str | os.PathLike[str] | None = None,
        training: bool = False,
        signature: str = "serving_default",
    ) -> None:
        if warmup < 0 or steps < 1:
            raise UsageError(f"warmup is {warmup} and steps {steps}; expected at least 0 and 1")
        if not seconds_limit > 0:
            raise UsageError(f"seconds_limit is {seconds_limit}; expected more than 0")
        self.cluster = cluster
        names = _device_names(cluster, devices, workers)
        function = trace_function(target, specs, training, signature)
        flat = flatten_function(function)
        self.graph = reading_of(flat, name_of(target)).graph
        values = [*_variable_values(flat), *_input_values(flat, inputs)]
        self._seconds_limit = seconds_limit
        self._known: dict[bytes, Measurement] = {}
        self._log = None if log is None else Path(log)
        outputs = [ref.partition(":")[0] for ref in flat.outputs]
        step = _wire.Step(
            devices=names,
            workers=(),
            variables=tuple(flat.variables),
            inputs=flat.inputs,
            targets=tuple(dict.fromkeys((*outputs, *flat.control_outputs, *flat.inputs))),
            warmup=warmup,
            steps=steps,
        )
        # it has no reference to the evaluator, whose end is its own
        self._team = _Team(step, workers, Path(tempfile.mkdtemp(prefix="placer-")))
        self._close = weakref.finalize(self, self._team.close)
        try:
            save_program(self._team.folder, flat.graph_def, _session_config(bool(workers)), values)
            self._team.start()
        except BaseException:
            self.close()
            raise

    def evaluate(self, placements: NDArray[np.int32]) -> Evaluations:
        """Measures a batch of placements, one after the other.

        Args:
            placements: Device indices, ``[batch, num_ops]``.

        Raises:
            PlacementError: Not a batch of placements of this graph on this cluster.
            PlacerError: The processes do not start again after a failure.
        """
        placements = check_placements(placements, self.graph, self.cluster)
        if placements.ndim != 2:
            raise PlacementError(
                f"placements have shape {placements.shape}; expected (batch, {self.graph.num_ops})"
            )
        found = [self._measure(devices) for devices in placements]
        return Evaluations(
            np.array([measurement.step_time_seconds for measurement in found]),
            np.array([measurement.reason is None for measurement in found], bool),
            [measurement.reason for measurement in found],
        )

    def measure(self, placement: Placement, *, again: bool = False) -> Measurement:
        """Measures one placement.

        Args:
            placement: The placement, in ``order="fifo"``.
            again: Whether to measure even what is known; what is found replaces that.

        Raises:
            PlacementError: A placement of another graph, on another cluster, or in another order.
            PlacerError: As :meth:`evaluate`.
        """
        if placement.order != "fifo":
            raise PlacementError(f"the order is {placement.order!r}; expected 'fifo'")
        content = placement.to_json()
        devices = Placement.from_json(content, self.graph, self.cluster).devices
        if again:
            self._known.pop(devices.tobytes(), None)
        return self._measure(devices)

    def close(self) -> None:
        """Ends all processes; what is known stays known."""
        self._close()

    def __enter__(self) -> MeasuredEvaluator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _measure(self, devices: NDArray[np.int32]) -> Measurement:
        key = devices.tobytes()
        if key not in self._known:
            if not self._close.alive:
                raise UsageError("the evaluator is closed; expected one that is open")
            found = self._team.measure(_wire.Request(devices.tolist()), self._seconds_limit)
            self._known[key] = found
            if self._log is not None:
                self._append(devices, found)
        return self._known[key]

    def _append(self, devices: NDArray[np.int32], found: Measurement) -> None:
        assert self._log is not None  # noqa: S101
        line = msgspec.json.encode(
            {
                "graph": self.graph.fingerprint,
                "cluster": self.cluster.fingerprint,
                "devices": devices.tolist(),
                "warmup_seconds": found.warmup_seconds,
                "step_seconds": found.step_seconds,
                "reason": found.reason,
            }
        )
        try:
            with self._log.open("ab") as log:
                log.write(line + b"\n")
        except OSError as error:
            raise PlacerError(
                f"{self._log}: cannot be written ({error.strerror or error})"
            ) from None


@dataclass
class _Team:
    """The process that measures, and the workers that were started for it.

    Attributes:
        step: How to run the step, but for where the workers are.
        workers: How many to start, or where they are.
        folder: Where the program and the logs are.
        owner: The process that started them.
        serving: The workers that were started.
        measuring: The process that measures, if it runs.
    """

    step: _wire.Step
    workers: int | Sequence[str]
    folder: Path
    owner: int = field(default_factory=os.getpid)
    serving: list[Process] = field(default_factory=list)
    measuring: Process | None = None

    def start(self) -> None:
        """Starts all.

        Raises:
            UsageError: TensorFlow does not have a device.
            PlacerError: A process does not start, or a server is not there.
        """
        try:
            log = self.folder / "measuring.log"
            self.measuring = Process(_MEASURING, os.fspath(self.folder), log=log)
            step = msgspec.structs.replace(self.step, workers=self._addresses())
            ready = _started(self.measuring, "the process that measures", step, self._workers())
            for name in step.devices:
                if name not in ready.devices:
                    raise UsageError(
                        f"TensorFlow has no device {name!r} to measure on; "
                        f"it has: {', '.join(ready.devices)}"
                    )
        except BaseException:
            self.stop()
            raise

    def measure(self, request: _wire.Request, seconds_limit: float) -> Measurement:
        """Measures; where that fails, nothing that it may have left is there for the next one.

        Raises:
            PlacerError: As :meth:`start`.
        """
        if self.measuring is None or not all(p.alive for p in (*self.serving, self.measuring)):
            self.stop()
            self.start()
        assert self.measuring is not None  # noqa: S101
        try:
            reply = self.measuring.ask(request, seconds_limit, self._workers())
        except LostError as error:
            self.stop()
            return Measurement(reason=str(error))
        except BaseException:  # an interrupt leaves an answer that nobody takes
            self.stop()
            raise
        if isinstance(reply, _wire.Times):
            return Measurement(reply.step_seconds, reply.warmup_seconds)
        assert isinstance(reply, _wire.Failure)  # noqa: S101
        if reply.ran:
            self.stop()
        return Measurement(reason=reply.reason)

    def stop(self) -> None:
        """Ends all processes."""
        if os.getpid() != self.owner:  # a copy of this process; the original still needs them
            return
        for process in (*self.serving, *filter(None, [self.measuring])):
            process.kill()
        self.serving, self.measuring = [], None

    def close(self) -> None:
        """Ends all processes and removes their files."""
        if os.getpid() == self.owner:
            self.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _workers(self) -> dict[str, Process]:
        return {f"worker {index}": worker for index, worker in enumerate(self.serving)}

    def _addresses(self) -> tuple[str, ...]:
        """Where the workers are, once they are."""
        if not isinstance(self.workers, int):
            for address in self.workers:
                _check_reachable(address)
            return tuple(self.workers)
        cores = _cores()
        for index in range(self.workers):
            log = self.folder / f"worker-{index}.log"
            core = str(cores[index % len(cores)])
            self.serving.append(Process(_SERVING, "--core", core, log=log))
        return tuple(_started(w, name, None, {}).address for name, w in self._workers().items())


def _started(
    process: Process, what: str, step: _wire.Step | None, others: Mapping[str, Process]
) -> _wire.Ready:
    """Waits for a process, which may need to be told a step before it is ready."""
    try:
        reply = process.ask(step, START_SECONDS, others)
    except LostError as error:
        raise PlacerError(f"{what} did not start: {error}") from None
    if not isinstance(reply, _wire.Ready):
        raise PlacerError(f"{what} did not start: {getattr(reply, 'reason', reply)}")
    return reply


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"worker {address!r} is no address; expected 'host:port'")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise PlacerError(
            f"worker {address!r} cannot be reached ({error}); expected a TensorFlow server there"
        ) from None


def _device_names(
    cluster: Cluster, devices: Sequence[str] | None, workers: int | Sequence[str]
) -> tuple[str, ...]:
    """Names of the TensorFlow devices in full, ``[num_devices]``."""
    if isinstance(workers, str) or (isinstance(workers, int) and workers < 0):
        raise UsageError(f"workers is {workers!r}; expected how many, or a list of 'host:port'")
    if not workers:
        return present_devices(cluster, devices)
    if devices is None:
        num_workers = workers if isinstance(workers, int) else len(workers)
        if num_workers != cluster.num_devices:
            raise UsageError(
                f"{num_workers} workers for the {cluster.num_devices} devices of cluster "
                f"{cluster.name!r}; expected one for each, or devices=[...]"
            )
        devices = [f"/job:worker/task:{i}/device:CPU:0" for i in range(num_workers)]
    return tuple(full_name(name) for name in device_names(cluster, devices))


def _session_config(workers: bool) -> Any:
    from tensorflow.python.eager import context

    # the devices of this process, as its user has set them up, are those of the other one
    return strict_config(None if workers else context.context().config)


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
