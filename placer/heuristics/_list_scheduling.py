"""List scheduling of groups of tasks with insertion into idle gaps."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placer.errors import InfeasibleError
from placer.problem import Problem

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks to schedule, in groups that share a device.

    Attributes:
        seconds: Seconds of each task on each device, ``[num_tasks, num_devices]``.
        order: Tasks in a topological order, ``[num_tasks]``.
        producers: Task that each edge comes from, ``[num_edges]``.
        consumers: Task that each edge goes to, ``[num_edges]``.
        bytes: Bytes sent along each edge, ``[num_edges]``.
        latency_seconds: Of each link, ``[num_devices, num_devices]``.
        bandwidth: Of each link, infinite on the diagonal, ``[num_devices, num_devices]``.
        slots: How many tasks each device runs at once, ``[num_devices]``.
        memory_bytes: Memory of each device, ``[num_devices]``.
        group_of_task: Group of each task, ``[num_tasks]``.
        allowed: Devices each group may go to, ``[num_groups, num_devices]``.
        parameter_bytes: Memory that each group takes, ``[num_groups]``.
        group_names: For messages, ``[num_groups]``.
    """

    seconds: Floats
    order: Ints
    producers: Ints
    consumers: Ints
    bytes: Floats
    latency_seconds: Floats
    bandwidth: Floats
    slots: tuple[int, ...]
    memory_bytes: Floats
    group_of_task: Ints
    allowed: NDArray[np.bool_]
    parameter_bytes: Floats
    group_names: tuple[str, ...]

    @classmethod
    def of_problem(cls, problem: Problem) -> Tasks:
        """The ops of a problem."""
        graph, cluster = problem.graph, problem.cluster
        producers, consumers, tensors = graph.edges
        return cls(
            seconds=np.maximum(problem.op_seconds, 1e-9),
            order=graph.topological_order,
            producers=producers,
            consumers=consumers,
            bytes=np.append(graph.tensor_bytes, 0.0)[tensors],  # -1, the last: a control edge
            latency_seconds=cluster.latency_seconds,
            bandwidth=cluster.bandwidth,
            slots=tuple(device.slots for device in cluster.devices),
            memory_bytes=np.array([device.memory_bytes for device in cluster.devices]),
            group_of_task=problem.groups.group_of_op,
            allowed=problem.allowed,
            parameter_bytes=problem.group_parameter_bytes,
            group_names=problem.groups.names,
        )


@dataclass(frozen=True, eq=False)
class TaskSchedule:
    """When and where tasks run.

    Attributes:
        device_of_group: ``[num_groups]``.
        start_seconds: Of each task, ``[num_tasks]``.
        finish_seconds: Of each task, ``[num_tasks]``.
    """

    device_of_group: Ints
    start_seconds: Floats
    finish_seconds: Floats


def upward_ranks(tasks: Tasks) -> Floats:
    """Longest path from each task to an end, itself included, by mean seconds, ``[num_tasks]``.

    Topcuoglu et al. (2002), equation 4: means over the devices that may run a task, and over all
    links.
    """
    allowed = tasks.allowed[tasks.group_of_task]
    mean_seconds = np.where(allowed, tasks.seconds, 0.0).sum(axis=1) / allowed.sum(axis=1)
    num_devices = len(tasks.latency_seconds)
    apart = ~np.eye(num_devices, dtype=bool)
    latency = tasks.latency_seconds[apart].mean() if num_devices > 1 else 0.0
    per_byte = (1.0 / tasks.bandwidth[apart]).mean() if num_devices > 1 else 0.0
    transfer_seconds = latency + tasks.bytes * per_byte
    ranks: list[float] = mean_seconds.tolist()
    edges_of = _edges_by(tasks.producers, len(ranks))
    consumers, transfers = tasks.consumers.tolist(), transfer_seconds.tolist()
    for task in reversed(tasks.order.tolist()):
        ranks[task] += max((transfers[e] + ranks[consumers[e]] for e in edges_of[task]), default=0)
    return np.array(ranks)


def schedule(tasks: Tasks, priorities: Floats) -> TaskSchedule:
    """Schedules tasks one by one, each as early as the idle gaps of its device permit.

    The first task of a group that reads from another group chooses the device for all of it: that
    with the least sum of its own start and the seconds of the group, among those with memory for
    the group. Tasks that read from no other group, such as the reading of a variable, wait for
    that; if they are needed earlier, their group goes to the device of the task that needs them.
    A group of such tasks alone lets the first choose. So, where each task is its own group, this
    is insertion at the earliest finish time as in HEFT.

    Args:
        tasks: The tasks.
        priorities: Highest first; a task's must exceed those of all that depend on it,
            ``[num_tasks]``.

    Raises:
        InfeasibleError: No device that may run a group has memory for its variables.
    """
    scheduler = _Scheduler(tasks)
    rank = np.empty(len(priorities), np.int64)
    rank[tasks.order] = np.arange(len(priorities))
    for task in np.lexsort((rank, -priorities)).tolist():
        scheduler.add(task)
    return TaskSchedule(
        np.array(scheduler.device_of_group, np.int32),
        np.array(scheduler.start_seconds),
        np.array(scheduler.finish_seconds),
    )


