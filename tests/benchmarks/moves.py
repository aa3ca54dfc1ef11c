"""Local moves: trying one against simulating the placement that it leads to."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer.simulator import Simulator
from tests.benchmarks.families import VARIABLE, make_cluster
from tests.benchmarks.measuring import Criterion, Floats, Report, Table, time_calls
from tests.benchmarks.workbench import MODELS, NUM_GROUPS, Model, Scale, Workload, workload

T = TypeVar("T")

_DEVICES = (2, 8)
_LEAST_GAIN = {  # of a single op's move, by family, direction and ops, as far as one is asked for
    ("Inception", False, 10_000): 60,
    ("Inception", True, 10_000): 20,
    ("Transformer", False, 10_000): 60,
    ("Transformer", True, 10_000): 20,
    ("Inception", False, 100_000): 100,
    ("Inception", True, 100_000): 100,
    ("Transformer", False, 100_000): 100,
    ("Transformer", True, 100_000): 100,
    **{("RNN grid", training, ops): 2 for training in (False, True) for ops in (10_000, 100_000)},
}


@dataclass
class _Case:
    """A workload on a cluster, and what was measured: CPU seconds a move, or a call."""

    work: Workload
    simulator: Simulator
    groups: dict[str, NDArray[np.int32]]  # kinds of groups: group of each op, [num_ops]
    taken: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    mismatches: int = 0
    checked: int = 0

    def check(self, found: ArrayLike, expected: ArrayLike) -> None:
        """Counts step times of trials that are not those of full runs."""
        self.mismatches += int(np.sum(np.asarray(found) != expected))
        self.checked += np.size(expected)

    def mean(self, name: str) -> float:
        """Seconds over all moves of all repetitions."""
        return float(np.concatenate(self.taken[name]).mean())

    def median(self, name: str) -> float:
        """Seconds, likewise."""
        return float(np.median(np.concatenate(self.taken[name])))


def moves(scale: Scale) -> Report:
    """Moves of single ops and of op groups from grouped placements, against full runs."""
    cases: dict[tuple[Model, int, int], _Case] = {}
    for model in MODELS:
        mine = {}
        for num_ops in scale.sizes[1:]:
            work = workload(model, num_ops)
            pieces = np.arange(work.graph.num_ops) * NUM_GROUPS // work.graph.num_ops
            groups = {"op groups": work.groups.group_of_op, "chunks": pieces.astype(np.int32)}
            for num_devices in _DEVICES:
                simulator = Simulator(work.graph, make_cluster(num_devices))
                mine[model, num_ops, num_devices] = _Case(work, simulator, groups)
        for case in mine.values():  # not counted: compiles, and makes working memory
            _measure(case, scale, scale.repetitions, moves_groups=True)
            case.taken.clear()
        for repetition in range(scale.repetitions):
            for (_, num_ops, _), case in mine.items():
                _measure(case, scale, repetition, moves_groups=num_ops == scale.sizes[1])
        cases |= mine
    return _report(cases, scale)


def _measure(case: _Case, scale: Scale, repetition: int, *, moves_groups: bool) -> None:
    """One repetition: a base placement of its own, and moves from it.

    Each kind of move has a session of its own, as sessions learn what moves take.
    """
    simulator, taken = case.simulator, case.taken
    num_ops, num_devices = case.work.graph.num_ops, simulator.cluster.num_devices
    rng = np.random.default_rng([repetition, num_ops, num_devices])
    base = case.work.placements("grouped", num_devices, 1, repetition)[0]
    is_variable = np.array(case.work.graph.op_types) == VARIABLE

    def draw(candidates: NDArray[np.int32], count: int) -> tuple[NDArray[np.int32], ...]:
        """Some of the candidates, and for each a device that it is not on."""
        ops = rng.choice(candidates, count)
        others = rng.integers(1, num_devices, size=count, dtype=np.int32)
        return ops, (base[ops] + others) % num_devices

    ops, devices = draw(np.flatnonzero(~is_variable).astype(np.int32), scale.moves)
    few = slice(min(scale.rows, scale.moves))
    moved = np.repeat(base[None], len(ops[few]), axis=0)
    moved[np.arange(len(moved)), ops[few]] = devices[few]
    expected, seconds = _timed(lambda: simulator.evaluate(moved).step_time_seconds)
    taken["full"].append(seconds / len(moved))
    taken["full call"].append(time_calls(simulator.step_time, [(row,) for row in moved[:32]]))

    session, seconds = _timed(lambda: simulator.moves(base))
    taken["open"].append(seconds)
    found, seconds = _timed(lambda: session.try_moves(ops, devices))
    taken["bulk"].append(seconds / len(ops))
    case.check(found[few], expected)
    singles = list(zip(ops.tolist(), devices.tolist(), strict=True))
    taken["call"].append(time_calls(session.try_move, singles))

    variables, targets = draw(np.flatnonzero(is_variable).astype(np.int32), scale.moves // 4)
    of_variables = simulator.moves(base)
    _, seconds = _timed(lambda: of_variables.try_moves(variables, targets))
    taken["variables"].append(seconds / len(variables))

    for kind, group_of_op in case.groups.items() if moves_groups else ():
        of_groups = simulator.moves(base)
        first_ops = np.unique(group_of_op, return_index=True)[1].astype(np.int32)
        firsts, targets = draw(first_ops, scale.moves)
        members = [np.flatnonzero(group_of_op == group) for group in group_of_op[firsts]]
        group_moves = list(zip(members, targets.tolist(), strict=True))
        taken[kind].append(time_calls(of_groups.try_move, group_moves))
        for group, target in group_moves[:8]:
            placement = base.copy()
            placement[group] = target
            case.check(of_groups.try_move(group, target), simulator.step_time(placement))

    for op, device in singles[:32]:
        session.try_move(op, device)
        taken["commit"].append(time_calls(session.commit, [()]))


def _timed(call: Callable[[], T]) -> tuple[T, Floats]:
    """What a call returns, and its CPU seconds, ``[1]``."""
    start = time.thread_time_ns()
    result = call()
    return result, np.array([(time.thread_time_ns() - start) / 1e9])


def _report(cases: dict[tuple[Model, int, int], _Case], scale: Scale) -> Report:
    gains: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    group_gains: dict[str, float] = {}
    call_gains: dict[str, float] = {}
    rows, group_rows = [], []
    for (model, num_ops, num_devices), case in cases.items():
        where = f"{model}, {num_ops:,} ops, {num_devices} devices"
        full, full_call = case.mean("full"), case.mean("full call")
        gain = {name: full / case.mean(name) for name in ("bulk", "call")}
        least = _LEAST_GAIN.get((model.family, model.training, num_ops))
        if least is not None:
            for name in gain:
                gains[name, least][where] = gain[name]
        rows.append(
            (
                *model.words(),
                f"{num_ops:,}",
                num_devices,
                f"{full * 1e6:,.1f}",
                f"{case.mean('bulk') * 1e6:,.2f}",
                f"{gain['bulk']:.1f}x",
                f"{case.mean('call') * 1e6:,.2f}",
                f"{gain['call']:.1f}x",
                f"{case.median('call') * 1e6:,.2f}",
                f"{full / case.median('call'):.1f}x",
                f"{case.mean('variables') * 1e6:,.2f}",
                f"{case.median('commit') * 1e6:,.1f}",
                f"{case.median('open') * 1e3:,.2f}",
            )
        )
        for kind, group_of_op in case.groups.items():
            if kind not in case.taken:
                continue
            count = int(group_of_op.max()) + 1
            of = f"{where}, {count} {kind}"
            if num_ops >= scale.worth_judging:
                group_gains[of] = full / case.mean(kind)
                call_gains[of] = full_call / case.mean(kind)
            group_rows.append(
                (
                    *model.words(),
                    num_devices,
                    f"{count} {kind}",
                    f"{full * 1e6:,.1f}",
                    f"{full_call * 1e6:,.1f}",
                    f"{case.mean(kind) * 1e6:,.1f}",
                    f"{full / case.mean(kind):.1f}x",
                    f"{full_call / case.mean(kind):.1f}x",
                    f"{full / case.median(kind):.1f}x",
                )
            )
    mismatches, checked = (
        sum(getattr(c, n) for c in cases.values()) for n in ("mismatches", "checked")
    )
    return Report(
        "moves",
        [*_criteria(gains, group_gains, call_gains), _exact(mismatches, checked)],
        [
            Table(
                "Moves of single ops, fifo, grouped placements; µs, and gain over a full run",
                (
                    *("graph", "direction", ">ops", ">devices", ">full run", ">try_moves, mean"),
                    *(">gain", ">try_move, mean", ">gain", ">median", ">gain"),
                    *(">of variables", ">commit", ">opening, ms"),
                ),
                rows,
            ),
            Table(
                f"Moves of op groups by try_move, {scale.sizes[1]:,} ops, fifo; µs",
                (
                    *("graph", "direction", ">devices", ">groups", ">full run", ">step_time"),
                    *(">mean", ">gain over full run", ">over step_time", ">median gain"),
                ),
                group_rows,
            ),
        ],
    )


def _exact(mismatches: int, checked: int) -> Criterion:
    return Criterion("moves equal full runs", f"{mismatches} of {checked} differ", mismatches == 0)


def _criteria(
    gains: dict[tuple[str, int], dict[str, float]],
    group_gains: dict[str, float],
    call_gains: dict[str, float],
) -> list[Criterion]:
    what = {
        2: "RNN grids",
        20: "Inception, Transformer, training, 10k ops",
        60: "Inception, Transformer, forward, 10k ops",
        100: "Inception, Transformer, 100k ops",
    }
    criteria = [
        Criterion.at_least(
            f"{name}, single ops, {what[least]}: at least {least}x",
            least,
            gains.get((key, least), {}),
        )
        for least in sorted(what, reverse=True)
        for key, name in (("bulk", "try_moves, bulk"), ("call", "try_move"))
    ]
    impossible = {of: call_gains[of] for of, gain in group_gains.items() if gain < 5}
    reached = len(group_gains) - len(impossible)
    criteria.append(
        Criterion.at_least(
            f"moves of op groups: at least 5x (in {reached} of {len(group_gains)} settings), "
            "elsewhere never slower than step_time, to 5%",
            0.95,
            impossible or group_gains,
        )
    )
    return criteria
