"""Lower bounds: step times that no placement of a problem can beat.

They hold for the simulator's semantics: durations of whole nanoseconds, at least one each, any
order, op groups that stay together. Each relaxes something else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from placer._units import label_edges
from placer.errors import InfeasibleError
from placer.problem import Problem

Floats = NDArray[np.float64]

_NS = 1e9  # nanoseconds per second
_WINDOWS = 12  # thresholds of what comes before, and of what comes after
_ROUNDING = 1e-10  # relative; of sums of a million rounded figures
_MOST_INTERVALS = 500  # of ops and transfers, for the solver of schedules
_LONGEST_HORIZON = 2.0**50  # so that the solver's sums of nanoseconds fit its integers
_MOST_BYTES = 2.0**62  # of all variables, for the same reason
_MOST_SOLVER_TIME = 1.0  # in the solver's own deterministic unit: some seconds
_MOST_CONFLICTS = (
    10_000  # where bounds rise by a nanosecond at a time, its clock all but stands still
)


@dataclass(frozen=True)
class Bound:
    """A step time that no placement can beat.

    Attributes:
        name: Which bound it is: ``"critical_path"``, ``"work"``, ``"forced_transfer"`` or
            ``"schedule"``.
        seconds: The step time.
    """

    name: str
    seconds: float


def lower_bound(problem: Problem) -> Bound:
    """The largest of :func:`lower_bounds`, the first among equals.

    Raises:
        InfeasibleError: The variables fit no placement.
    """
    return max(lower_bounds(problem), key=lambda bound: bound.seconds)


def lower_bounds(problem: Problem) -> tuple[Bound, ...]:
    """All bounds that apply to a problem.

    - ``critical_path``: the longest path, each op on the fastest device that its group may go to.
    - ``work``: fractions of op groups spread over the devices, within their memory, so that all
      finish at once; see :func:`_work`.
    - ``forced_transfer``: where connected op groups may not all be on one device, for their memory
      or kind, some tensor must be sent: the shortest path through any transfer.
    - ``schedule``: the best schedule if ops and transfers could wait for what pays off, by CP-SAT;
      for small problems only.

    Raises:
        InfeasibleError: The variables fit no placement.
    """
    _check_memory(problem)
    times = _Times(problem)
    bounds = [
        Bound("critical_path", float(times.tails.max()) / _NS),
        Bound("work", _work(times) / _NS),
    ]
    for name, bound in (("forced_transfer", _forced_transfer), ("schedule", _schedule)):
        found = bound(times)
        if found is not None:
            bounds.append(Bound(name, found / _NS))
    return tuple(bounds)


class _Times:
    """Durations in nanoseconds, and the least time before and after each op.

    Attributes:
        problem: The problem.
        durations: Of each op where it may go, infinite elsewhere, ``[num_ops, num_devices]``.
        fastest: The least of them, ``[num_ops]``.
        heads: Longest path to the start of each op, ``[num_ops]``.
        tails: Longest path from the start of each op to the end, ``[num_ops]``.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        allowed = problem.allowed[problem.groups.group_of_op]
        rounded = np.maximum(1.0, np.rint(problem.op_seconds * _NS))
        self.durations = np.where(allowed, rounded, np.inf)
        self.fastest = self.durations.min(axis=1)
        order = problem.graph.topological_order.tolist()
        producers, consumers, _ = problem.graph.edges
        edges = list(zip(producers.tolist(), consumers.tolist(), strict=True))
        finish = _longest_paths(order, edges, self.fastest)
        backwards = [(consumer, producer) for producer, consumer in edges]
        self.heads = finish - self.fastest
        self.tails = _longest_paths(order[::-1], backwards, self.fastest)

    @functools.cached_property
    def edges(self) -> NDArray[np.int32]:
        """Distinct edges between groups: producer, consumer, tensor or -1, ``[num_edges, 3]``."""
        edges = np.unique(np.column_stack(self.problem.graph.edges), axis=0)
        groups = self.problem.groups.group_of_op
        apart: NDArray[np.int32] = edges[groups[edges[:, 0]] != groups[edges[:, 1]]]
        return apart

    def transfer_ns(self, source: int, target: int, num_bytes: Floats) -> Floats:
        """Nanoseconds of transfers on a link."""
        cluster = self.problem.cluster
        seconds = (
            cluster.latency_seconds[source, target] + num_bytes / cluster.bandwidth[source, target]
        )
        rounded: Floats = np.maximum(1.0, np.rint(seconds * _NS))
        return rounded


