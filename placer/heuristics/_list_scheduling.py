"""List scheduling: tasks one by one, each to the device where a rule says it is best.

HEFT, PEFT and the critical path take the tasks by a priority, m-ETF and m-SCT by their earliest
start; memory, groups, transfers and the time of devices are the same for all.
"""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._figures import group_edges, group_seconds
from placer.heuristics._memory import kept_bytes, memory_bytes
from placer.problem import Problem

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
        kept_bytes: Memory that each group takes, ``[num_groups]``.
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
    allowed: Bools
    kept_bytes: Floats

    @classmethod
    def of_ops(cls, problem: Problem) -> Tasks:
        """The ops of a problem, in its op groups."""
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
            slots=tuple(cluster.num_slots(graph.num_ops).tolist()),
            memory_bytes=memory_bytes(problem),
            group_of_task=problem.groups.group_of_op,
            allowed=problem.allowed,
            kept_bytes=kept_bytes(problem),
        )

    @classmethod
    def of_groups(cls, problem: Problem, allowed: Bools) -> Tasks:
        """The op groups of a problem, each one task that runs all of its ops in sequence.

        Ops of two groups may depend on each other in both directions, as those of a forward and
        a backward pass do. Groups are numbered by their first op in topological order; only edges
        to a later group count, so that there is no cycle.

        Args:
            problem: The problem.
            allowed: Devices each group may go to, ``[num_groups, num_devices]``.
        """
        producers, consumers, sizes = group_edges(problem)
        forward = producers < consumers
        numbers = np.arange(problem.num_groups, dtype=np.int32)
        return replace(
            cls.of_ops(problem),
            seconds=group_seconds(problem),
            order=numbers,
            producers=producers[forward],
            consumers=consumers[forward],
            bytes=sizes[forward],
            group_of_task=numbers,
            allowed=allowed,
        )

    @property
    def allowed_tasks(self) -> Bools:
        """Devices each task may go to, ``[num_tasks, num_devices]``."""
        return self.allowed[self.group_of_task]

    @property
    def inside(self) -> Bools:
        """Whether each edge is inside a group, ``[num_edges]``."""
        ends = self.group_of_task[self.producers], self.group_of_task[self.consumers]
        return np.equal(*ends)

    def mean_seconds(self) -> Floats:
        """Seconds of each task, mean over the devices it may go to, ``[num_tasks]``."""
        allowed = self.allowed_tasks
        means: Floats = np.where(allowed, self.seconds, 0.0).sum(axis=1) / allowed.sum(axis=1)
        return means

    def mean_transfer_seconds(self) -> Floats:
        """Seconds to send along each edge, mean over the links, ``[num_edges]``.

        The links are those between devices that any task may go to. Inside a group nothing is sent.
        """
        used = np.flatnonzero(self.allowed.any(axis=0))
        apart = ~np.eye(len(used), dtype=bool)
        if not apart.any():
            return np.zeros(len(self.bytes))
        links = np.ix_(used, used)
        latency = self.latency_seconds[links][apart].mean()
        per_byte = (1.0 / self.bandwidth[links][apart]).mean()
        seconds: Floats = np.where(self.inside, 0.0, latency + self.bytes * per_byte)
        return seconds


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

    Topcuoglu et al. (IEEE TPDS 13(3), 2002), section 4.1: transfers by their mean, too.
    """
    return _longest_paths(tasks, tasks.mean_transfer_seconds())


def static_levels(tasks: Tasks) -> Floats:
    """Longest path from each task to an end, itself included, without transfers, ``[num_tasks]``.

    The static level of Kwok and Ahmad (ACM Computing Surveys 31(4), 1999).
    """
    return _longest_paths(tasks, np.zeros(len(tasks.bytes)))


def schedule(
    tasks: Tasks,
    priorities: Floats,
    *,
    lookahead: Floats | None = None,
    insertion: bool = True,
) -> TaskSchedule:
    """Schedules tasks by priority, each after all that it depends on.

    The first task of a group that reads from another group chooses the device for all of it: that
    with the least sum of its own start, the seconds of the group and the `lookahead`, among those
    with memory for the group. Tasks that read from no other group, such as the reading of a
    variable, wait for that; if they are needed earlier, their group goes to the device of the task
    that needs them. A group of such tasks alone lets the first choose. So, where each task is its
    own group, the choice is that of the earliest finish time.

    Args:
        tasks: The tasks.
        priorities: Highest first among the tasks that depend on none left, ``[num_tasks]``.
        lookahead: Seconds expected after each task if it is on a device, ``[num_tasks,
            num_devices]``; None for none.
        insertion: Whether a task may use idle time before one scheduled earlier.
    """
    num_tasks = len(priorities)
    scheduler = _Scheduler(tasks, insertion=insertion)
    rank = np.empty(num_tasks, np.int64)
    rank[tasks.order] = np.arange(num_tasks)
    entries = list(zip((-priorities).tolist(), rank.tolist(), range(num_tasks), strict=True))
    missing = np.bincount(tasks.consumers, minlength=num_tasks).tolist()
    outgoing = _edges_by(tasks.producers, num_tasks)
    consumers = tasks.consumers.tolist()
    ready = [entry for entry in entries if not missing[entry[2]]]
    heapq.heapify(ready)
    while ready:
        _, _, task = heapq.heappop(ready)
        scheduler.add(task, None if lookahead is None else lookahead[task])
        for edge in outgoing[task]:
            consumer = consumers[edge]
            missing[consumer] -= 1
            if not missing[consumer]:
                heapq.heappush(ready, entries[consumer])
    return scheduler.result()


def schedule_earliest(tasks: Tasks, favourites: Ints | None = None) -> TaskSchedule:
    """Schedules again and again the task that can start first, on the device where it can.

    Ties go to the task of the highest static level. Without favourites this is ETF (Hwang, Chow,
    Anger and Lee, SIAM J. Comput. 18(2), 1989). With them it is SCT, as Baechi has it (Jeon et al.,
    SoCC 2020): a device is awake while the favourite of its last task is ready and can start
    nowhere earlier. There another task starts only if it is urgent: once its inputs could be on
    every device, and sooner than the favourite. Where both can start at once, the favourite does.

    Args:
        tasks: The tasks, each its own group.
        favourites: The favourite child of each task, -1 for none, ``[num_tasks]``.
    """
    num_tasks, num_devices = tasks.seconds.shape
    scheduler = _Scheduler(tasks, insertion=False)
    levels = static_levels(tasks)
    missing = np.bincount(tasks.consumers, minlength=num_tasks)
    outgoing = _edges_by(tasks.producers, num_tasks)
    arrivals = np.zeros((num_tasks, num_devices))
    favourite_on = np.full(num_devices, -1)  # of the last task of each device
    ready = np.flatnonzero(missing == 0).tolist()
    while ready:
        rows = np.array(ready)
        candidates = scheduler.candidates(rows)
        free = scheduler.free_seconds()
        starts = np.where(candidates, np.maximum(arrivals[rows], free), np.inf)
        is_favourite = rows[:, None] == favourite_on
        urgent = np.where(candidates, arrivals[rows], -np.inf).max(axis=1)
        nowhere_earlier = candidates & (starts <= starts.min(axis=1, keepdims=True))
        awake = (is_favourite & nowhere_earlier).any(axis=0)
        for device in np.flatnonzero(awake).tolist():
            others = candidates[:, device] & ~is_favourite[:, device]
            starts[others, device] = np.maximum(urgent[others], free[device])
        row, device = min(
            np.argwhere(starts == starts.min()).tolist(),
            key=lambda at: (
                not is_favourite[*at],
                -levels[rows[at[0]]],
                rows[at[0]],
                awake[at[1]],  # an urgent task leaves it alone if another can start it as soon
                at[1],
            ),
        )
        task = int(rows[row])
        del ready[row]
        scheduler.put(task, device)
        favourite_on[device] = -1 if favourites is None else favourites[task]
        for edge in outgoing[task]:
            consumer = int(tasks.consumers[edge])
            missing[consumer] -= 1
            if not missing[consumer]:
                arrivals[consumer] = [scheduler.arrival(consumer, d) for d in range(num_devices)]
                ready.append(consumer)
    return scheduler.result()


class _Scheduler:
    """What is scheduled so far; device -1 is that of a group without one."""

    def __init__(self, tasks: Tasks, *, insertion: bool) -> None:
        num_tasks, num_groups = len(tasks.seconds), len(tasks.allowed)
        self._device_of_group = [-1] * num_groups
        self._start_seconds = [0.0] * num_tasks
        self._finish_seconds = [0.0] * num_tasks
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
        outside = ~tasks.inside
        self._reads_outside = np.zeros(num_tasks, bool)
        self._reads_outside[tasks.consumers[outside]] = True
        self._group_reads_outside = np.zeros(num_groups, bool)
        self._group_reads_outside[tasks.group_of_task[tasks.consumers[outside]]] = True
        self._free_bytes = tasks.memory_bytes.astype(float)
        self._timelines = [[_Timeline(insertion) for _ in range(slots)] for slots in tasks.slots]
        self._waiting: list[list[int]] = [[] for _ in range(num_groups)]

    def add(self, task: int, lookahead: Floats | None) -> None:
        """Schedules a task, or lets it wait; all that it depends on was added before."""
        group = self._group_of_task[task]
        if self._device_of_group[group] < 0:
            if self._group_reads_outside[group] and not self._reads_outside[task]:
                self._waiting[group].append(task)
                return
            self._settle(group, self._choose(task, lookahead))
        here = self._device_of_group[group]
        for edge in self._incoming[task]:
            source = self._group_of_task[self._producers[edge]]
            if self._device_of_group[source] < 0:
                fits = self.candidates(np.array([source]))[0, here]
                self._settle(source, here if fits else self._choose(self._waiting[source][0], None))
        self._place(task)

    def put(self, task: int, device: int) -> None:
        """Schedules a task, and its group, on a device."""
        self._settle(self._group_of_task[task], device)
        self._place(task)

    def candidates(self, groups: NDArray[np.integer[Any]]) -> Bools:
        """Devices with memory left for each of some groups, ``[len(groups), num_devices]``.

        Where there is none, the allowed one with most memory left.
        """
        allowed = self._tasks.allowed[groups]
        fits: Bools = allowed & (self._tasks.kept_bytes[groups, None] <= self._free_bytes)
        nowhere = np.flatnonzero(~fits.any(axis=1))
        most_left = np.where(allowed[nowhere], self._free_bytes, -np.inf).argmax(axis=1)
        fits[nowhere, most_left] = True
        return fits

    def free_seconds(self) -> Floats:
        """When each device is free from then on, ``[num_devices]``."""
        return np.array([min(slot.free for slot in slots) for slots in self._timelines])

    def arrival(self, task: int, device: int) -> float:
        """When all that a task reads from groups with a device is on a device."""
        ready = 0.0
        for edge in self._incoming[task]:
            producer = self._producers[edge]
            source = self._device_of_group[self._group_of_task[producer]]
            if source < 0:  # it will come here
                continue
            arrival = self._finish_seconds[producer]
            if source != device:
                arrival += self._latency_seconds[source][device]
                arrival += self._bytes[edge] * self._seconds_per_byte[source][device]
            ready = max(ready, arrival)
        return ready

    def result(self) -> TaskSchedule:
        """The schedule, once every task was added."""
        return TaskSchedule(
            np.array(self._device_of_group, np.int32),
            np.array(self._start_seconds),
            np.array(self._finish_seconds),
        )

    def _choose(self, task: int, lookahead: Floats | None) -> int:
        """The device for the group of a task."""
        group = self._group_of_task[task]
        cost = np.full(len(self._timelines), np.inf)
        for device in np.flatnonzero(self.candidates(np.array([group]))[0]).tolist():
            cost[device] = self._earliest(task, device)[0] + self._group_seconds[group, device]
        if lookahead is not None:
            cost += lookahead
        return int(cost.argmin())

    def _settle(self, group: int, device: int) -> None:
        """Sends a group to a device, and schedules its tasks that wait."""
        self._device_of_group[group] = device
        self._free_bytes[device] -= self._tasks.kept_bytes[group]
        for task in self._waiting[group]:
            self._place(task)

    def _place(self, task: int) -> None:
        """Schedules a task on the device of its group."""
        device = self._device_of_group[self._group_of_task[task]]
        start, slot = self._earliest(task, device)
        slot.occupy(start, self._seconds[task][device])
        self._start_seconds[task] = start
        self._finish_seconds[task] = start + self._seconds[task][device]

    def _earliest(self, task: int, device: int) -> tuple[float, _Timeline]:
        """The earliest start of a task on a device, and on which slot of it."""
        ready = self.arrival(task, device)
        duration = self._seconds[task][device]
        starts = [slot.earliest(ready, duration) for slot in self._timelines[device]]
        slot = starts.index(min(starts))
        return starts[slot], self._timelines[device][slot]


class _Timeline:
    """The idle gaps of one slot of a device, in time order; the last never ends."""

    def __init__(self, insertion: bool) -> None:
        self._insertion = insertion
        self._starts = [0.0]
        self._ends = [float("inf")]

    @property
    def free(self) -> float:
        """When the last gap starts."""
        return self._starts[-1]

    def earliest(self, ready: float, duration: float) -> float:
        """The earliest start, at `ready` or later, of a gap's part as long as `duration`."""
        gap = bisect.bisect_left(self._ends, ready + duration)
        while max(self._starts[gap], ready) + duration > self._ends[gap]:
            gap += 1
        return max(self._starts[gap], ready)

    def occupy(self, start: float, duration: float) -> None:
        """Takes time out of the gap that it lies in; without insertion, all before it, too."""
        gap = bisect.bisect_right(self._starts, start) - 1
        gap_start, gap_end = self._starts[gap], self._ends[gap]
        pieces = [(gap_start, start)] if self._insertion else []
        pieces.append((start + duration, gap_end))
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
        self._starts[gap : gap + 1] = [piece[0] for piece in pieces]
        self._ends[gap : gap + 1] = [piece[1] for piece in pieces]


def _longest_paths(tasks: Tasks, transfer_seconds: Floats) -> Floats:
    """Longest path from each task to an end, itself included, ``[num_tasks]``.

    Args:
        tasks: The tasks, which count by their mean seconds.
        transfer_seconds: What each edge counts, ``[num_edges]``.
    """
    lengths: list[float] = tasks.mean_seconds().tolist()
    outgoing = _edges_by(tasks.producers, len(lengths))
    consumers, transfers = tasks.consumers.tolist(), transfer_seconds.tolist()
    for task in reversed(tasks.order.tolist()):
        lengths[task] += max(
            (transfers[edge] + lengths[consumers[edge]] for edge in outgoing[task]), default=0
        )
    return np.array(lengths)


def _edges_by(ends: Ints, num_tasks: int) -> list[list[int]]:
    """The edges at each task, ``[num_tasks]`` lists."""
    edges: list[list[int]] = [[] for _ in range(num_tasks)]
    for edge, task in enumerate(ends.tolist()):
        edges[task].append(edge)
    return edges
