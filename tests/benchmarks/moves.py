"""Local moves: trying one against simulating the placement that it leads to.

Graphs are those of the families and, for moves of op groups, some of the bundled ones.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.grouping import group_ops
from placer.moves import Moves
from placer.simulator import Simulator
from tests.benchmarks.families import make_cluster
from tests.benchmarks.measuring import Criterion, Floats, Report, Table, time_calls
from tests.benchmarks.workbench import MODELS, NUM_GROUPS, Model, Scale, Workload, workload

T = TypeVar("T")

_DEVICES = (2, 8)
_GROUP_COLUMNS = (
    *(">full run", ">step_time", ">mean", ">gain over full run", ">over step_time"),
    *(">median", ">gain over full run", ">over step_time"),
)
_BUNDLED = ("inception_v3", "rnnlm", "transformer")
_PRESETS = ("v100x8", "p100x4")
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
    """A workload on a cluster, and what was measured: CPU seconds a move, or a call.

    Attributes:
        work: The graph, and the op groups that base placements keep together.
        simulator: For the cluster.
        groups: Kinds of groups that are moved whole: group of each op, ``[num_ops]``.
        taken: What was measured, an array per repetition.
        mismatches: Step times of trials that are not those of full runs.
        checked: Step times of trials that were compared.
    """

    work: Workload
    simulator: Simulator
    groups: dict[str, NDArray[np.int32]]
    taken: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    mismatches: int = 0
    checked: int = 0

    def __post_init__(self) -> None:
        devices = self.simulator.cluster.devices
        self.gpus = np.flatnonzero([d.kind == "gpu" for d in devices]).astype(np.int32)

    def base(self, repetition: int) -> NDArray[np.int32]:
        """The placement of a repetition, a GPU for each op group, ``[num_ops]``."""
        choices = self.work.placements("grouped", len(self.gpus), 1, repetition)[0]
        return np.ascontiguousarray(self.gpus[choices])

    def draw(
        self, rng: np.random.Generator, base: NDArray[np.int32], ops: NDArray[np.int32], count: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Some of the ops, and for each a GPU that it is not on, ``[count]`` each."""
        chosen = rng.choice(ops, count)
        others = np.searchsorted(self.gpus, base[chosen]) + rng.integers(
            1, len(self.gpus), size=count
        )
        return chosen, self.gpus[others % len(self.gpus)]

    def full_runs(self, moved: NDArray[np.int32], name: str = "") -> Floats:
        """Times full runs of moved placements; gives their step times, ``[batch]``."""
        expected, seconds = _timed(lambda: self.simulator.evaluate(moved).step_time_seconds)
        self.taken[f"{name}full"].append(seconds / len(moved))
        calls = time_calls(self.simulator.step_time, [(row,) for row in moved[:32]])
        self.taken[f"{name}step_time"].append(calls)
        return expected

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


class _Setting(NamedTuple):
    model: Model
    num_ops: int
    num_devices: int

    def __str__(self) -> str:
        return f"{self.model}, {self.num_ops:,} ops, {self.num_devices} devices"


def moves(scale: Scale) -> Report:
    """Moves of single ops and of op groups from grouped placements, against full runs."""
    cases: dict[_Setting, _Case] = {}
    for model in MODELS:
        mine = {}
        for num_ops in scale.sizes[1:]:
            work = workload(model, num_ops)
            pieces = np.arange(work.graph.num_ops) * NUM_GROUPS // work.graph.num_ops
            groups = {"op groups": work.groups.group_of_op, "chunks": pieces.astype(np.int32)}
            for num_devices in _DEVICES:
                mine[_Setting(model, num_ops, num_devices)] = _Case(
                    work,
                    Simulator(work.graph, make_cluster(num_devices)),
                    groups if num_ops == scale.sizes[1] else {},
                )
        _repeat(mine, scale, (_measure_ops, _measure_groups))
        cases |= mine
    bundled = {(name, preset): _bundled(name, preset) for name in _BUNDLED for preset in _PRESETS}
    _repeat(bundled, scale, (_measure_groups,))
    return _report(cases, bundled, scale)


def _bundled(name: str, preset: str) -> _Case:
    """A bundled graph with its own op groups on a preset cluster."""
    graph = OpGraph.load(name)
    work = Workload(graph, group_ops(graph))
    simulator = Simulator(graph, Cluster.load(preset))
    case = _Case(work, simulator, {"op groups": work.groups.group_of_op})
    simulator.schedule(case.base(0))  # loads what near a capacity tells the exact peak
    return case