def _longest_paths(order: list[int], edges: list[tuple[int, int]], work: Floats) -> Floats:
    """Longest path to the end of each op, the op included, ``[num_ops]``."""
    following: list[list[int]] = [[] for _ in order]
    for before, after in edges:
        following[before].append(after)
    begin, own = [0.0] * len(order), work.tolist()
    for op in order:
        end = begin[op] + own[op]
        for after in following[op]:
            begin[after] = max(begin[after], end)
    return np.array(begin) + work


def _check_memory(problem: Problem) -> None:
    """Refuses what lacks memory whatever the placement.

    Raises:
        InfeasibleError: All variables together exceed the memory of all devices.
    """
    needed = float(problem.group_parameter_bytes.sum())
    there = float(sum(device.memory_bytes for device in problem.cluster.devices))
    if needed > there * (1 + _ROUNDING):
        raise InfeasibleError(
            f"no placement fits: the variables of graph {problem.graph.name!r} have "
            f"{needed:,.0f} bytes, the devices of cluster {problem.cluster.name!r} "
            f"{there:,.0f}: {needed - there:,.0f} too many"
        )


def _work(times: _Times) -> float:
    """Nanoseconds by the work of windows of the graph.

    For unrelated machines: fractions of groups on devices so that the greatest load is least, a
    linear program (Lenstra, Shmoys and Tardos, *Approximation algorithms for scheduling unrelated
    parallel machines*, Mathematical Programming 46, 1990), with rows for the variables in memory.
    Only the prices of its rows are taken from the solver: for any prices that are not negative the
    Lagrangian relaxation is a bound, whatever the solver's tolerance.

    Ops with at least some time before and some time after them, on any path, have no more than
    the rest of the step for their work. The same prices bound the work of all such windows; the
    best one gets prices of its own.
    """
    prices = _prices(times, _group_work(times, np.ones(len(times.heads), bool)))
    before, after = times.heads, times.tails - times.fastest
    quantiles = np.linspace(0, 1, _WINDOWS)
    best, best_window = 0.0, np.ones(len(before), bool)
    for least_before in np.unique(np.quantile(before, quantiles, method="lower")):
        for least_after in np.unique(np.quantile(after, quantiles, method="lower")):
            window = (before >= least_before) & (after >= least_after)
            if window.any():
                bound = _priced(times, window, prices)
                if bound > best:
                    best, best_window = bound, window
    prices = _prices(times, _group_work(times, best_window))
    return max(best, _priced(times, best_window, prices))


def _group_work(times: _Times, window: NDArray[np.bool_]) -> Floats:
    """Nanoseconds of the ops of a window in each group, infinite where it may not go.

    Returns:
        ``[num_groups, num_devices]``.
    """
    problem = times.problem
    groups = problem.groups.group_of_op[window]
    columns = [
        np.bincount(groups, column, problem.num_groups) for column in times.durations[window].T
    ]
    return np.where(problem.allowed, np.column_stack(columns), np.inf)


@dataclass(frozen=True)
class _Prices:
    """Prices, not negative, of a nanosecond of each device and of a byte of its memory.

    Attributes:
        time: ``[num_devices]``; those of all slots add up to 1.
        memory: In nanoseconds per byte, 0 where it is unlimited, ``[num_devices]``.
    """

    time: Floats
    memory: Floats


def _priced(times: _Times, window: NDArray[np.bool_], prices: _Prices) -> float:
    """The Lagrangian bound of a window, in whole nanoseconds."""
    problem = times.problem
    memory = np.array([device.memory_bytes for device in problem.cluster.devices])
    paid = prices.memory > 0
    with np.errstate(invalid="ignore"):  # 0 times infinity, where a group may not go
        cost = prices.time * _group_work(times, window)
    cost = np.where(problem.allowed, cost, np.inf)
    cost += problem.group_parameter_bytes[:, None] * prices.memory
    spent, given = float(cost.min(axis=1).sum()), float(prices.memory[paid] @ memory[paid])
    work = spent - given - _ROUNDING * (spent + given)
    before = float(times.heads[window].min())
    after = float((times.tails - times.fastest)[window].min())
    return before + after + float(np.ceil(work - 1e-6))


