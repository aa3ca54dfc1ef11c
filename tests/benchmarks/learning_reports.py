"""What the benchmark of learning shows: a report for each of its parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.learning_plan import (
    ABLATIONS,
    ANNEALING,
    FROM_NOTHING,
    LEARNED,
    LEAST_GAIN,
    MODERN_POLICY,
    PAPER,
    SAMPLES,
    SPEED_BUDGET,
    VARIANTS,
    WALK,
    Plan,
    of_transfer,
)
from tests.benchmarks.learning_runs import NO_MOVES, Cell, Outcome, Results, Run, Subject
from tests.benchmarks.measuring import Criterion, Report, Table

Floats = NDArray[np.float64]

_TUNED_NO_MOVES = "trained on, no moves"
_TRANSFER_RATIOS = {  # at most, over training from scratch
    ("zero-shot", MODERN_POLICY.name): 1.1,
    ("zero-shot", FROM_NOTHING.name): 1.1,
    ("trained on", MODERN_POLICY.name): 1.0,
    ("trained on", FROM_NOTHING.name): 1.0,
    ("zero-shot", NO_MOVES): 1.1,
    (_TUNED_NO_MOVES, NO_MOVES): 1.0,
}
_MOST_RATIO = 0.97  # in the geometric mean, to annealing
_WORST_RATIO = 1.05
_MOST_SECONDS = 60  # for SPEED_BUDGET


def annealing(plan: Plan, results: Results) -> Report:
    """The step times of what learns over that of annealing from the same start.

    The walk alone is shown beside them: what they have over it, they owe to their policies.
    """
    criteria: list[Criterion] = []
    tables = []
    medians = {subject: _medians(plan, results, subject) for subject in (ANNEALING, *LEARNED, WALK)}
    for subject in (*LEARNED, WALK):
        ratios = _ratios(medians[subject], medians[ANNEALING])
        if subject in LEARNED:
            criteria += _against_annealing(subject.name, plan, ratios)
        tables.append(
            Table(
                f"Step time of {subject.name} over that of annealing, {plan.of_seeds}, "
                "by evaluations",
                (*_columns(plan), ">geometric mean"),
                [
                    *(
                        (*cell, *(f"{ratio:.3f}" for ratio in of_cell), f"{mean:.3f}")
                        for cell, of_cell, mean in zip(
                            plan.cells, ratios, map(_geometric_mean, ratios), strict=True
                        )
                    ),
                    (
                        *("geometric mean", "", ""),
                        *(f"{_geometric_mean(of_budget):.3f}" for of_budget in ratios.T),
                        f"{_geometric_mean(ratios):.3f}",
                    ),
                ],
            )
        )
    for subject in LEARNED:
        over_walk = _geometric_mean(_ratios(medians[subject], medians[WALK]))
        criteria.append(
            Criterion(
                f"{subject.name} over the walk alone, all budgets: geometric mean, not judged",
                f"{over_walk:.3f}",
                None,
            )
        )
    names = " / ".join(subject.name for subject in medians)
    tables.append(
        Table(
            f"The step times in ms, the best heuristic / {names}",
            _columns(plan),
            [
                (
                    *cell,
                    *(
                        " / ".join(_ms(found) for found in (start, *of_budget))
                        for of_budget in zip(*(m[row] for m in medians.values()), strict=True)
                    ),
                )
                for row, cell in enumerate(plan.cells)
                for start in [_starts(plan, results, cell)]
            ],
        )
    )
    return Report("annealing", criteria, tables)


def _against_annealing(name: str, plan: Plan, ratios: Floats) -> list[Criterion]:
    """What is asked of ratios of step times, ``[cells, budgets]``."""
    criteria = []
    whole = [(f"{budget:,} evaluations", ratios[:, [i]]) for i, budget in enumerate(plan.budgets)]
    for what, part in [*whole, ("all budgets", ratios)]:
        mean = _geometric_mean(part)
        worst, at = np.unravel_index(part.argmax(), part.shape)
        budget_of_worst = f", {plan.budgets[at]:,} evaluations" if part is ratios else ""
        criteria += [
            Criterion(
                f"{name}, {what}: geometric mean at most {_MOST_RATIO}",
                f"{mean:.3f}",
                mean <= _MOST_RATIO,
            ),
            Criterion(
                f"{name}, {what}: none above {_WORST_RATIO}",
                f"{part.max():.3f}: {plan.cells[worst]}{budget_of_worst}",
                bool(part.max() <= _WORST_RATIO),
            ),
        ]
    return criteria


def transfer(plan: Plan, results: Results) -> Report:
    """What the bundled policy is worth on graphs on which it was not trained.

    It is compared with the best that training from scratch finds, moves included, and with its own
    network, when neither has anything but samples.
    """
    tuned, scratch = plan.budgets[0], plan.budgets[-1]
    rows: list[tuple[object, ...]] = []
    rows_no_moves: list[tuple[object, ...]] = []
    over: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in _TRANSFER_RATIOS}
    for cell in plan.cells:
        times = {
            what: float(np.median(_step_times(results, plan.runs(subject, cell, budget))))
            for what, subject, budget in of_transfer(plan)
        }
        for what, reference in over:
            over[what, reference][str(cell)] = times[what] / times[reference]
        start = _starts(plan, results, cell)
        for told, names, by_samples in (
            (rows, ("modern", FROM_NOTHING.name, "zero-shot", "trained on"), False),
            (rows_no_moves, (NO_MOVES, "zero-shot", _TUNED_NO_MOVES), True),
        ):
            ratios = (
                f"{over[pair][str(cell)]:.3f}"
                for pair in over
                if (pair[1] == NO_MOVES) is by_samples
            )
            told.append((*cell, _ms(start), *(_ms(times[name]) for name in names), *ratios))
    return Report(
        "transfer",
        [
            Criterion(
                f"{what}: at most {_TRANSFER_RATIOS[what, reference]} of {scratch:,} evaluations of "
                f"{reference}",
                f"{_geometric_mean(np.array(list(ratios.values()))):.3f}, worst "
                f"{max(ratios.values()):.3f}: {max(ratios, key=ratios.__getitem__)}",
                max(ratios.values()) <= _TRANSFER_RATIOS[what, reference],
            )
            for (what, reference), ratios in over.items()
        ],
        [
            Table(
                f"Step times in ms, {plan.of_seeds}: of modern with {scratch:,} evaluations, from "
                "the best heuristic and from nothing, of the bundled policy zero-shot with "
                f"{SAMPLES}, and trained on with {tuned:,}; ratios are to modern, and to modern "
                "from nothing",
                (
                    *("workload", "cluster", "order", ">best heuristic", ">modern"),
                    *(">from nothing", ">zero-shot", ">trained on", ">zero-shot ratio"),
                    *(">from nothing", ">trained on ratio", ">from nothing"),
                ),
                rows,
            ),
            Table(
                f"Step times in ms, {plan.of_seeds}, without moves and "
                f"heuristics, of the network that learns from nothing with {scratch:,} evaluations, "
                f"of the bundled policy zero-shot with {SAMPLES}, and trained on with {tuned:,}",
                (
                    *("workload", "cluster", "order", ">best heuristic", ">from nothing"),
                    *(">zero-shot", ">trained on", ">zero-shot ratio", ">trained on ratio"),
                ),
                rows_no_moves,
            ),
        ],
    )


def colocrl(plan: Plan, results: Results) -> Report:
    """With a tenth of its budget, after how many evaluations others are as fast as `colocrl`.

    Its heuristics count for `modern`, which starts from them, and not for who starts from nothing.
    """
    rows: list[tuple[object, ...]] = []
    gains: dict[Subject, dict[str, float]] = {MODERN_POLICY: {}, FROM_NOTHING: {}}
    over_found: dict[str, float] = {}
    for cell, budget in itertools.product(plan.cells, plan.budgets):
        outcomes = [results[run] for run in plan.runs(PAPER, cell, budget)]
        target = float(np.median([_step_time(outcome) for outcome in outcomes]))
        # a median run has found its best by then; the rest of the budget brought it nothing
        found = float(np.median([o.curve[-1][0] if o.curve else np.inf for o in outcomes]))
        needed = {
            subject: float(
                np.median(
                    [
                        outcome.evaluations_until(target)
                        + (outcome.heuristics if subject is MODERN_POLICY else 0)
                        for run in plan.runs(subject, cell, budget // LEAST_GAIN)
                        for outcome in [results[run]]
                    ]
                )
            )
            for subject in gains
        }
        where = f"{cell}, {budget:,} evaluations"
        for subject, evaluations in needed.items():
            gains[subject][where] = budget / evaluations
        over_found[where] = found / needed[MODERN_POLICY] if np.isfinite(found) else np.inf
        start = _starts(plan, results, cell)
        cells = [_count(evaluations, budget // LEAST_GAIN) for evaluations in needed.values()]
        figures = f"{budget:,}", _ms(target), _count(found, budget), _ms(start), *cells
        rows.append((*cell, *figures))
    what = f"as fast as colocrl at the end with {LEAST_GAIN}x fewer evaluations"
    return Report(
        "colocrl",
        [
            *(
                Criterion.at_least(f"{subject.name}: {what}", LEAST_GAIN, found)
                for subject, found in gains.items()
            ),
            Criterion.shown("modern: fewer than colocrl took to find its best", over_found),
        ],
        [
            Table(
                f"Evaluations until as fast as colocrl at the end of its budget, {plan.of_seeds}",
                (
                    *("workload", "cluster", "order", ">budget of colocrl", ">its step time (ms)"),
                    *(">found after", ">best heuristic (ms)"),
                    *(f">{subject.name}" for subject in gains),
                ),
                rows,
            )
        ],
    )


def speed(plan: Plan, results: Results) -> Report:
    """How long training takes, and who spends the time."""
    rows: list[tuple[object, ...]] = []
    criteria = []
    for cell, budget in itertools.product(plan.cells, plan.budgets):
        slowest, heuristics = max(
            (
                (results[run], results.start(run).seconds)
                for run in plan.runs(MODERN_POLICY, cell, budget)
            ),
            key=lambda pair: pair[0].seconds + pair[1],
        )
        simulator = slowest.evaluation_seconds or 0.0
        policy = slowest.seconds - simulator
        total = heuristics + slowest.seconds
        seconds = (f"{part:.1f}" for part in (heuristics, simulator, policy, total))
        load = f"{slowest.load_average:.1f}"
        rows.append((*cell, f"{budget:,}", *seconds, f"{policy / total:.0%}", load))
        criteria.append(
            Criterion(
                f"{budget:,} evaluations of {cell}: under {_MOST_SECONDS} s",
                f"{total:.1f} s, of which the policy takes {policy / total:.0%}",
                total < _MOST_SECONDS if budget == SPEED_BUDGET else None,
            )
        )
    return Report(
        "speed",
        criteria,
        [
            Table(
                f"Seconds of modern, one run at a time, the slowest of {plan.seeds}",
                (
                    *("workload", "cluster", "order", ">evaluations", ">heuristics", ">simulator"),
                    *(">policy", ">all", ">share of the policy", ">load average"),
                ),
                rows,
            )
        ],
    )


def ablations(plan: Plan, results: Results) -> Report:
    """The step times of `modern` with one thing changed over those of `modern`."""
    tables, medians = [], {}
    for budget in plan.budgets:
        rows: list[tuple[object, ...]] = []
        for subject in VARIANTS:
            ratios = np.array(  # [cells, seeds]
                [
                    _ratios(
                        _step_times(results, plan.runs(subject, cell, budget)),
                        _step_times(results, plan.runs(MODERN_POLICY, cell, budget)),
                    )
                    for cell in plan.cells
                ]
            )
            means = np.array([_geometric_mean(of_seed) for of_seed in ratios.T])
            medians[f"{subject.name}, {budget:,} evaluations"] = float(np.median(means))
            rows.append(
                (
                    subject.name,
                    ", ".join(f"`{k} = {v!r}`" for k, v in ABLATIONS[subject.name].items()),
                    *(f"{np.median(of_cell):.3f}" for of_cell in ratios),
                    f"{np.median(means):.3f}",
                    f"{means.min():.3f} to {means.max():.3f}",
                )
            )
        tables.append(
            Table(
                f"Step time over that of modern with the same seed, {budget:,} evaluations, "
                f"{plan.of_seeds}",
                ("changed", "setting", *(f">{cell}" for cell in plan.cells), ">all", ">interval"),
                rows,
            )
        )
    return Report("ablations", [Criterion.shown("the change that helps most", medians)], tables)


def _columns(plan: Plan) -> tuple[str, ...]:
    return ("workload", "cluster", "order", *(f">{budget:,}" for budget in plan.budgets))


def _medians(plan: Plan, results: Results, subject: Subject) -> Floats:
    """Median step times over seeds, ``[cells, budgets]``."""
    return np.array(
        [
            [np.median(_step_times(results, plan.runs(subject, cell, b))) for b in plan.budgets]
            for cell in plan.cells
        ]
    )


def _step_time(outcome: Outcome) -> float:
    """Infinite where nothing was feasible."""
    return np.inf if outcome.step_time_seconds is None else outcome.step_time_seconds


def _step_times(results: Results, runs: Iterable[Run]) -> Floats:
    return np.array([_step_time(results[run]) for run in runs])


def _starts(plan: Plan, results: Results, cell: Cell) -> float:
    """The median step time of the best heuristic."""
    runs = plan.runs(MODERN_POLICY, cell, 1)
    return float(np.median([results.start(run).step_time_seconds for run in runs]))


def _ratios(above: Floats, below: Floats) -> Floats:
    """Quotients; 1 where both are equal, also where both are infinite."""
    equal = above == below
    return np.where(equal, 1.0, above / np.where(equal, 1.0, below))


def _geometric_mean(ratios: Floats) -> float:
    return float(np.exp(np.log(ratios).mean()))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if np.isfinite(seconds) else "-"


def _count(evaluations: float, most: int) -> str:
    return f"{evaluations:,.0f}" if np.isfinite(evaluations) else f"not in {most:,}"
