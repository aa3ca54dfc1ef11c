"""Moves: what the step time would be if some ops were on another device, exactly and fast."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer._move_tables import (
    OUTCOME,
    MoveTables,
    PlacedGroups,
    Records,
    device_of,
    new_move_tables,
)
from placer._tables import Tables, addresses_of, new_recording, new_start_order_scratch
from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError
from placer.graph import OpGraph

_NS = 1e9  # nanoseconds per second
_STARTS_PER_OP = 4  # an op start in a trial takes about as long as four in a full run
_PROBE_AFTER = 32  # where full runs are faster, after how many to see whether they still are
_LONGEST_PROBE_AFTER = 1024  # that doubles whenever they are, up to this
_MEMORY = 0.1  # weight of the last trial in what trials take, but for the first ones
_LEAST_TRIALS = 4  # as many are made before anything is concluded
_FIRST_TRIALS = 16  # of many moves, how many to try before choosing for the others
_ROWS = 16  # how many full runs to make at once
_PAUSE_AFTER = 50_000  # op starts of a walk, some milliseconds
_MOST_WRITTEN = 16  # op starts per op to write into a record before another one is made


class _Cost:
    """What trials of a kind of move take, to choose between trials and full runs."""

    def __init__(self, num_ops: int) -> None:
        self.most_starts = 1 + num_ops // _STARTS_PER_OP  # then a full run would have taken less
        self._mean_starts = 0.0
        self._num_trials = 0
        self._full_runs = 0  # since the last trial
        self._probe_after = _PROBE_AFTER

    def how_many_trials(self, num_moves: int) -> int:
        """How many of the next moves to try; if none, to simulate them all in full for now."""
        if self._is_slow():
            return _LEAST_TRIALS if self._full_runs >= self._probe_after else 0
        return num_moves if self._num_trials >= _FIRST_TRIALS else _FIRST_TRIALS

    def learn(self, num_starts: int, num_given_up: int, num_trials: int) -> None:
        """Takes note of trials; one that is given up costs a full run on top."""
        mean = (num_starts + num_given_up * self.most_starts) / num_trials
        self._num_trials += num_trials
        weight = max(1 - (1 - _MEMORY) ** num_trials, num_trials / self._num_trials)
        self._mean_starts += weight * (mean - self._mean_starts)
        if not self._is_slow():
            self._probe_after = _PROBE_AFTER
        elif self._full_runs > 0:
            self._probe_after = min(2 * self._probe_after, _LONGEST_PROBE_AFTER)
        self._full_runs = 0

    def learn_of_full_runs(self, num_runs: int) -> None:
        """Takes note of full runs in place of trials."""
        self._full_runs += num_runs

    def _is_slow(self) -> bool:
        return self._num_trials >= _LEAST_TRIALS and self._mean_starts > self.most_starts


class _Tried(NamedTuple):
    """The last single move.

    Attributes:
        ops: The ops.
        device: Where they went.
        seconds: The step time.
        step_ns: The same in nanoseconds if a trial told it, else infinite.
        num_starts: How many ops the trial started.
    """

    ops: NDArray[np.uint32]
    device: int
    seconds: float
    step_ns: float
    num_starts: int


class Moves:
    """Tries moves from a base placement; made by :meth:`placer.simulator.Simulator.moves`.

    A trial simulates only what the move changes, and gives the step time of a full run to the last
    bit. Where that would take longer than a full run, it makes one. To commit a move, what its
    trial simulated is written into the schedule of the base. Not for use by several threads at
    once.
    """

    def __init__(
        self,
        graph: OpGraph,
        cluster: Cluster,
        tables: Tables,
        devices: NDArray[np.int32],
        evaluate: Callable[[NDArray[np.int32]], NDArray[np.float64]],
        *,
        in_order_of_start: bool,
        idle: list[MoveTables],
    ) -> None:
        """See :meth:`placer.simulator.Simulator.moves`.

        Args:
            graph: The graph.
            cluster: The cluster.
            tables: What the compiled code knows of them.
            devices: The base placement, ``[num_ops]``.
            evaluate: Gives the step times of placements ``[batch, num_ops]`` by full runs.
            in_order_of_start: Whether ops can be simulated in order of start, first come first
                served; else every trial is a full run.
            idle: What sessions from other bases have left, which this one takes and leaves in turn.
        """
        self._graph = graph
        self._cluster = cluster
        self._tables = tables
        self._evaluate = evaluate
        self._in_order_of_start = in_order_of_start
        self._devices = devices.copy()
        self._last: _Tried | None = None
        self._costs = (_Cost(graph.num_ops), _Cost(graph.num_ops))  # of one op, of several
        self._can_try: bool | None = None  # whether the schedule is recorded, None: yet to be seen
        self._num_written = 0  # op starts that were written into the record since it was made
        self._step_ns = np.inf  # of the base, if it is recorded
        if in_order_of_start:
            from placer._kernels import base, moves, start_order, trials

            self._simulate_rows = start_order.simulate_rows
            self._try_one, self._try_many, self._walk = trials.try_move, moves.try_moves, moves.walk
            self._set_base, self._write = base.set_base, base.commit
            self._scratch = new_start_order_scratch(tables, len(cluster.channel_names))
            self._recording = new_recording(
                graph.num_ops, len(tables.edge_consumer), cluster.num_devices
            )
            self._no_recording = new_recording(0, 0, 0)
            self._tables_at, self._scratch_at = addresses_of(tables), addresses_of(self._scratch)
            self._record_at = addresses_of(self._recording)
            self._no_record_at = addresses_of(self._no_recording)
            try:
                self._tables_of_moves = idle.pop()
            except IndexError:
                self._tables_of_moves = new_move_tables(tables, len(cluster.channel_names))
            weakref.finalize(self, idle.append, self._tables_of_moves)
            self._addresses = addresses_of(self._tables_of_moves)
            # what a single trial or full run is passed
            self._one_result, self._one_settled = np.zeros(1), np.zeros(1, bool)
        if self._record():
            self._step_seconds = self._step_ns / _NS
        else:
            self._step_seconds = float(evaluate(devices[None])[0])

    def __reduce__(self) -> NoReturn:  # a copy would find the arrays of this session
        raise UsageError(
            "a session of moves cannot be copied; begin another one by Simulator.moves(devices)"
        )

    @property
    def step_time_seconds(self) -> float:
        """Step time of the base placement, infinite if it is infeasible."""
        return self._step_seconds

    @property
    def devices(self) -> NDArray[np.int32]:
        """A copy of the base placement, ``[num_ops]``."""
        return self._devices.copy()

    def try_move(self, ops: int | ArrayLike, device: int) -> float:
        """The step time in seconds if an op, or each of several, were on a device.

        The base stays as it is. An infeasible placement has infinite step time.

        Raises:
            PlacementError: No index of an op, or of a device.
        """
        moving = self._check_ops(ops)
        if not (isinstance(device, (int, np.integer)) and 0 <= device < self._cluster.num_devices):
            self._refuse_devices(device)
        cost = self._costs[len(moving) > 1]
        step_ns, starts = -1.0, 0
        if cost.how_many_trials(1) > 0 and self._record():
            step_ns, starts = self._try_one(
                self._addresses, moving, int(device), self._step_ns, cost.most_starts
            )
            cost.learn(starts, step_ns < 0, 1)
        else:
            cost.learn_of_full_runs(1)
        if step_ns < 0:
            step_ns, seconds = np.inf, self._run(moving, device)
        else:
            seconds = step_ns / _NS
        self._last = _Tried(moving, device, seconds, step_ns, starts)
        return seconds

    def try_moves(
        self, ops: Sequence[int | ArrayLike] | NDArray[np.integer], devices: ArrayLike
    ) -> NDArray[np.float64]:
        """The step times in seconds of several moves, each from the base; none can be committed.

        To commit the best one, try it again with :meth:`try_move`.

        Args:
            ops: The op or the ops of each move, ``num_moves`` of them.
            devices: Where they go, ``[num_moves]``.

        Raises:
            PlacementError: No index of an op, or of a device; or not as many devices as moves.
        """
        self._last = None
        ends, moving = self._check_moves(ops)
        num_moves = len(ends) - 1
        targets = _integers(devices)
        if targets.shape != (num_moves,):
            raise PlacementError(
                f"devices are {devices!r}; expected {num_moves} device indices, one per move"
            )
        if num_moves == 0:
            return np.zeros(0)
        if targets.min() < 0 or targets.max() >= self._cluster.num_devices:
            self._refuse_devices(targets)
        to = targets.astype(np.uint32)
        cost = self._costs[len(moving) > num_moves]
        step_ns = np.full(num_moves, -1.0)
        first = 0
        while first < num_moves:
            count = cost.how_many_trials(num_moves - first)
            if count == 0 or not self._record():
                cost.learn_of_full_runs(num_moves - first)
                break
            end = min(num_moves, first + count)
            some = slice(first, end)
            starts = self._try_many(
                self._addresses,
                moving,
                ends[first : end + 1],
                to[some],
                self._step_ns,
                cost.most_starts,
                step_ns[some],
            )
            cost.learn(starts, int((step_ns[some] < 0).sum()), end - first)
            first = end
        seconds = step_ns / _NS
        untold = np.flatnonzero(step_ns < 0)
        for first in range(0, len(untold), _ROWS):
            which = untold[first : first + _ROWS]
            seconds[which] = self._run_many(
                [moving[ends[i] : ends[i + 1]] for i in which], to[which]
            )
        return seconds

    def commit(self) -> None:
        """Makes the placement of the last :meth:`try_move` the base.

        Raises:
            UsageError: No move was tried since the last commit.
        """
        if self._last is None:
            raise UsageError("nothing to commit: expected a try_move since the last commit")
        tried, self._last = self._last, None
        self._devices[tried.ops] = tried.device
        self._step_seconds = tried.seconds
        self._num_written += tried.num_starts
        if tried.step_ns < np.inf and self._num_written <= _MOST_WRITTEN * self._graph.num_ops:
            self._step_ns = tried.step_ns
            self._write(self._addresses)
        else:
            self._can_try = None

    def walk(
        self, groups: PlacedGroups, proposals: Records, limits: NDArray[np.float64]
    ) -> Records:
        """Tries moves of op groups in turn, and makes each that changes the step time little.

        It pauses after some milliseconds. Arguments are not checked.

        Args:
            groups: All op groups; where they are is that of the base, and is kept right.
            proposals: The moves, as ``placer._move_tables.PROPOSAL``, ``[num_proposals]``.
            limits: A move is made if the step time, in seconds, changes by less,
                ``[num_proposals]``.

        Returns:
            What those that were tried came to, as ``placer._move_tables.OUTCOME``; at least one.
        """
        self._last = None
        outcomes = np.empty(len(proposals), OUTCOME)
        cost = self._costs[len(groups.offsets) <= len(groups.ops)]
        first = work = 0  # work in op starts
        while first < len(proposals) and work < _PAUSE_AFTER:
            rest = slice(first, first + cost.how_many_trials(len(proposals) - first))
            is_unknown = True
            if rest.stop > first and self._record():
                tried, is_unknown, starts, written, self._step_ns = self._walk(
                    self._addresses,
                    groups,
                    self._devices,
                    proposals[rest],
                    limits[rest],
                    outcomes[rest],
                    self._step_ns,
                    cost.most_starts,
                    _MOST_WRITTEN * self._graph.num_ops - self._num_written,
                    _PAUSE_AFTER - work,
                )
                cost.learn(starts, is_unknown, tried + is_unknown)
                self._step_seconds = self._step_ns / _NS
                self._num_written += written
                if self._num_written > _MOST_WRITTEN * self._graph.num_ops:
                    self._can_try = None
                first, work = first + tried, work + starts
            else:
                cost.learn_of_full_runs(1)
            if is_unknown:
                self._walk_by_full_run(groups, proposals[first], limits[first], outcomes[first])
                first, work = first + 1, work + cost.most_starts
        return outcomes[:first]

    def _walk_by_full_run(
        self, groups: PlacedGroups, proposal: np.void, limit: float, outcome: np.void
    ) -> None:
        """Tries one move of a walk, and makes it if it changes the step time little."""
        group = proposal["group"]
        ops = groups.ops[groups.offsets[group] : groups.offsets[group + 1]]
        device = device_of(proposal, groups.allowed, groups.choices)
        seconds = self._run(ops, device)
        change = seconds - self._step_seconds
        outcome["seconds"], outcome["change"] = seconds, change
        outcome["origin"] = groups.choices[group]
        if change < limit:
            self._last = _Tried(ops, device, seconds, np.inf, 0)
            self.commit()
            groups.choices[group] = device

    def _record(self) -> bool:
        """Records the schedule of the base if that is yet to be done; whether there can be trials.

        There can be none if memory may not suffice, or if ops have to be simulated otherwise.
        """
        if self._can_try is None:
            self._can_try, self._num_written = False, 0
            if self._in_order_of_start:
                step_ns, settled = self._one_result, self._one_settled
                base = self._devices[None]
                self._simulate_rows(
                    self._tables_at, self._scratch_at, base, step_ns, settled, self._record_at
                )
                if settled[0]:
                    self._can_try = True
                    self._step_ns = float(step_ns[0])
                    self._set_base(self._addresses, self._record_at, self._scratch.needed)
        return self._can_try

    def _run(self, ops: NDArray[np.uint32], device: int) -> float:
        """The step time in seconds by a full run."""
        if not self._in_order_of_start:
            return float(self._run_many([ops], [device])[0])
        base = self._devices[ops]
        self._devices[ops] = device
        self._simulate_rows(
            self._tables_at,
            self._scratch_at,
            self._devices[None],
            self._one_result,
            self._one_settled,
            self._no_record_at,
        )
        self._devices[ops] = base
        if not self._one_settled[0]:
            return float(self._run_many([ops], [device])[0])
        return float(self._one_result[0]) / _NS

    def _run_many(
        self, moves: Sequence[NDArray[np.uint32]], devices: Sequence[int] | NDArray[np.uint32]
    ) -> NDArray[np.float64]:
        """The step times in seconds of at most ``_ROWS`` moves by full runs."""
        rows = np.repeat(self._devices[None], len(moves), axis=0)
        for row, ops, device in zip(rows, moves, devices, strict=True):
            row[ops] = device
        return self._evaluate(rows)

    def _check_moves(
        self, ops: Sequence[int | ArrayLike] | NDArray[np.integer]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Where the ops of each move begin, and the end, ``[num_moves + 1]``; all ops."""
        is_array = isinstance(ops, np.ndarray) and ops.ndim == 1 and ops.dtype.kind in "iu"
        if not is_array:
            try:
                ops = list(ops)
            except TypeError:
                self._refuse_ops(ops)
        if is_array or all(isinstance(each, (int, np.integer)) for each in ops):
            array = np.asarray(ops)
            if len(array) and not (array.min() >= 0 and array.max() < self._graph.num_ops):
                self._refuse_ops(ops)
            return np.arange(len(array) + 1, dtype=np.uint32), array.astype(np.uint32)
        moves = [self._check_ops(each) for each in ops]
        ends = np.cumsum([0, *map(len, moves)])
        return ends.astype(np.uint32), np.concatenate(moves)

    def _check_ops(self, ops: int | ArrayLike) -> NDArray[np.uint32]:
        """Op indices, each once."""
        if isinstance(ops, (int, np.integer)):
            if 0 <= ops < self._graph.num_ops:
                return np.array((ops,), np.uint32)
        else:
            array = _integers(ops)
            if array.size and array.min() >= 0 and array.max() < self._graph.num_ops:
                return np.unique(array).astype(np.uint32)
        self._refuse_ops(ops)

    def _refuse_ops(self, ops: object) -> NoReturn:
        raise PlacementError(
            f"ops are {ops!r}; expected one or more op indices from 0 to {self._graph.num_ops - 1}"
        )

    def _refuse_devices(self, devices: object) -> NoReturn:
        raise PlacementError(
            f"device is {devices}; expected device indices from 0 to "
            f"{self._cluster.num_devices - 1}"
        )


def _integers(values: ArrayLike) -> NDArray[np.integer]:
    """As an array of integers; of shape ``[1, 0]`` if they are none, which fits nowhere."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        return np.zeros((1, 0), np.int64)
    if array.size == 0:
        return array.astype(np.int64)
    return array if array.dtype.kind in "iu" else np.zeros((1, 0), np.int64)
