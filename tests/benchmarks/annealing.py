"""How much faster annealing is by exact moves: ``python -m tests.benchmarks.annealing``.

Annealing tries its moves through the simulator's session for moves. Here it also runs with an
evaluator that has none, so that each move is a full simulation of a placement; both must accept the
same moves. ``docs/searches.md`` shows the figures; ``--write`` puts them there. It
takes some eight minutes and wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from placer import files
from placer.grouping import OpGroups
from placer.placement import Evaluations
from placer.problem import Problem
from placer.search.annealing import search
from placer.simulator import Simulator
from tests.benchmarks.families import make_cluster
from tests.benchmarks.measuring import Criterion, Report, Table
from tests.benchmarks.simulator import rewrite
from tests.benchmarks.workbench import MODELS, Model, workload

PAGE = Path(__file__).parents[2] / "docs" / "searches.md"
KINDS = ("single ops", "op groups")
_LEAST_GAIN = 20


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        num_ops: Ops of the graphs, about.
        devices: Numbers of devices.
        evaluations: Budget of each run.
        seeds: Runs of each kind, of which the median is shown.
    """

    num_ops: int
    devices: tuple[int, ...]
    evaluations: int
    seeds: int


FULL = Scale(10_000, (2, 8), evaluations=3000, seeds=3)
QUICK = Scale(1_000, (2,), evaluations=200, seeds=1)


class FullRuns:
    """An evaluator that simulates whole placements and has no session for moves."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def evaluate(self, placements: NDArray[np.int32]) -> Evaluations:
        """As the simulator."""
        return self.simulator.evaluate(placements)


class _Gain(NamedTuple):
    """Microseconds per evaluation of annealing, and whether both found the same."""

    full: float
    session: float
    same: bool


def annealing(scale: Scale) -> Report:
    """Annealing by full runs and by moves, on the families of graphs."""
    rows: list[tuple[object, ...]] = []
    ratios: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    same: list[bool] = []
    for model in MODELS:
        for num_devices in scale.devices:
            for kind in KINDS:
                gains = _measure(model, num_devices, kind, scale)
                full = float(np.median([gain.full for gain in gains]))
                session = float(np.median([gain.session for gain in gains]))
                ratios[kind][f"{model}, {num_devices} devices"] = full / session
                same += [gain.same for gain in gains]
                figures = f"{full:,.1f}", f"{session:,.1f}", f"{full / session:.1f}x"
                rows.append((*model.words(), num_devices, kind, *figures))
    equal = Criterion(
        "the accepted moves are those of full runs",
        f"{sum(same)} of {len(same)} runs are equal",
        all(same),
    )
    what = f"annealing by moves, {scale.num_ops:,} ops"
    return Report(
        "annealing",
        [
            *(
                Criterion.at_least(f"{what}, {kind}: at least {_LEAST_GAIN}x", _LEAST_GAIN, found)
                for kind, found in ratios.items()
            ),
            equal,
        ],
        [
            Table(
                f"Annealing, {scale.num_ops:,} ops, {scale.evaluations:,} evaluations, fifo; µs each",
                ("graph", "direction", ">devices", "moves of", ">full runs", ">session", ">gain"),
                rows,
            )
        ],
    )


def _measure(model: Model, num_devices: int, kind: str, scale: Scale) -> list[_Gain]:
    """A gain per seed, each from another placement; a shorter run before is not counted."""
    work = workload(model, scale.num_ops)
    groups = work.groups
    if kind == "single ops":
        graph = work.graph
        groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    cluster = make_cluster(num_devices)
    by_session = Problem(work.graph, cluster, groups, Simulator(work.graph, cluster))
    by_full_runs = dataclasses.replace(
        by_session, evaluator=FullRuns(Simulator(work.graph, cluster))
    )
    first_op = np.array([ops[0] for ops in groups.ops_of_group])
    starts = work.placements("grouped", num_devices, scale.seeds + 1, seed=0)[:, first_op]
    gains = []
    for seed, start in enumerate(starts):
        budget = scale.evaluations if seed else max(2, scale.evaluations // 10)
        results, taken = [], []
        for problem in (by_full_runs, by_session):
            began = time.process_time()
            results.append(search(problem, evaluations=budget, seed=seed, start=start))
            taken.append((time.process_time() - began) / budget * 1e6)
        same = np.array_equal(results[0].choices, results[1].choices) and np.array_equal(
            results[0].best_so_far, results[1].best_so_far
        )
        gains.append(_Gain(*taken, same))
    return gains[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the section of the page."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.annealing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small graphs, few evaluations")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    options = parser.parse_args(arguments)
    if options.quick and options.write:
        parser.error("--write wants the whole benchmark; leave out --quick")
    report = annealing(QUICK if options.quick else FULL)
    print(report.markdown())
    if options.write:
        files.write_bytes(PAGE, rewrite(PAGE.read_text(), [report]).encode())


if __name__ == "__main__":
    main()