class _Scheduler:
    """The state of :func:`schedule`; device -1 is that of a group without one."""

    def __init__(self, tasks: Tasks) -> None:
        num_tasks, num_groups = len(tasks.seconds), len(tasks.allowed)
        self.device_of_group = [-1] * num_groups
        self.start_seconds = [0.0] * num_tasks
        self.finish_seconds = [0.0] * num_tasks
        self._tasks = tasks
        self._group_of_task: list[int] = tasks.group_of_task.tolist()
        self._seconds: list[list[float]] = tasks.seconds.tolist()
        self._producers: list[int] = tasks.producers.tolist()
        self._bytes: list[float] = tasks.bytes.tolist()
        self._latency_seconds: list[list[float]] = tasks.latency_seconds.tolist()
        self._seconds_per_byte: list[list[float]] = (1.0 / tasks.bandwidth).tolist()
        self._incoming = _edges_by(tasks.consumers, num_tasks)
        self._group_seconds = np.zeros(tasks.allowed.shape)
        np.add.at(self._group_seconds, tasks.group_of_task, tasks.seconds)
        outside = tasks.group_of_task[tasks.producers] != tasks.group_of_task[tasks.consumers]
        self._reads_outside = np.zeros(num_tasks, bool)
        self._reads_outside[tasks.consumers[outside]] = True
        self._group_reads_outside = np.zeros(num_groups, bool)
        self._group_reads_outside[tasks.group_of_task[tasks.consumers[outside]]] = True
        self._free_bytes = tasks.memory_bytes.astype(float)
        self._timelines = [[_Timeline() for _ in range(slots)] for slots in tasks.slots]
        self._waiting: list[list[int]] = [[] for _ in range(num_groups)]

    def add(self, task: int) -> None:
        """Schedules a task, or lets it wait; all that it depends on was added before."""
        group = self._group_of_task[task]
        if self.device_of_group[group] < 0:
            if self._group_reads_outside[group] and not self._reads_outside[task]:
                self._waiting[group].append(task)
                return
            self._settle(group, self._choose(task))
        for edge in self._incoming[task]:
            source = self._group_of_task[self._producers[edge]]
            if self.device_of_group[source] < 0:
                here = self.device_of_group[group]
                fits = self._fitting(source)[here]
                self._settle(source, here if fits else self._choose(self._waiting[source][0]))
        self._place(task)

    def _fitting(self, group: int) -> NDArray[np.bool_]:
        """Devices that a group may go to and that have memory left for it, ``[num_devices]``."""
        tasks = self._tasks
        fitting: NDArray[np.bool_] = tasks.allowed[group] & (
            tasks.parameter_bytes[group] <= self._free_bytes
        )
        return fitting

    def _choose(self, task: int) -> int:
        """The device for the group of a task."""
        group = self._group_of_task[task]
        fitting = self._fitting(group)
        if not fitting.any():
            tasks = self._tasks
            raise InfeasibleError(
                f"op group {tasks.group_names[group]!r} has "
                f"{tasks.parameter_bytes[group]:,.0f} bytes of variables; the devices that can "
                f"run it have at most {self._free_bytes[tasks.allowed[group]].max():,.0f} left"
            )
        finish = np.full(len(fitting), np.inf)
        for device in np.flatnonzero(fitting).tolist():
            finish[device] = self._earliest(task, device)[0] + self._group_seconds[group, device]
        return int(finish.argmin())

    def _settle(self, group: int, device: int) -> None:
        """Sends a group to a device, and schedules its tasks that wait."""
        self.device_of_group[group] = device
        self._free_bytes[device] -= self._tasks.parameter_bytes[group]
        for task in self._waiting[group]:
            self._place(task)

    def _place(self, task: int) -> None:
        """Schedules a task on the device of its group."""
        device = self.device_of_group[self._group_of_task[task]]
        start, slot = self._earliest(task, device)
        slot.occupy(start, self._seconds[task][device])
        self.start_seconds[task] = start
        self.finish_seconds[task] = start + self._seconds[task][device]

    def _earliest(self, task: int, device: int) -> tuple[float, _Timeline]:
        """The earliest start of a task on a device, and on which slot of it."""
        ready = 0.0
        for edge in self._incoming[task]:
            producer = self._producers[edge]
            source = self.device_of_group[self._group_of_task[producer]]
            if source < 0:  # it will come here
                continue
            arrival = self.finish_seconds[producer]
            if source != device:
                arrival += self._latency_seconds[source][device]
                arrival += self._bytes[edge] * self._seconds_per_byte[source][device]
            ready = max(ready, arrival)
        duration = self._seconds[task][device]
        starts = [slot.earliest(ready, duration) for slot in self._timelines[device]]
        slot = starts.index(min(starts))
        return starts[slot], self._timelines[device][slot]


class _Timeline:
    """The idle gaps of one slot of a device, in time order; the last never ends."""

    def __init__(self) -> None:
        self._starts = [0.0]
        self._ends = [float("inf")]

    def earliest(self, ready: float, duration: float) -> float:
        """The earliest start, at `ready` or later, of a gap's part as long as `duration`."""
        gap = bisect.bisect_left(self._ends, ready + duration)
        while max(self._starts[gap], ready) + duration > self._ends[gap]:
            gap += 1
        return max(self._starts[gap], ready)

    def occupy(self, start: float, duration: float) -> None:
        """Takes time out of the gap that it lies in."""
        gap = bisect.bisect_right(self._starts, start) - 1
        gap_start, gap_end = self._starts[gap], self._ends[gap]
        pieces = [(gap_start, start), (start + duration, gap_end)]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        self._starts[gap : gap + 1] = [piece[0] for piece in pieces]
        self._ends[gap : gap + 1] = [piece[1] for piece in pieces]


def _edges_by(ends: Ints, num_tasks: int) -> list[list[int]]:
    """The edges at each task, ``[num_tasks]`` lists."""
    edges: list[list[int]] = [[] for _ in range(num_tasks)]
    for edge, task in enumerate(ends.tolist()):
        edges[task].append(edge)
    return edges