def _prices(times: _Times, work: Floats) -> _Prices:
    """Prices by linear programming: GLOP's dual values.

    Args:
        times: The problem.
        work: Nanoseconds of each group on each device, ``[num_groups, num_devices]``.

    Raises:
        InfeasibleError: The variables do not fit, even in fractions.
    """
    from ortools.linear_solver import pywraplp

    problem = times.problem
    slots = problem.cluster.num_slots(problem.graph.num_ops).astype(float)
    memory = np.array([device.memory_bytes for device in problem.cluster.devices])
    unit = max(float(work[np.isfinite(work)].max()), 1.0)  # near 1, for the solver
    solver = pywraplp.Solver.CreateSolver("GLOP")
    longest = solver.NumVar(0.0, solver.infinity(), "")
    time_rows = [solver.Constraint(-solver.infinity(), 0.0) for _ in slots]
    memory_rows = [
        solver.Constraint(-solver.infinity(), 1.0) if 0 < size < np.inf else None for size in memory
    ]
    for row, capacity in zip(time_rows, slots.tolist(), strict=True):
        row.SetCoefficient(longest, -capacity)
    for group, num_bytes in enumerate(problem.group_parameter_bytes.tolist()):
        whole = solver.Constraint(1.0, 1.0)
        for device in np.flatnonzero(problem.allowed[group]).tolist():
            share = solver.NumVar(0.0, solver.infinity(), "")
            whole.SetCoefficient(share, 1.0)
            time_rows[device].SetCoefficient(share, float(work[group, device]) / unit)
            row = memory_rows[device]
            if row is not None:
                row.SetCoefficient(share, num_bytes / float(memory[device]))
    solver.Minimize(longest)
    status = solver.Solve()
    if status == pywraplp.Solver.INFEASIBLE:
        raise InfeasibleError(
            f"no placement fits: the variables of graph {problem.graph.name!r} exceed the memory "
            f"of the devices of cluster {problem.cluster.name!r} that their ops may run on"
        )
    if status != pywraplp.Solver.OPTIMAL:  # any prices will do
        return _Prices(np.full(len(slots), 1 / slots.sum()), np.zeros(len(slots)))
    time = np.maximum(0.0, [-row.dual_value() for row in time_rows])
    scale = float(time @ slots)
    prices = [0.0 if row is None else max(0.0, -row.dual_value()) for row in memory_rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        per_byte = np.where(memory > 0, np.array(prices) * unit / memory, 0.0)
    if not scale > 0:
        return _Prices(np.full(len(slots), 1 / slots.sum()), np.zeros(len(slots)))
    return _Prices(time / scale, per_byte / scale)


def _forced_transfer(times: _Times) -> float | None:
    """Nanoseconds of the shortest path through a transfer, where there must be one."""
    problem, edges = times.problem, times.edges
    sizes = np.append(problem.graph.tensor_bytes, 0.0)[edges[:, 2]]  # -1, the last: a control edge
    groups = problem.groups.group_of_op
    producers, consumers = edges[:, 0], edges[:, 1]
    shortest = np.full(len(edges), np.inf)
    for source in range(problem.num_devices):
        for target in range(problem.num_devices):
            if source != target:
                through = times.durations[producers, source] + times.durations[consumers, target]
                through += times.transfer_ns(source, target, sizes)
                shortest = np.minimum(shortest, through)
    shortest += times.heads[producers] + times.tails[consumers] - times.fastest[consumers]
    memory = np.array([device.memory_bytes for device in problem.cluster.devices])
    forced = []
    for component in _components(problem):
        fits = problem.group_parameter_bytes[component].sum() <= memory * (1 + _ROUNDING)
        if not (fits & problem.allowed[component].all(axis=0)).any():
            forced.append(float(shortest[np.isin(groups[producers], component)].min()))
    return max(forced, default=None)


def _components(problem: Problem) -> list[list[int]]:
    """Op groups that edges connect, whatever their direction."""
    producers, consumers, _ = label_edges(problem.graph, problem.groups.group_of_op)
    adjacent: list[list[int]] = [[] for _ in range(problem.num_groups)]
    for producer, consumer in zip(producers.tolist(), consumers.tolist(), strict=True):
        adjacent[producer].append(consumer)
        adjacent[consumer].append(producer)
    components, seen = [], [False] * problem.num_groups
    for first in range(problem.num_groups):
        if not seen[first]:
            component, seen[first] = [first], True
            for group in component:  # grows as it goes
                for other in adjacent[group]:
                    if not seen[other]:
                        seen[other] = True
                        component.append(other)
            components.append(component)
    return components


def _schedule(times: _Times) -> float | None:
    """Nanoseconds that CP-SAT proves no schedule can beat; None where there is too much of it.

    Ops and transfers are intervals, those of a device or channel one after the other. Any order
    is allowed, and waiting: what the simulator does is one such schedule. The solver's limit is
    its own count of work, so that the bound is the same on every machine.
    """
    from ortools.sat.python import cp_model

    problem = times.problem
    cluster, groups = problem.cluster, problem.groups.group_of_op.tolist()
    devices = range(problem.num_devices)
    num_tensors = len(np.unique(times.edges[:, [0, 2]], axis=0))
    num_pairs = problem.num_devices * (problem.num_devices - 1)
    if problem.graph.num_ops * problem.num_devices + num_tensors * num_pairs > _MOST_INTERVALS:
        return None
    sizes = np.append(problem.graph.tensor_bytes, 0.0)
    durations = np.where(np.isfinite(times.durations), times.durations, 0).astype(np.int64)
    all_in_turn = float(durations.max(axis=1).astype(float).sum()) + sum(
        float(times.transfer_ns(source, target, sizes[times.edges[:, 2]]).sum())
        for source in devices
        for target in devices
        if source != target
    )
    parameters = np.floor(problem.group_parameter_bytes)
    if all_in_turn > _LONGEST_HORIZON or parameters.sum() > _MOST_BYTES:
        return None
    horizon = int(all_in_turn)

    model = cp_model.CpModel()
    on = [[model.new_bool_var("") for _ in devices] for _ in range(problem.num_groups)]
    for group, row in enumerate(on):
        model.add_exactly_one(row)
        for device in np.flatnonzero(~problem.allowed[group]).tolist():
            model.add(row[device] == 0)
    for device in devices:
        memory = cluster.devices[device].memory_bytes
        if memory <= _MOST_BYTES:  # what is larger has room for all
            sizes_and_rows = zip(parameters.astype(np.int64).tolist(), on, strict=True)
            used = sum(size * row[device] for size, row in sizes_and_rows)
            model.add(used <= int(np.ceil(memory)))

    makespan = model.new_int_var(int(times.tails.max()), horizon, "")
    starts = [model.new_int_var(int(head), horizon, "") for head in times.heads]
    ends = [
        start + sum(int(ns) * on[groups[op]][device] for device, ns in enumerate(durations[op]))
        for op, start in enumerate(starts)
    ]
    for end in ends:
        model.add(end <= makespan)
    for device, num_slots in enumerate(cluster.num_slots(problem.graph.num_ops).tolist()):
        intervals = [
            model.new_optional_fixed_size_interval_var(
                start, int(durations[op, device]), on[groups[op]][device], ""
            )
            for op, start in enumerate(starts)
        ]
        if num_slots == 1:
            model.add_no_overlap(intervals)
        else:
            model.add_cumulative(intervals, [1] * len(intervals), num_slots)
    for producer, consumer, _ in np.column_stack(problem.graph.edges).tolist():
        model.add(starts[consumer] >= ends[producer])

    channels: dict[int, list[cp_model.IntervalVar]] = {}
    transfers: dict[tuple[int, int, int, int], tuple[cp_model.IntVar, cp_model.IntVar, int]] = {}
    for producer, consumer, tensor in times.edges.tolist():
        for source in devices:
            for target in devices:
                if source == target:
                    continue
                key = producer, tensor, source, target
                if key not in transfers:
                    sent, begin = model.new_bool_var(""), model.new_int_var(0, horizon, "")
                    ns = int(times.transfer_ns(source, target, sizes[tensor]))
                    model.add(begin >= ends[producer]).only_enforce_if(sent)
                    channel = int(cluster.channel_ids[source, target])
                    if channel >= 0:
                        channels.setdefault(channel, []).append(
                            model.new_optional_fixed_size_interval_var(begin, ns, sent, "")
                        )
                    transfers[key] = sent, begin, ns
                sent, begin, ns = transfers[key]
                there = on[groups[producer]][source], on[groups[consumer]][target]
                model.add_implication(there[0], ~there[1]).only_enforce_if(~sent)
                model.add(starts[consumer] >= begin + ns).only_enforce_if(*there)
    for intervals in channels.values():
        model.add_no_overlap(intervals)

    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = _MOST_SOLVER_TIME
    solver.parameters.max_number_of_conflicts = _MOST_CONFLICTS
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise InfeasibleError(
            f"no placement fits: the variables of graph {problem.graph.name!r} exceed the memory "
            f"of the devices of cluster {problem.cluster.name!r}, however they are spread"
        )
    return float(np.rint(solver.best_objective_bound))  # it is a whole number but for rounding
