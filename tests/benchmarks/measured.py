"""Learns where to run the branches of a model from measured step times, and shows that it pays.

``python -m tests.benchmarks.measured --out DIR``: two worker processes of this machine, a core each,
first equal, then with one that may run half of the time. For each, the devices are calibrated,
``placer train --evaluator measured`` learns, and the placement that it learned is measured in turn
with each device alone. Given the same folder again, it goes on where it stopped. It takes
minutes, on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import terminal
from experiments.cli import app
from experiments.fidelity import FidelityFolder
from experiments.measuring import MeasuringConfig, busy_note
from experiments.run import RunFolder
from experiments.simulation import everything_on
from placer.placement import Placement
from placer.tf import Measurement
from tests.benchmarks.measuring import Criterion, Table, criteria_table, describe_machine

REPETITIONS = 5
PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Setting:
    """Workers, and what is expected on them.

    Attributes:
        name: What to call it.
        shares: The share of the time that each worker may run.
        least: How much faster than the best device alone the learned placement must be.
    """

    name: str
    shares: tuple[float, ...]
    least: float


SETTINGS = (Setting("equal", (1.0, 1.0), 1.4), Setting("throttled", (1.0, 0.5), 1.2))


def learn(setting: Setting, config: MeasuringConfig, folder: Path, evaluations: int) -> RunFolder:
    """Calibrates the workers and learns on them, unless that is done."""
    model = FidelityFolder(folder)  # keeps a profiled graph and a calibrated cluster

    def calibrate():
        with config.open_workers() as workers:
            return config.calibrate(workers)

    model.model(calibrate)
    run = RunFolder(folder / "run")
    sizes = [f"--size={name}={value}" for name, value in config.sizes.items()]
    command = [
        *("train", "--evaluator", "measured", "--workload", config.workload, *sizes),
        *("--graph", folder / "graph.json.gz", "--cluster", folder / "cluster.toml"),
        *("--workers", config.workers, "--shares", ",".join(map(str, setting.shares))),
        *("--steps", config.steps, "--evaluations", evaluations, "--resume", "--out", run.path),
        *("--patience", PATIENCE_SECONDS),
    ]
    call(command)
    return run


def call(command: Sequence[object]) -> None:
    """Calls ``placer``, and ends where it fails or is interrupted; it has said why."""
    words = [str(word) for word in command]
    print("placer", *words, flush=True)
    if code := app(words, standalone_mode=False):
        sys.exit(code)


def repeat(config: MeasuringConfig, run: RunFolder) -> dict[str, list[Measurement]]:
    """Measures the learned placement and each device alone in turn, by what to call them.

    They take turns, so that what slows the machine slows all of them.
    """
    cluster = run.read_cluster()
    with (
        config.open_workers() as workers,
        config.open_evaluator(cluster, workers, patience_seconds=PATIENCE_SECONDS) as evaluator,
    ):
        learned = Placement.load(run.placement, run.read_graph(), cluster)
        placements = {
            "learned": Placement(evaluator.graph, cluster, learned.devices),
            **{
                f"{name} alone": everything_on(name, evaluator.graph, cluster)
                for name in cluster.device_names
            },
        }
        found: dict[str, list[Measurement]] = {name: [] for name in placements}
        for _ in range(REPETITIONS):
            for name, placement in placements.items():
                found[name].append(evaluator.measure(placement, again=True))
    return found


def judge(setting: Setting, found: dict[str, list[Measurement]]) -> Criterion:
    """Whether what was learned is as much faster as it must be, in all repetitions but one.

    Not judged where the machine was too busy to tell.
    """
    alone = [measurements for name, measurements in found.items() if name != "learned"]
    best = np.min([[m.step_time_seconds for m in of_device] for of_device in alone], axis=0)
    speedups = best / np.array([m.step_time_seconds for m in found["learned"]])
    note = busy_note([m for measurements in found.values() for m in measurements])
    holds = bool((speedups >= setting.least).sum() >= REPETITIONS - 1)
    return Criterion(
        f"{setting.name}: at least {setting.least}x the best device alone, in "
        f"{REPETITIONS - 1} of {REPETITIONS} repetitions",
        ", ".join(f"{speedup:.2f}x" for speedup in speedups) + (f"; {note}" if note else ""),
        None if note else holds,
    )


def times_table(setting: Setting, found: dict[str, list[Measurement]]) -> Table:
    """All step times of all repetitions."""
    rows = [
        (
            number,
            name,
            f"{measurement.step_time_seconds * 1e3:.1f}",
            " ".join(f"{seconds * 1e3:.1f}" for seconds in measurement.step_seconds),
        )
        for number in range(REPETITIONS)
        for name, measurement in ((n, measurements[number]) for n, measurements in found.items())
    ]
    columns = (">repetition", "placement", ">median (ms)", "steps (ms)")
    return Table(f"Step times, {setting.name} workers", columns, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns 1 where a criterion does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--evaluations", type=int, default=60, help="measured placements")
    parser.add_argument("--steps", type=int, default=5, help="steps of each measurement")
    parser.add_argument("--num-units", type=int, default=1024, help="width of the model")
    options = parser.parse_args(arguments)
    terminal.load_tensorflow()
    criteria, tables = [], []
    for setting in SETTINGS:
        config = MeasuringConfig(
            "branches",
            {"num_units": options.num_units, "batch_size": options.num_units},
            workers="2",
            shares=setting.shares,
            steps=options.steps,
        )
        run = learn(setting, config, options.out / setting.name, options.evaluations)
        found = repeat(config, run)
        criteria.append(judge(setting, found))
        tables.append(times_table(setting, found))
    text = f"{describe_machine()}\n\n{criteria_table(criteria).markdown()}"
    text += "".join(f"\n{table.title}:\n\n{table.markdown()}" for table in tables)
    print(text)
    (options.out / "measured.md").write_text(text)
    return int(any(criterion.holds is False for criterion in criteria))


if __name__ == "__main__":
    sys.exit(main())
