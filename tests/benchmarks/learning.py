"""Whether learning is worth it: ``python -m tests.benchmarks.learning --out DIR``.

All parts take hours; ``--only PART`` does less, and so do ``--seeds`` and the lists of workloads,
clusters, orders and budgets. What the folder has is not run again: killed and called again, it goes
on where it stopped. A folder is for one state of the program: changed settings are other runs, but
changed code is not noticed. ``--page`` writes the tables into ``docs/learning.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.comparison import parse_budgets, parse_orders
from experiments.workloads import WORKLOADS
from placer import files
from placer.cluster import Cluster
from placer.errors import PlacerError
from placer.graph import OpGraph
from placer.placement import Order
from policies.config import COLOCRL, MODERN
from tests.benchmarks.learning_runs import ZERO_SHOT, Cell, Outcome, Results, Run, Subject
from tests.benchmarks.measuring import Criterion, Report, Table
from tests.benchmarks.simulator import rewrite

Floats = NDArray[np.float64]

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "from nothing: no start, no prior": {"prior_deviations": 0.0},
    "no moves, only samples": {"move_share": 0.0},
    "half moves, half samples": {"move_share": 0.5},
    "moves of single op groups only": {"part_share": 0.0},
    "moves of parts only": {"part_share": 1.0},
    "which moves to try is not learned": {"preference_rate": 0.0},
    "the network does not learn": {"learning_rate": 1e-12},
    "nothing is learned": {"learning_rate": 1e-12, "preference_rate": 0.0},
    "no self-imitation": {"num_elites": 0},
    "moving average as baseline": {"baseline": "moving_average"},
    "no entropy bonus": {"entropy_coef": 0.0},
    "no bias per op group": {"group_bias_rate": 0.0},
    "batch of 32": {"batch_size": 32},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "32 hidden units": {"hidden": 32},
}
"""What differs from `modern`: settings by name."""

_MODERN = Subject("modern", MODERN)
_COLOCRL = Subject("colocrl", COLOCRL)
_FROM_NOTHING = Subject("modern, from nothing", dataclasses.replace(MODERN, prior_deviations=0.0))
_ANNEALING = Subject("annealing")
_PRETRAINED = Subject("pretrained")
_WALK = Subject("walk")
_ZERO_SHOT = Subject(ZERO_SHOT)
_VARIANTS = tuple(
    Subject(name, dataclasses.replace(MODERN, **changes)) for name, changes in ABLATIONS.items()
)

_FROM_SCRATCH = _MODERN.name, _FROM_NOTHING.name
_LEARNED = (_MODERN, _PRETRAINED)  # what is judged by annealing
_SAMPLES = 48  # evaluations of the bundled policy without training
_ZERO_SHOT_RATIO = 1.1  # over training from scratch
_MOST_RATIO = 0.97  # in the geometric mean, to annealing
_WORST_RATIO = 1.05
_LEAST_GAIN = 10  # in evaluations, over the paper's recipe
_MOST_SECONDS = 60
_SPEED_BUDGET = 10_000  # within which time


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        workloads: Names or files of graphs.
        clusters: Names or files of clusters.
        orders: Which ready op a device starts first.
        budgets: Evaluations, heuristics included; each is a run of its own.
        seeds: Seeds are 0 to one less.
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    clusters: tuple[str, ...] = ("p100x4", "v100x8")
    orders: tuple[Order, ...] = ("fifo", "priority")
    budgets: tuple[int, ...] = (300, 1_000, 3_000, 10_000)
    seeds: int = 5

    @property
    def cells(self) -> list[Cell]:
        """Every workload on every cluster in every order."""
        return list(itertools.starmap(Cell, self._product()))

    @property
    def of_seeds(self) -> str:
        """What a figure is of."""
        return "one seed" if self.seeds == 1 else f"medians of {self.seeds} seeds"

    def _product(self) -> Iterable[tuple[str, str, Order]]:
        return itertools.product(self.workloads, self.clusters, self.orders)

    def runs(self, subject: Subject, cell: Cell, budget: int) -> list[Run]:
        """A run for each seed."""
        return [subject.run(cell, budget, seed) for seed in range(self.seeds)]

    def of_all(self, *subjects: Subject, share: int = 1) -> list[Run]:
        """Runs of subjects everywhere, with each budget divided by `share`."""
        return [
            run
            for cell in self.cells
            for budget in self.budgets
            for subject in subjects
            for run in self.runs(subject, cell, budget // share)
        ]


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        plan: How much is run unless less is asked for.
        runs: What is run.
        report: What it shows.
        timed: Whether seconds count: nothing runs beside it, and it keeps runs of its own.
    """

    plan: Plan
    runs: Callable[[Plan], list[Run]]
    report: Callable[[Plan, Results], Report]
    timed: bool = False


