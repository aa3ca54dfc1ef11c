"""Exact search: branch and bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from placer.bounds import lower_bound
from placer.cluster import Cluster
from placer.errors import UnprovenError, UsageError
from placer.problem import Problem, Progress, SearchResult
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.simulator import Simulator

if TYPE_CHECKING:
    from placer._kernels.partial import PartialTables

_MOST_DIGITS = 15  # of the number of placements
_MOST_PARTS = 1_000_000  # parts of placements to look at, some minutes
_ADVICE = "expected fewer op groups (num_groups), a larger budget, or another search"
_ROUNDING = 1e-9  # relative; of sums of bytes that are no whole numbers


def search(
    problem: Problem,
    *,
    evaluations: int,
    seed: int,
    seconds: float | None = None,
    start: NDArray[np.int32] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Finds the best placement and proves that it is, or says that it cannot.

    Branch and bound (Land and Doig, *An automatic method of solving discrete programming
    problems*, Econometrica 28, 1960). Op groups get their devices in topological order. A part of
    a placement is given up where it must take as long as the best placement so far, or where its
    variables exceed a device's memory; among devices that could be exchanged, only the first
    unused one is tried. It ends early where the best reaches :func:`placer.bounds.lower_bound`.
    The order of ops follows from the placement, as the simulator has it, so that no solver of
    schedules is asked. `start` is evaluated first; the seed has no effect.

    See :class:`placer.problem.Search` for arguments and result.

    Raises:
        UsageError: As all searches; a problem that is too large, or step times that are not
            simulated.
        UnprovenError: The budget did not suffice for the proof.
        InfeasibleError: No placement is feasible.
    """
    ledger = Ledger(
        "exact",
        problem,
        evaluations=evaluations,
        seed=seed,
        seconds=seconds,
        on_progress=on_progress,
    )
    tree = _Tree(problem, ledger)
    begin = problem.allowed.argmax(axis=1) if start is None else problem.check_start(start)
    tree.best_ns = tree.evaluate(begin.astype(np.int32)[None])
    if math.isinf(tree.best_ns) or tree.best_ns > round(lower_bound(problem).seconds * 1e9):
        tree.branch()
    return ledger.result()


class _Tree:
    """The parts of placements: the first op groups have devices, the others have none.

    Op groups that may go to one device only are there from the beginning.
    """

    def __init__(self, problem: Problem, ledger: Ledger) -> None:
        if not isinstance(problem.evaluator, Simulator):
            raise UsageError("exact search needs simulated step times, as its bounds hold for them")
        self.best_ns = np.inf
        self._problem = problem
        self._ledger = ledger
        self._classes = interchangeable_devices(problem)
        self._check_size()
        self._tables = _partial_tables(problem)
        self._choices = np.full(problem.num_groups, -1, np.int32)
        self._devices = np.full(problem.graph.num_ops, -1, np.int32)
        self._used_bytes = np.zeros(problem.num_devices)
        memory = np.array([device.memory_bytes for device in problem.cluster.devices])
        self._memory_bytes = memory * (1 + _ROUNDING)
        self._num_parts = 0
        num_allowed = problem.allowed.sum(axis=1)
        self._movable = np.flatnonzero(num_allowed > 1).tolist()
        for group in np.flatnonzero(num_allowed == 1).tolist():
            self._put(group, int(problem.allowed[group].argmax()))

    def branch(self, depth: int = 0) -> None:
        """Places a movable group, and those after it, in all ways that may beat the best."""
        if not self._movable:
            return  # there is one placement, and it has been evaluated
        group = self._movable[depth]
        parts = sorted(self._parts(group))
        if depth == len(self._movable) - 1:
            leaves = np.repeat(self._choices[None], len(parts), axis=0)
            leaves[:, group] = [device for _, device in parts]
            self.best_ns = min(self.best_ns, self.evaluate(leaves))
            return
        for bound, device in parts:
            if bound >= self.best_ns:
                break
            self._put(group, device)
            self.branch(depth + 1)
            self._take_away(group)

    def _put(self, group: int, device: int) -> None:
        self._choices[group] = device
        self._devices[self._problem.groups.ops_of_group[group]] = device
        self._used_bytes[device] += self._problem.group_parameter_bytes[group]

    def _take_away(self, group: int) -> None:
        self._used_bytes[self._choices[group]] -= self._problem.group_parameter_bytes[group]
        self._devices[self._problem.groups.ops_of_group[group]] = -1
        self._choices[group] = -1

    def evaluate(self, choices: NDArray[np.int32]) -> float:
        """The least step time in nanoseconds of choices, infinite if none is feasible.

        Raises:
            UnprovenError: The budget does not suffice.
        """
        enough = self._ledger.left >= len(choices)
        costs = self._ledger.evaluate(choices) if enough else np.zeros(0)
        if len(costs) < len(choices):  # it may have got late just now
            self._refuse(f"{self._ledger.count:,} evaluations")
        least = float(costs.min(initial=np.inf))
        return round(least * 1e9) if least < INFEASIBLE_COST else np.inf

    def _parts(self, group: int) -> Iterable[tuple[float, int]]:
        """Devices for a group, and what a step then takes at least in nanoseconds."""
        from placer._kernels.partial import bound_step

        ops = self._problem.groups.ops_of_group[group]
        needed = self._used_bytes + self._problem.group_parameter_bytes[group]
        used = set(self._choices[self._choices >= 0].tolist())
        fresh: set[int] = set()  # classes of which an unused device was tried
        for device in np.flatnonzero(self._problem.allowed[group]).tolist():
            if device not in used:
                if self._classes[device] in fresh:
                    continue
                fresh.add(self._classes[device])
            if needed[device] > self._memory_bytes[device]:
                continue
            if self._ledger.is_late:
                self._refuse(f"{self._num_parts:,} parts of placements, when its time was up")
            self._num_parts += 1
            if self._num_parts > _MOST_PARTS:
                self._refuse(f"{_MOST_PARTS:,} parts of placements")
            self._devices[ops] = device
            bound = bound_step(self._tables, self._devices)
            if bound < self.best_ns:
                yield bound, device
        self._devices[ops] = -1

    def _check_size(self) -> None:
        sizes = np.bincount(self._classes).tolist()
        exchanged = sum(math.log10(math.factorial(size)) for size in sizes)
        exponent = float(np.log10(self._problem.allowed.sum(axis=1)).sum()) - exchanged
        if exponent > _MOST_DIGITS:
            raise UsageError(
                f"{self._what()} has some 10^{exponent:.0f} placements to choose from, expected "
                f"at most 10^{_MOST_DIGITS}; {_ADVICE}"
            )

    def _refuse(self, tried: str) -> NoReturn:
        message = f"{self._what()} has no proof after {tried}; {_ADVICE}"
        raise UnprovenError(message, self._ledger.count)

    def _what(self) -> str:
        problem = self._problem
        return f"exact search of {problem.num_groups} op groups on {problem.num_devices} devices"


