"""Simulator: the step time, the schedule and the memory of placements, exactly.

The semantics are in ``docs/simulator.md``; the compiled engines are in ``placer._kernels``.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer._move_tables import MoveTables
from placer._tables import (
    FEASIBLE,
    SPLIT_COLOCATION,
    WRONG_KIND,
    Addresses,
    Results,
    Scratch,
    StartOrderScratch,
    addresses_of,
    build_tables,
    each_channel_has_one_source,
    new_scratch,
    new_start_order_scratch,
    times_fit_keys,
)
from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError
from placer.graph import OpGraph
from placer.moves import Moves
from placer.placement import (
    Evaluations,
    Order,
    Placement,
    Schedule,
    ScheduledOp,
    ScheduledTransfer,
    check_placements,
    check_priorities,
)

_NS = 1e9  # nanoseconds per second
_OPS_WORTH_A_THREAD = 20_000  # below, starting threads takes longer than simulating


class Simulator:
    """Simulates placements of a graph on a cluster.

    It may be called from many threads at once. Compiled code is made on the first use and cached.

    Args:
        graph: The graph.
        cluster: The cluster.
        order: Which ready op a device starts first: the earliest ready (``"fifo"``, as TensorFlow
            does) or the one of highest priority.
        priorities: With ``order="priority"``, a figure per op, highest first, ``[num_ops]``. By
            default the longest remaining path, the op included, of durations averaged over all
            devices, without transfers.
        num_threads: How many placements of a batch to simulate at once.

    Raises:
        PlacementError: Priorities that do not fit the graph or the order.
        ClusterError: An op that no device can run, or a device that lacks a rate.
        UsageError: An argument outside its range.
    """

    def __init__(
        self,
        graph: OpGraph,
        cluster: Cluster,
        *,
        order: Order = "fifo",
        priorities: ArrayLike | None = None,
        num_threads: int = 1,
    ) -> None:
        if order not in ("fifo", "priority"):
            raise UsageError(f"order is {order!r}; expected 'fifo' or 'priority'")
        if not isinstance(num_threads, (int, np.integer)) or num_threads < 1:
            raise UsageError(f"num_threads is {num_threads!r}; expected a whole number from 1")
        if priorities is not None and order == "fifo":
            raise PlacementError("priorities are given, but the order is 'fifo'")
        self.graph = graph
        self.cluster = cluster
        self.order: Order = order
        self.priorities = None if priorities is None else check_priorities(priorities, graph)
        self.num_threads = num_threads
        self._tables = build_tables(graph, cluster, order, self.priorities)
        self._addresses = addresses_of(self._tables)
        self._idle_scratches: list[tuple[Scratch, Addresses]] = []
        self._idle_start_order_scratches: list[tuple[StartOrderScratch, Addresses]] = []
        self._idle_move_tables: list[MoveTables] = []
        # where both engines apply, they agree to the bit
        self._starts_in_order = bool(
            (self._tables.slots == 1).all()
            and each_channel_has_one_source(cluster)
            and times_fit_keys(self._tables)
        )

    def __reduce__(self) -> tuple[Any, ...]:  # working memory stays behind
        return _rebuild, (self.graph, self.cluster, self.order, self.priorities, self.num_threads)

    def __repr__(self) -> str:
        return f"Simulator({self.graph!r}, {self.cluster!r}, order={self.order!r})"

    def step_time(self, placement: Placement | ArrayLike) -> float:
        """Seconds for one step under a placement ``[num_ops]``; infinite if it is infeasible.

        Raises:
            PlacementError: Another shape, not integers, an index of no device, or a
                :class:`Placement` for another graph, cluster or order.
        """
        return float(self.evaluate(self._check_one(placement)[None]).step_time_seconds[0])

    def evaluate(self, placements: ArrayLike) -> Evaluations:
        """Simulates a batch of placements ``[batch, num_ops]``.

        Raises:
            PlacementError: Another shape, not integers, or an index of no device.
        """
        rows = _writable(check_placements(placements, self.graph, self.cluster))
        if rows.ndim != 2:
            raise PlacementError(
                f"placements have shape {rows.shape}; expected (batch, {self.graph.num_ops})"
            )
        batch = len(rows)
        results = Results.empty(batch, self.cluster.num_devices)

        def simulate(first: int, end: int) -> None:
            unsettled = np.arange(first, end, dtype=np.int32)
            if self._starts_in_order:
                unsettled = self._simulate_in_order_of_start(rows, first, end, results)
            if len(unsettled):
                self._simulate_in_order_of_completion(rows, unsettled, results)

        num_threads = min(self.num_threads, batch, 1 + rows.size // _OPS_WORTH_A_THREAD)
        if num_threads > 1:
            chunks = iter(_chunks(batch, num_threads))

            def simulate_chunks() -> None:
                for first, end in chunks:
                    simulate(first, end)

            with ThreadPoolExecutor(num_threads - 1) as pool:
                others = [pool.submit(simulate_chunks) for _ in range(num_threads - 1)]
                simulate_chunks()  # this thread is one of them
                for other in others:
                    other.result()
        else:
            simulate(0, batch)

        feasible = results.status == FEASIBLE
        excess = np.maximum(results.peaks - self._tables.memory_bytes, 0)
        return Evaluations(
            np.where(feasible, results.step_ns / _NS, np.inf),
            feasible,
            tuple(
                None if fits else self._reason(rows[i], results, i)
                for i, fits in enumerate(feasible.tolist())
            ),
            excess.sum(axis=1),
        )

    def moves(self, placement: Placement | ArrayLike) -> Moves:
        """Begins a session that tries moves from a placement ``[num_ops]``.

        For local search: it tells step times of neighbouring placements, to the last bit the same,
        from simulating only what differs. ``order="priority"``, several slots per device and
        channels with several sources have no such shortcut: each trial simulates in full.

        Raises:
            PlacementError: As :meth:`step_time`.
        """
        return Moves(
            self.graph,
            self.cluster,
            self._tables,
            self._check_one(placement),
            lambda rows: self.evaluate(rows).step_time_seconds,
            in_order_of_start=self._starts_in_order and self.order == "fifo",
            idle=self._idle_move_tables,
        )

    def schedule(self, placement: Placement | ArrayLike) -> Schedule:
        """Start and finish of every op and transfer under a placement ``[num_ops]``.

        Raises:
            PlacementError: As :meth:`step_time`.
        """
        from placer._kernels import completion_order

        devices = self._check_one(placement)
        results = Results.empty(1, self.cluster.num_devices)
        scratch, scratch_at = held = self._take_scratch()
        completion_order.simulate_rows(
            self._addresses, scratch_at, devices[None], np.zeros(1, np.int32), addresses_of(results)
        )
        feasible = bool(results.status[0] == FEASIBLE)
        names = self.cluster.device_names
        busy_ns = np.bincount(
            devices, scratch.finish_ns - scratch.start_ns, minlength=self.cluster.num_devices
        )
        transfers, transfer_bytes = self._scheduled_transfers(scratch, devices)
        schedule = Schedule(
            step_time_seconds=float(results.step_ns[0] / _NS),
            feasible=feasible,
            infeasible_because=None if feasible else self._reason(devices, results, 0),
            ops=tuple(
                ScheduledOp(name, names[device], start, finish)
                for name, device, start, finish in zip(
                    self.graph.op_names,
                    devices.tolist(),
                    (scratch.start_ns / _NS).tolist(),
                    (scratch.finish_ns / _NS).tolist(),
                    strict=True,
                )
            ),
            transfers=transfers,
            peak_memory_bytes=dict(zip(names, scratch.peak.tolist(), strict=True)),
            busy_seconds=dict(zip(names, (busy_ns / _NS).tolist(), strict=True)),
            transfer_bytes=transfer_bytes,
            num_transfers=len(transfers),
            first_overflow={
                names[device]: self.graph.op_names[op]
                for device, op in enumerate(results.first_overflow[0].tolist())
                if op >= 0
            },
        )
        self._idle_scratches.append(held)
        return schedule

    def _scheduled_transfers(
        self, scratch: Scratch, devices: NDArray[np.int32]
    ) -> tuple[tuple[ScheduledTransfer, ...], float]:
        """The transfers by start, then as they entered their channels; and their bytes."""
        count = scratch.num_transfers[0]
        by_start = np.argsort(scratch.transfer_start_ns[:count], kind="stable")
        ops, slots = scratch.transfer_op[by_start], scratch.transfer_slot[by_start]
        tensors = self.graph.output_offsets[ops] + slots
        is_data = tensors < self.graph.output_offsets[ops + 1]
        op_names, device_names = self.graph.op_names, self.cluster.device_names
        transfers = tuple(
            ScheduledTransfer(
                f"{op_names[op]}:{slot}" if data else f"^{op_names[op]}",
                device_names[source],
                device_names[target],
                start,
                finish,
            )
            for op, slot, data, source, target, start, finish in zip(
                ops.tolist(),
                slots.tolist(),
                is_data.tolist(),
                devices[ops].tolist(),
                scratch.transfer_target[by_start].tolist(),
                (scratch.transfer_start_ns[by_start] / _NS).tolist(),
                (scratch.transfer_finish_ns[by_start] / _NS).tolist(),
                strict=True,
            )
        )
        return transfers, float(self.graph.tensor_bytes[tensors[is_data]].sum())

    def _check_one(self, placement: Placement | ArrayLike) -> NDArray[np.int32]:
        """Device of each op as a writable array ``[num_ops]``."""
        if isinstance(placement, Placement):
            self._check_made_for_this(placement)
            placement = placement.devices
        devices = _writable(check_placements(placement, self.graph, self.cluster))
        if devices.ndim != 1:
            raise PlacementError(
                f"placement has shape {devices.shape}; expected ({self.graph.num_ops},)"
            )
        return devices

    def _check_made_for_this(self, placement: Placement) -> None:
        for what, theirs, ours in (
            ("graph", placement.graph, self.graph),
            ("cluster", placement.cluster, self.cluster),
        ):
            if theirs is not ours and theirs.fingerprint != ours.fingerprint:
                raise PlacementError(
                    f"placement is for {what} {theirs.name!r}; this simulator has another "
                    f"{what}, {ours.name!r}"
                )
        if placement.order != self.order:
            raise PlacementError(
                f"placement is for order {placement.order!r}; this simulator has order "
                f"{self.order!r}"
            )
        given = [p for p in (placement.priorities, self.priorities) if p is not None]
        if len(given) == 1 or (len(given) == 2 and not np.array_equal(given[0], given[1])):
            raise PlacementError("placement has other priorities than this simulator")

    def _simulate_in_order_of_start(
        self, rows: NDArray[np.int32], first: int, end: int, results: Results
    ) -> NDArray[np.int32]:
        """Simulates some rows and returns those that may be infeasible, which have no result."""
        from placer._kernels import start_order

        try:
            held = self._idle_start_order_scratches.pop()
        except IndexError:
            scratch = new_start_order_scratch(self._tables, len(self.cluster.channel_names))
            held = scratch, addresses_of(scratch)
        settled = np.zeros(end - first, bool)
        given = (self._addresses, held[1], rows[first:end], results.step_ns[first:end], settled)
        if self.order == "fifo":
            start_order.simulate_rows(*given, None)
        else:
            start_order.simulate_rows_by_priority(*given)
        self._idle_start_order_scratches.append(held)
        return (first + np.flatnonzero(~settled)).astype(np.int32)

    def _simulate_in_order_of_completion(
        self, rows: NDArray[np.int32], which: NDArray[np.int32], results: Results
    ) -> None:
        """Simulates some rows, memory included."""
        from placer._kernels import completion_order

        held = self._take_scratch()
        completion_order.simulate_rows(self._addresses, held[1], rows, which, addresses_of(results))
        self._idle_scratches.append(held)

    def _take_scratch(self) -> tuple[Scratch, Addresses]:
        try:
            return self._idle_scratches.pop()
        except IndexError:
            scratch = new_scratch(self._tables, len(self.cluster.channel_names))
            return scratch, addresses_of(scratch)

    def _reason(self, devices: NDArray[np.int32], results: Results, row: int) -> str:
        """Why the placement in a row of the results is infeasible."""
        graph, names = self.graph, self.cluster.device_names
        status, op = results.status[row], results.op_at_fault[row]
        where = f"op {graph.op_names[op]!r} is on {names[devices[op]]}"
        if status == WRONG_KIND:
            kinds = graph.device_kinds[op] or ()
            return (
                f"{where}, of kind {self.cluster.devices[devices[op]].kind!r}; "
                f"it can run on {' or '.join(map(repr, kinds))}"
            )
        if status == SPLIT_COLOCATION:
            first = self._tables.colocated_with[op]
            group = graph.colocation_names[graph.colocation_group[op]]
            return (
                f"{where}, but op {graph.op_names[first]!r} of its colocation group {group!r} "
                f"is on {names[devices[first]]}"
            )
        return "; ".join(
            f"{device.name} needs {_format_bytes(need)} bytes of memory, has "
            f"{_format_bytes(device.memory_bytes)}: "
            f"{_format_bytes(need - device.memory_bytes)} too many, at first for op "
            f"{graph.op_names[first]!r}"
            for device, need, first in zip(
                self.cluster.devices,
                results.peaks[row].tolist(),
                results.first_overflow[row].tolist(),
                strict=True,
            )
            if first >= 0
        )


def _rebuild(
    graph: OpGraph,
    cluster: Cluster,
    order: Order,
    priorities: NDArray[np.float64] | None,
    num_threads: int,
) -> Simulator:
    return Simulator(graph, cluster, order=order, priorities=priorities, num_threads=num_threads)


def _chunks(batch: int, num_threads: int) -> list[tuple[int, int]]:
    """Where chunks of a batch begin and end: ever smaller ones, so that all threads end together.

    Placements differ in how long they take, and threads in when they begin.
    """
    bounds = [0]
    while bounds[-1] < batch:
        rest = batch - bounds[-1]
        bounds.append(bounds[-1] + max(1, rest // (2 * num_threads)))
    return list(itertools.pairwise(bounds))


def _writable(array: NDArray[np.int32]) -> NDArray[np.int32]:
    """The array or a copy: compiled code is made for writable arrays only."""
    return array if array.flags.writeable else array.copy()


def _format_bytes(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,}"
