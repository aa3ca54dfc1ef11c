"""Whether learning is worth it: ``python -m tests.benchmarks.learning --out DIR``.

All parts take hours; ``--only PART`` does less, and so do ``--seeds`` and the lists of workloads,
clusters, orders and budgets. What the folder has is not run again: killed and called again, it goes
on where it stopped. A folder is for one state of the program: changed settings are other runs, but
changed code is not noticed. ``--page`` writes the tables into ``docs/learning.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.comparison import parse_budgets, parse_orders
from placer import files
from placer.cluster import Cluster
from placer.errors import PlacerError
from placer.graph import OpGraph
from tests.benchmarks import learning_reports
from tests.benchmarks.learning_plan import (
    ANNEALING,
    FROM_NOTHING,
    LEARNED,
    LEAST_GAIN,
    MODERN_POLICY,
    PAPER,
    SPEED_BUDGET,
    VARIANTS,
    WALK,
    Plan,
    of_transfer,
)
from tests.benchmarks.learning_runs import Results, Run
from tests.benchmarks.measuring import Report
from tests.benchmarks.simulator import rewrite

PAGE = Path(__file__).parents[2] / "docs" / "learning.md"


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


PARTS: Mapping[str, Part] = {
    "annealing": Part(
        Plan(), lambda plan: plan.of_all(ANNEALING, *LEARNED, WALK), learning_reports.annealing
    ),
    "transfer": Part(
        Plan(("nmt", "resnet50"), budgets=(300, 3_000)),
        lambda plan: [
            run
            for cell in plan.cells
            for _, subject, budget in of_transfer(plan)
            for run in plan.runs(subject, cell, budget)
        ],
        learning_reports.transfer,
    ),
    "colocrl": Part(
        Plan(budgets=(10_000,)),
        lambda plan: [
            *plan.of_all(MODERN_POLICY, FROM_NOTHING, share=LEAST_GAIN),
            *plan.of_all(PAPER),
        ],
        learning_reports.colocrl,
    ),
    "speed": Part(
        Plan(("rnnlm",), ("p100x4",), ("fifo",), (SPEED_BUDGET,)),
        lambda plan: plan.of_all(MODERN_POLICY),
        learning_reports.speed,
        timed=True,
    ),
    "ablations": Part(
        Plan(clusters=("p100x4",), orders=("fifo",), budgets=(1_000,)),
        lambda plan: plan.of_all(MODERN_POLICY, *VARIANTS),
        learning_reports.ablations,
    ),
}


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