def annealing(plan: Plan, results: Results) -> Report:
    """The step times of what learns over that of annealing from the same start.

    The walk alone is shown beside them: what they have over it, they owe to their policies.
    """
    criteria: list[Criterion] = []
    tables = []
    medians = {
        subject: _medians(plan, results, subject) for subject in (_ANNEALING, *_LEARNED, _WALK)
    }
    for subject in (*_LEARNED, _WALK):
        ratios = _ratios(medians[subject], medians[_ANNEALING])
        if subject in _LEARNED:
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
    for subject in _LEARNED:
        over_walk = _geometric_mean(_ratios(medians[subject], medians[_WALK]))
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
    """What the bundled policy is worth on graphs on which it was not trained."""
    tuned, scratch = plan.budgets[0], plan.budgets[-1]
    rows: list[tuple[object, ...]] = []
    over: dict[tuple[str, str], dict[str, float]] = {}
    for cell in plan.cells:
        times = {
            what: float(np.median(_step_times(results, plan.runs(subject, cell, budget))))
            for what, subject, budget in _of_transfer(plan)
        }
        for what, reference in itertools.product(("zero-shot", "trained on"), _FROM_SCRATCH):
            ratios = over.setdefault((what, reference), {})
            ratios[str(cell)] = times[what] / times[reference]
        ratios_here = [f"{ratios[str(cell)]:.3f}" for ratios in over.values()]
        figures = (_ms(seconds) for seconds in (_starts(plan, results, cell), *times.values()))
        rows.append((*cell, *figures, *ratios_here))
    most = {"zero-shot": _ZERO_SHOT_RATIO, "trained on": 1.0}
    return Report(
        "transfer",
        [
            Criterion(
                f"{what}: at most {most[what]} of {scratch:,} evaluations of {reference}",
                f"{_geometric_mean(np.array(list(ratios.values()))):.3f}, worst "
                f"{max(ratios.values()):.3f}: {max(ratios, key=ratios.__getitem__)}",
                max(ratios.values()) <= most[what],
            )
            for (what, reference), ratios in over.items()
        ],
        [
            Table(
                f"Step times in ms, {plan.of_seeds}: of modern with {scratch:,} evaluations, from "
                "the best heuristic and from nothing, of the bundled policy zero-shot with "
                f"{_SAMPLES}, and trained on with {tuned:,}; ratios are to modern, and to modern "
                "from nothing",
                (
                    *("workload", "cluster", "order", ">best heuristic", ">modern"),
                    *(">from nothing", ">zero-shot", ">trained on", ">zero-shot ratio"),
                    *(">from nothing", ">trained on ratio", ">from nothing"),
                ),
                rows,
            )
        ],
    )


def _of_transfer(plan: Plan) -> tuple[tuple[str, Subject, int], ...]:
    """What is compared, as what, with how many evaluations."""
    return (
        (_MODERN.name, _MODERN, plan.budgets[-1]),
        (_FROM_NOTHING.name, _FROM_NOTHING, plan.budgets[-1]),
        ("zero-shot", _ZERO_SHOT, _SAMPLES),
        ("trained on", _PRETRAINED, plan.budgets[0]),
    )