def _partial_tables(problem: Problem) -> PartialTables:
    from placer._kernels.partial import PartialTables

    graph, cluster = problem.graph, problem.cluster
    edges = np.unique(np.column_stack(graph.edges), axis=0).reshape(-1, 3)
    position = np.empty(graph.num_ops, np.int64)
    position[graph.topological_order] = np.arange(graph.num_ops)
    edges = edges[np.argsort(position[edges[:, 0]], kind="stable")]
    durations = np.maximum(1.0, np.rint(problem.op_seconds * 1e9))
    allowed = problem.allowed[problem.groups.group_of_op]
    return PartialTables(
        edge_producer=edges[:, 0].astype(np.int32),
        edge_consumer=edges[:, 1].astype(np.int32),
        edge_bytes=np.append(graph.tensor_bytes, 0.0)[edges[:, 2]],  # -1, the last: a control edge
        durations=durations,
        fastest=np.where(allowed, durations, np.inf).min(axis=1),
        latency_seconds=cluster.latency_seconds.copy(),
        bandwidth=cluster.bandwidth.copy(),
        slots=cluster.num_slots(graph.num_ops),
    )


def interchangeable_devices(problem: Problem) -> NDArray[np.int32]:
    """Classes of devices any two of which can be exchanged without changing step times.

    Two can be if they are equal, and so are their links with each other and with all others, and
    the channels of these: exchanging the devices must rename the channels one to one.

    Returns:
        The first device of the class of each, ``[num_devices]``.
    """
    cluster = problem.cluster
    specs = [replace(device, name="", address="") for device in cluster.devices]
    classes = np.arange(problem.num_devices, dtype=np.int32)
    for device in range(problem.num_devices):
        for first in range(device):
            equal = (
                specs[first] == specs[device]
                and np.array_equal(problem.op_seconds[:, first], problem.op_seconds[:, device])
                and np.array_equal(problem.allowed[:, first], problem.allowed[:, device])
            )
            if classes[first] == first and equal and _can_exchange(cluster, first, device):
                classes[device] = first
                break
    return classes


def _can_exchange(cluster: Cluster, first: int, second: int) -> bool:
    """Whether links and channels are the same when two devices are exchanged."""
    order = np.arange(cluster.num_devices)
    order[[first, second]] = second, first
    for matrix in (cluster.latency_seconds, cluster.bandwidth):
        if not np.array_equal(matrix, matrix[np.ix_(order, order)]):
            return False
    before, after = cluster.channel_ids, cluster.channel_ids[np.ix_(order, order)]
    renamed = np.unique(np.column_stack([before.ravel(), after.ravel()]), axis=0)
    none_stay_none = bool(((renamed[:, 0] < 0) == (renamed[:, 1] < 0)).all())
    one_to_one = len(renamed) == len(np.unique(before)) == len(np.unique(after))
    return none_stay_none and one_to_one