def _repeat(
    cases: Mapping[Any, _Case],
    scale: Scale,
    measurements: Sequence[Callable[[_Case, Scale, int], None]],
) -> None:
    """Measures all cases in turn, once per repetition, each with a base placement of its own."""
    for repetition in (scale.repetitions, *range(scale.repetitions)):
        for case in cases.values():
            for measurement in measurements:
                measurement(case, scale.at(case.work.graph.num_ops), repetition)
            if repetition == scale.repetitions:  # not counted: compiles, makes working memory
                case.taken.clear()


def _measure_ops(case: _Case, scale: Scale, repetition: int) -> None:
    """Moves of single ops in one repetition."""
    simulator, taken, num_ops = case.simulator, case.taken, case.work.graph.num_ops
    rng = np.random.default_rng([repetition, num_ops, simulator.cluster.num_devices])
    base = case.base(repetition)
    ops, devices = case.draw(rng, base, np.arange(num_ops, dtype=np.int32), scale.moves)
    few = slice(min(scale.rows, scale.moves))
    moved = np.repeat(base[None], len(ops[few]), axis=0)
    moved[np.arange(len(moved)), ops[few]] = devices[few]
    expected = case.full_runs(moved)

    singles = list(zip(ops.tolist(), devices.tolist(), strict=True))
    session, seconds = _timed(lambda: _open_and_try(simulator, base, *singles[0]))
    taken["open"].append(seconds)
    found, seconds = _timed(lambda: session.try_moves(ops, devices))
    taken["bulk"].append(seconds / len(ops))
    case.check(found[few], expected)
    taken["call"].append(time_calls(session.try_move, singles))
    session.try_move(*singles[0])
    taken["commit"].append(time_calls(functools.partial(_commit_and_try, session), singles[1:]))


def _open_and_try(simulator: Simulator, base: NDArray[np.int32], op: int, device: int) -> Moves:
    """A session that has its working memory at hand, as the first trial writes to all of it anew."""
    session = simulator.moves(base)
    session.try_move(op, device)
    return session


def _commit_and_try(session: Moves, op: int, device: int) -> None:
    """Makes the last move the base, and tries one from there: it is written down by that trial."""
    session.commit()
    session.try_move(op, device)


def _measure_groups(case: _Case, scale: Scale, repetition: int) -> None:
    """Moves of whole groups in one repetition.

    Each kind of groups has a session of its own, as sessions learn what moves take.
    """
    base = case.base(repetition)
    for kind, group_of_op in case.groups.items():
        rng = np.random.default_rng([repetition, len(base), len(case.gpus)])
        first_ops = np.unique(group_of_op, return_index=True)[1].astype(np.int32)
        firsts, devices = case.draw(rng, base, first_ops, scale.moves)
        members = [np.flatnonzero(group_of_op == group) for group in group_of_op[firsts]]
        tried = list(zip(members, devices.tolist(), strict=True))
        moved = np.repeat(base[None], min(scale.rows, scale.moves), axis=0)
        for row, (ops, device) in zip(moved, tried, strict=False):
            row[ops] = device
        expected = case.full_runs(moved, f"{kind} ")

        session = case.simulator.moves(base)
        case.taken[kind].append(time_calls(session.try_move, tried))
        again = tried[: len(moved)]
        case.check([session.try_move(*move) for move in again], expected)


def _timed(call: Callable[[], T]) -> tuple[T, Floats]:
    """What a call returns, and its CPU seconds, ``[1]``."""
    start = time.thread_time_ns()
    result = call()
    return result, np.array([(time.thread_time_ns() - start) / 1e9])


