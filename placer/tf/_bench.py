"""Processes that time programs, for profiling and calibration."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from msgspec.structs import replace

from placer.errors import PlacerError
from placer.graph import OpGraph
from placer.tf import _wire
from placer.tf._devices import check_there
from placer.tf._flatten import flatten_function
from placer.tf._processes import LostError, Process, check_seconds_limit, started
from placer.tf._profiling import Program, Run
from placer.tf._program import save_program, step_of, values_of
from placer.tf._throttle import PERIOD_SECONDS
from placer.tf.read import reading_of
from placer.tf.workers import LocalWorkers, Workers, check_reachable, check_workers

_PROFILING = "placer.tf._profiling"


class Bench:
    """A process that times steps on the devices of this machine or on workers.

    All that it has started ends with the ``with`` block.

    Args:
        workers: As ``placer.tf.MeasuredEvaluator`` takes them.
        seconds_limit: How long the steps of one :meth:`run` may take, with building them.

    Raises:
        UsageError: An argument outside its range.
        PlacerError: A process does not start, or there is no server where one should be.
    """

    def __init__(self, workers: Workers, seconds_limit: float) -> None:
        check_seconds_limit(seconds_limit)
        check_workers(workers)
        self._seconds_limit = seconds_limit
        self._stack = contextlib.ExitStack()
        self._local: LocalWorkers | None = None
        self._addresses: tuple[str, ...] = ()
        self._devices: tuple[str, ...] = ()
        self._num_programs = 0
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="placer-"))
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._process = Process(_PROFILING, log=self._folder / "profiling.log")
            self._stack.callback(self._process.kill)
            if isinstance(workers, LocalWorkers):
                self._local, self._addresses = workers, workers.start()
            elif isinstance(workers, int) and workers:
                self._local = self._stack.enter_context(LocalWorkers(workers))
                self._addresses = self._local.start()
            elif workers:
                for address in workers:
                    check_reachable(address)
                self._addresses = tuple(workers)
        except BaseException:
            self._stack.close()
            raise

    def load(
        self,
        function: Any,
        devices: Sequence[str],
        *,
        name: str,
        warmup: int,
        steps: int,
        inputs: Sequence[Any] | None = None,
    ) -> OpGraph:
        """Prepares to run a function.

        Args:
            function: A ConcreteFunction.
            devices: Names of the TensorFlow devices of placements in full, ``[num_devices]``.
            name: What to call the graph.
            warmup: How many steps warm up.
            steps: How many steps count.
            inputs: As ``placer.tf.MeasuredEvaluator`` takes them.

        Returns:
            The graph, as ``placer.tf.read`` gives it.

        Raises:
            UsageError: TensorFlow does not have a device, or inputs that do not fit.
            ReadError: As ``placer.tf.read``.
            PlacerError: The process fails.
        """
        flat = flatten_function(function)
        graph = reading_of(flat, name).graph
        values = values_of(flat, inputs)
        self._num_programs += 1
        folder = self._folder / f"program-{self._num_programs}"
        folder.mkdir()
        save_program(folder, flat.graph_def, values, on_workers=bool(self._addresses))
        step = step_of(flat, devices, warmup=warmup, steps=steps)
        ready = started(
            self._process,
            "the process that takes times",
            Program(os.fspath(folder), replace(step, workers=self._addresses)),
            self._others(),
        )
        check_there(step.devices, ready.devices)
        self._devices = step.devices
        return graph

    def stop_seconds(self, device: int) -> float:
        """How long each stop of a device's worker takes at least; 0 if it is not throttled.

        Args:
            device: Index of one of the devices of :meth:`load`.
        """
        import tensorflow as tf

        if self._local is None:
            return 0.0
        task: int = tf.DeviceSpec.from_string(self._devices[device]).task
        return PERIOD_SECONDS * (1 - self._local.shares[task])

    def run(self, placement: Sequence[int]) -> tuple[float, ...]:
        """Seconds of each step that counts, beyond those of a step that does nothing.

        Args:
            placement: Index of the device of each op, ``[num_ops]``.

        Raises:
            PlacerError: The steps fail.
        """
        return self._ask(Run(list(placement))).step_seconds

    def trace(
        self, placement: Sequence[int]
    ) -> tuple[tuple[float, ...], Mapping[str, Sequence[float]]]:
        """Seconds of each step, as :meth:`run`, and of each op in traced ones between; one by one.

        Args:
            placement: Index of the device of each op, ``[num_ops]``.

        Raises:
            PlacerError: The steps fail.
        """
        path = self._folder / "traced.json"
        steps = self._ask(Run(list(placement), True, os.fspath(path))).step_seconds
        return steps, msgspec.json.decode(path.read_bytes(), type=dict[str, list[float]])

    def _ask(self, request: Run) -> _wire.Times:
        try:
            reply = self._process.ask(request, self._seconds_limit, self._others())
            reason = getattr(reply, "reason", str(reply))
        except LostError as error:
            reply, reason = None, str(error)
        if isinstance(reply, _wire.Times):
            return reply
        where = " and ".join(self._devices[i] for i in sorted(set(request.devices)))
        raise PlacerError(f"a step to be timed on {where} failed: {reason}")

    def _others(self) -> Mapping[str, Process]:
        return {} if self._local is None else self._local.processes

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