def colocrl(plan: Plan, results: Results) -> Report:
    """With a tenth of its budget, after how many evaluations others are as fast as `colocrl`.

    Its heuristics count for `modern`, which starts from them, and not for who starts from nothing.
    """
    rows: list[tuple[object, ...]] = []
    gains: dict[Subject, dict[str, float]] = {_MODERN: {}, _FROM_NOTHING: {}}
    over_found: dict[str, float] = {}
    for cell, budget in itertools.product(plan.cells, plan.budgets):
        outcomes = [results[run] for run in plan.runs(_COLOCRL, cell, budget)]
        target = float(np.median([_step_time(outcome) for outcome in outcomes]))
        # a median run has found its best by then; the rest of the budget brought it nothing
        found = float(np.median([o.curve[-1][0] if o.curve else np.inf for o in outcomes]))
        needed = {
            subject: float(
                np.median(
                    [
                        outcome.evaluations_until(target)
                        + (outcome.heuristics if subject is _MODERN else 0)
                        for run in plan.runs(subject, cell, budget // _LEAST_GAIN)
                        for outcome in [results[run]]
                    ]
                )
            )
            for subject in gains
        }
        where = f"{cell}, {budget:,} evaluations"
        for subject, evaluations in needed.items():
            gains[subject][where] = budget / evaluations
        over_found[where] = found / needed[_MODERN] if np.isfinite(found) else np.inf
        start = _starts(plan, results, cell)
        cells = [_count(evaluations, budget // _LEAST_GAIN) for evaluations in needed.values()]
        figures = f"{budget:,}", _ms(target), _count(found, budget), _ms(start), *cells
        rows.append((*cell, *figures))
    what = f"as fast as colocrl at the end with {_LEAST_GAIN}x fewer evaluations"
    return Report(
        "colocrl",
        [
            *(
                Criterion.at_least(f"{subject.name}: {what}", _LEAST_GAIN, found)
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
                for run in plan.runs(_MODERN, cell, budget)
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
                total < _MOST_SECONDS if budget == _SPEED_BUDGET else None,
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
        for subject in _VARIANTS:
            ratios = np.array(  # [cells, seeds]
                [
                    _ratios(
                        _step_times(results, plan.runs(subject, cell, budget)),
                        _step_times(results, plan.runs(_MODERN, cell, budget)),
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


PARTS: Mapping[str, Part] = {
    "annealing": Part(Plan(), lambda plan: plan.of_all(_ANNEALING, *_LEARNED, _WALK), annealing),
    "transfer": Part(
        Plan(("nmt", "resnet50"), budgets=(300, 3_000)),
        lambda plan: [
            run
            for cell in plan.cells
            for _, subject, budget in _of_transfer(plan)
            for run in plan.runs(subject, cell, budget)
        ],
        transfer,
    ),
    "colocrl": Part(
        Plan(budgets=(10_000,)),
        lambda plan: [
            *plan.of_all(_MODERN, _FROM_NOTHING, share=_LEAST_GAIN),
            *plan.of_all(_COLOCRL),
        ],
        colocrl,
    ),
    "speed": Part(
        Plan(("rnnlm",), ("p100x4",), ("fifo",), (_SPEED_BUDGET,)),
        lambda plan: plan.of_all(_MODERN),
        speed,
        timed=True,
    ),
    "ablations": Part(
        Plan(("inception_v3", "rnnlm", "transformer"), ("p100x4",), ("fifo",), (1_000,)),
        lambda plan: plan.of_all(_MODERN, *_VARIANTS),
        ablations,
    ),
}


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
    runs = plan.runs(_MODERN, cell, 1)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and prints the tables; 1 where a criterion does not hold."""
    parser = argparse.ArgumentParser(
        prog="tests.benchmarks.learning", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; speed has one")
    parser.add_argument("--seeds", type=int, help="runs of each kind")
    parser.add_argument("--workloads", type=_names, help="names with commas between")
    parser.add_argument("--clusters", type=_names, help="names with commas between")
    parser.add_argument("--orders", help="fifo, priority or both")
    parser.add_argument("--budgets", help="evaluations with commas between")
    parser.add_argument("--page", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    options = parser.parse_args(arguments)
    for name, given in (("jobs", options.jobs), ("seeds", options.seeds)):
        if given is not None and given < 1:
            parser.error(f"--{name} is {given}; expected at least 1")
    try:
        less: dict[str, Any] = {
            "workloads": options.workloads,
            "clusters": options.clusters,
            "orders": options.orders and parse_orders(options.orders),
            "budgets": options.budgets and parse_budgets(options.budgets),
            "seeds": options.seeds,
        }
        for name in options.workloads or ():
            OpGraph.load(name)
        for name in options.clusters or ():
            Cluster.load(name)
    except PlacerError as error:
        parser.error(str(error))
    less = {name: value for name, value in less.items() if value is not None}
    parts = {name: PARTS[name] for name in PARTS if not options.only or name in options.only}
    plans = {name: dataclasses.replace(part.plan, **less) for name, part in parts.items()}
    return run(parts, plans, options.out, options.jobs, write_page=options.page)


def run(
    parts: Mapping[str, Part], plans: Mapping[str, Plan], out: Path, jobs: int, *, write_page: bool
) -> int:
    """Runs parts, and prints and writes what is complete; 1 unless all is well."""
    reports, failures = [], []
    for name, part in parts.items():
        results = Results(out, name) if part.timed else Results(out)
        failed = results.finish(part.runs(plans[name]), 1 if part.timed else jobs)
        failures += failed
        if failed:
            continue
        report = part.report(plans[name], results)
        print(f"\n{name}: {report.markdown()}", flush=True)
        reports.append(report)
    if write_page:
        files.write_bytes(PAGE, rewrite(PAGE.read_text(), reports).encode())
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    missed = any(c.holds is False for report in reports for c in report.criteria)
    return int(missed or bool(failures))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