def _report(
    cases: Mapping[_Setting, _Case], bundled: Mapping[tuple[str, str], _Case], scale: Scale
) -> Report:
    gains: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    group_gains: dict[str, float] = {}
    call_gains: dict[str, float] = {}
    rows, group_rows = [], []
    for setting, case in cases.items():
        model, num_ops, num_devices = setting
        full = case.mean("full")
        gain = {name: full / case.mean(name) for name in ("bulk", "call")}
        least = _LEAST_GAIN.get((model.family, model.training, num_ops))
        if least is not None:
            for name in gain:
                gains[name, least][str(setting)] = gain[name]
        rows.append(
            (
                *model.words(),
                f"{num_ops:,}",
                num_devices,
                np.concatenate(case.taken["call"]).size,
                f"{full * 1e6:,.1f}",
                f"{case.mean('bulk') * 1e6:,.2f}",
                f"{gain['bulk']:.1f}x",
                f"{case.mean('call') * 1e6:,.2f}",
                f"{gain['call']:.1f}x",
                f"{case.median('call') * 1e6:,.2f}",
                f"{full / case.median('call'):.1f}x",
                f"{case.median('commit') * 1e6:,.1f}",
                f"{case.median('open') * 1e3:,.2f}",
            )
        )
        for kind, group_of_op in case.groups.items():
            count = f"{group_of_op.max() + 1} {kind}"
            if num_ops >= scale.worth_judging:
                group_gains[f"{setting}, {count}"] = case.mean(f"{kind} full") / case.mean(kind)
                call_gains[f"{setting}, {count}"] = case.mean(f"{kind} step_time") / case.mean(kind)
            group_rows.append((*model.words(), num_devices, count, *_group_figures(case, kind)))
    everything = [*cases.values(), *bundled.values()]
    mismatches = sum(case.mismatches for case in everything)
    checked = sum(case.checked for case in everything)
    exact = Criterion("moves equal full runs", f"{mismatches} of {checked} differ", mismatches == 0)
    return Report(
        "moves",
        [*_criteria(gains), _criterion_of_groups(group_gains, call_gains), exact],
        [
            Table(
                "Moves of single ops, fifo, grouped placements; µs, and gain over a full run",
                (
                    *("graph", "direction", ">ops", ">devices", ">moves", ">full run"),
                    *(">try_moves, mean", ">gain", ">try_move, mean", ">gain"),
                    *(">median", ">gain", ">commit and try_move", ">opening, ms"),
                ),
                rows,
            ),
            Table(
                f"Moves of op groups by try_move, {scale.sizes[1]:,} ops, fifo; µs",
                ("graph", "direction", ">devices", ">groups", *_GROUP_COLUMNS),
                group_rows,
            ),
            Table(
                "Moves of the op groups of bundled graphs by try_move, GPUs of presets, fifo; µs",
                ("graph", ">ops", "cluster", ">groups", *_GROUP_COLUMNS),
                [
                    (
                        name,
                        f"{case.work.graph.num_ops:,}",
                        preset,
                        case.work.groups.num_groups,
                        *_group_figures(case, "op groups"),
                    )
                    for (name, preset), case in bundled.items()
                ],
            ),
        ],
    )


def _group_figures(case: _Case, kind: str) -> tuple[str, ...]:
    """As in `_GROUP_COLUMNS`."""
    full, call = case.mean(f"{kind} full"), case.mean(f"{kind} step_time")
    mean, median = case.mean(kind), case.median(kind)
    return (
        *(f"{seconds * 1e6:,.1f}" for seconds in (full, call, mean)),
        *(f"{seconds / mean:.1f}x" for seconds in (full, call)),
        f"{median * 1e6:,.1f}",
        *(f"{seconds / median:.1f}x" for seconds in (full, call)),
    )


def _criteria(gains: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Criterion]:
    what = {
        2: "RNN grids",
        20: "Inception, Transformer, training, 10k ops",
        60: "Inception, Transformer, forward, 10k ops",
        100: "Inception, Transformer, 100k ops",
    }
    criteria = []
    for least, where in sorted(what.items(), reverse=True):
        text = f"try_moves, single ops, {where}: at least {least}x"
        criteria.append(Criterion.at_least(text, least, gains.get(("bulk", least), {})))
        text = "the same by try_move, one Python call each: not judged"
        criteria.append(Criterion.shown(text, gains.get(("call", least), {})))
    return criteria


def _criterion_of_groups(gains: Mapping[str, float], call_gains: Mapping[str, float]) -> Criterion:
    impossible = {of: call_gains[of] for of, gain in gains.items() if gain < 5}
    return Criterion.at_least(
        f"moves of op groups: at least 5x (in {len(gains) - len(impossible)} of {len(gains)} "
        "settings), elsewhere never slower than step_time, to 5%",
        0.95,
        impossible or gains,
    )
