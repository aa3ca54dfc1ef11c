"""Measures how long steps take where a placement says."""

from __future__ import annotations

import functools
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError
from placer.graph import OpGraph
from placer.placement import Evaluations, Order, Placement, check_placements
from placer.simulator import Simulator
from placer.tf import _wire
from placer.tf._flatten import FlatGraph, flatten_function
from placer.tf._machine import names_on
from placer.tf._order import check_order, order_simulator, previous_ops
from placer.tf._placed import beside_variables, variables_of
from placer.tf._processes import check_seconds_limit
from placer.tf._program import save_program, step_of, values_of
from placer.tf._same import check_graph, check_placement
from placer.tf._team import Team
from placer.tf.apply import trace_function
from placer.tf.measurements import Measurement, MeasurementLog, key_of
from placer.tf.read import name_of, reading_of
from placer.tf.workers import LocalWorkers, Workers


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
            TensorFlow servers are, as ``"host:port"``, or :class:`LocalWorkers`. They are the tasks
            of job ``worker``.
        inputs: The arguments to measure with, in the structure of `specs`. By default normally
            distributed numbers, and zeros where they are no floats.
        graph: The graph with what its ops take, as ``placer.tf.profile`` gives it. By default that
            of ``placer.tf.read``.
        order: Which ready op a device starts first under the placements of :meth:`evaluate`:
            TensorFlow's own choice, or with ``"priority"`` the order of the simulated schedule,
            which control edges hold TensorFlow to.
        priorities: With ``order="priority"``, a figure per op, highest first, ``[num_ops]``. By
            default those of the simulator.
        warmup: How many steps warm up.
        steps: How many steps count.
        seconds_limit: How long a placement may take in all, with building and warming up.
        patience_seconds: How long to wait, where the machine was too busy during a measurement,
            for another chance. Then the measurement stands and is :attr:`~Measurement.busy`.
        on_wait: Called with the share that others take, when it begins to wait.
        log: A file to append each measurement to, a line of JSON each. What it has already of this
            graph on this cluster is known.
        training: As ``placer.tf.read`` was given.
        signature: As ``placer.tf.read`` was given.

    Attributes:
        graph: The graph.
        cluster: The cluster.
        order: As given.
        priorities: As given.
        patience_seconds: As given; may be changed.

    Raises:
        ReadError: As ``placer.tf.read``, or a GraphDef.
        UsageError: An argument outside its range, a device that TensorFlow does not have, or a
            graph of another program.
        PlacementError: Priorities that do not fit the graph or the order.
        ClusterError: An order that cannot be simulated, as a device lacks a rate.
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
        workers: Workers = None,
        inputs: Sequence[Any] | None = None,
        graph: OpGraph | None = None,
        order: Order = "fifo",
        priorities: ArrayLike | None = None,
        warmup: int = 3,
        steps: int = 10,
        seconds_limit: float = 60.0,
        patience_seconds: float = 0.0,
        on_wait: Callable[[float], None] | None = None,
        log: str | os.PathLike[str] | None = None,
        training: bool = False,
        signature: str = "serving_default",
    ) -> None:
        whole = isinstance(warmup, int) and isinstance(steps, int)
        if not whole or warmup < 0 or steps < 1:
            raise UsageError(
                f"warmup is {warmup} and steps {steps}; expected whole numbers, at least 0 and 1"
            )
        check_seconds_limit(seconds_limit)
        if not patience_seconds >= 0:
            raise UsageError(f"patience_seconds is {patience_seconds}; expected at least 0")
        self.cluster = cluster
        names = names_on(cluster, devices, workers)
        function = trace_function(target, specs, training, signature)
        flat = flatten_function(function)
        self._program = reading_of(flat, name_of(target)).graph
        if graph is not None:
            check_graph(graph, self._program)
        self.graph = self._program if graph is None else graph
        self._simulator = None
        if order != "fifo" or priorities is not None:  # it refuses what does not go together
            check_order(self.graph)
            self._simulator = Simulator(self.graph, cluster, order=order, priorities=priorities)
        self.order: Order = order
        self.priorities = None if self._simulator is None else self._simulator.priorities
        self._graph_def, self._devices = flat.graph_def, names
        values = values_of(flat, inputs)
        self._seconds_limit, self._on_wait = seconds_limit, on_wait
        self.patience_seconds = patience_seconds
        self._log = None if log is None else MeasurementLog(log, self._program, cluster)
        self._known = {} if self._log is None else self._log.read()
        step = step_of(flat, names, warmup=warmup, steps=steps)
        # it has no reference to the evaluator, whose end is its own
        self._team = Team(step, Path(tempfile.mkdtemp(prefix="placer-")))
        if isinstance(workers, LocalWorkers):
            self._team.local, self._team.lent = workers, True
        elif isinstance(workers, int):
            self._team.local = LocalWorkers(workers) if workers else None
        else:
            self._team.addresses = tuple(workers or ())
        self._close = weakref.finalize(self, self._team.close)
        try:
            save_program(self._team.folder, flat.graph_def, values, on_workers=bool(workers))
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
        found = [self._measure(self._request(row, self._simulator)) for row in placements]
        return Evaluations(
            np.array([measurement.step_time_seconds for measurement in found]),
            np.array([measurement.reason is None for measurement in found], bool),
            [measurement.reason for measurement in found],
        )

    def measure(
        self, placement: Placement, *, again: bool = False, traced: bool = False
    ) -> Measurement:
        """Measures one placement, in its own order and with its own priorities.

        Args:
            placement: The placement; its graph may be the one of ``placer.tf.read`` or of
                ``placer.tf.profile``.
            again: Whether to measure even what is known; what is found replaces that.
            traced: Whether to trace one more step, which is measuring again.

        Raises:
            PlacementError: A placement of another graph or on another cluster.
            ClusterError: Its order cannot be simulated, as a device lacks a rate.
            PlacerError: As :meth:`evaluate`.
        """
        check_placement(placement, self._program, self.cluster)
        request = self._request(placement.devices, order_simulator(placement), traced)
        if again or traced:
            self._known.pop(key_of(request.devices, request.previous), None)
        return self._measure(request)

    def known(self, devices: NDArray[np.int32]) -> Measurement | None:
        """What was measured of a placement ``[num_ops]`` in the evaluator's order, if it was."""
        request = self._request(np.asarray(devices, np.int32), self._simulator)
        return self._known.get(key_of(request.devices, request.previous))

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All that is known, the last of each placement in each order."""
        return tuple(self._known.values())

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

    def _request(
        self, devices: NDArray[np.int32], simulator: Simulator | None, traced: bool = False
    ) -> _wire.Request:
        """A placement to measure, in the order that is simulated, or else in TensorFlow's own."""
        asked: list[int] = devices.tolist()
        previous: list[int] = []
        if simulator is not None:
            try:
                chosen, _ = beside_variables(
                    self.graph.op_names, self._variables, asked, self._devices
                )
                previous = previous_ops(simulator, chosen)
            except PlacementError:
                pass  # it runs in no order, as the process that measures will say
        return _wire.Request(asked, previous, traced)

    @functools.cached_property
    def _variables(self) -> Mapping[str, Sequence[str]]:
        return variables_of(FlatGraph(self._graph_def))

    def _measure(self, request: _wire.Request) -> Measurement:
        key = key_of(request.devices, request.previous)
        if key not in self._known:
            if not self._close.alive:
                raise UsageError("the evaluator is closed; expected one that is open")
            found = self._measure_in_quiet(request)
            if self._log is not None:
                self._log.append(request.devices, request.previous, found)
            self._known[key] = found
        return self._known[key]

    def _measure_in_quiet(self, request: _wire.Request) -> Measurement:
        """Measures, again and again while the machine is too busy and patience lasts."""
        deadline = time.monotonic() + self.patience_seconds
        found = self._team.measure(request, self._seconds_limit)
        while found.busy and time.monotonic() < deadline:
            if self._on_wait is not None:
                self._on_wait(found.others_share or 0.0)
            self._team.wait_for_quiet(deadline)
            found = self._team.measure(request, self._seconds_limit)
        return found
