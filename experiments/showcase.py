"""What README and docs show: ``python -m experiments.showcase`` runs it all and rewrites it.

Runs go to ``runs/readme``; what is there already is not run again, so that a run that was stopped
goes on where it stood.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.plots import RunCurves, plot_runs
from experiments.run import RunFolder
from experiments.tables import format_seconds
from experiments.training import TrainingResult, new_config, train
from experiments.workloads import WORKLOADS
from placer import files
from placer.api import best_heuristic
from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.problem import Problem

CLUSTERS = ("k80x4", "p100x4", "v100x8")
SEEDS = range(5)
EVALUATIONS = 3000
PICTURED = ("rnnlm", "p100x4")

_ROOT = Path(__file__).parent.parent
_RUNS = _ROOT / "runs" / "readme"
_BEGIN, _END = "<!-- results -->\n", "<!-- /results -->"


def main() -> None:
    """Writes the table and the picture of the README, and what the commands of docs/cli.md print.

    For the table, every workload is trained on every cluster with every seed.
    """
    rows = [row for workload in WORKLOADS for row in _rows(workload)]
    header = (
        "| workload | cluster | one GPU | best heuristic | learned | range | over one GPU | "
        "over the best heuristic |\n|---|---|--:|--:|--:|--:|--:|--:|\n"
    )
    readme = _ROOT / "README.md"
    before, rest = readme.read_text().split(_BEGIN)
    _, after = rest.split(_END)
    text = before + _BEGIN + header + "".join(rows) + _END + after
    files.write_bytes(readme, text.encode())
    pictured = [RunCurves.read(_folder(*PICTURED, seed).path) for seed in SEEDS]
    plot_runs(pictured, _ROOT / "docs" / "reward-curve.png")
    _rewrite_console(_ROOT / "docs" / "cli.md")


def _rewrite_console(page: Path) -> None:
    """Runs the commands in a page's console blocks, in order, and puts what they print below."""
    with tempfile.TemporaryDirectory() as folder:

        def run(line: str) -> str:
            start = [sys.executable, "-c", "from experiments.cli import main; main()"]
            command = [*start, *shlex.split(line)[2:]]
            environment = {**os.environ, "COLUMNS": "130", "PYTHONPATH": str(_ROOT)}
            done = subprocess.run(  # noqa: S603  (commands of our own page)
                command, cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            return "\n".join(row.rstrip() for row in done.stdout.splitlines() if row.strip())

        def rewrite(block: re.Match[str]) -> str:
            lines = [line for line in block[1].splitlines() if line.startswith("$ ")]
            return "```console\n" + "".join(f"{line}\n{run(line)}\n" for line in lines) + "```"

        text = re.sub(r"^```console\n(.*?)^```", rewrite, page.read_text(), flags=re.M | re.S)
    files.write_bytes(page, text.encode())


def _rows(workload: str) -> Iterator[str]:
    """The table's rows of one workload, as they are found."""
    for cluster in CLUSTERS:
        problem = Problem.build(OpGraph.load(workload), Cluster.load(cluster))
        yield _row(workload, cluster, [_train(problem, seed) for seed in SEEDS])


def _train(problem: Problem, seed: int) -> TrainingResult:
    """Trains, or goes on with the run that is there."""
    folder = _folder(problem.graph.name, problem.cluster.name, seed)
    config = new_config(problem, strategy="reinforce", evaluations=EVALUATIONS, seed=seed)
    if folder.is_empty():
        folder.create(config, problem.graph, problem.cluster)
    elif folder.read_config() != config:
        raise SystemExit(f"{folder.path}: a run of another kind; remove it first")
    return train(problem, config, folder)


def _folder(workload: str, cluster: str, seed: int) -> RunFolder:
    return RunFolder(_RUNS / f"{workload}-{cluster}-seed{seed}")


def _row(workload: str, cluster: str, results: list[TrainingResult]) -> str:
    heuristics = results[0].solution.heuristics
    heuristic = best_heuristic(heuristics)
    one_gpu = next(row for row in heuristics if row.name == "single_device:gpu:0")
    times = [r.solution.search.step_time_seconds for r in results if r.solution.search]
    assert heuristic is not None  # noqa: S101  (a single device always fits the bundled graphs)
    learned = float(np.median(times))
    cells = (
        f"`{workload}`",
        f"`{cluster}`",
        format_seconds(one_gpu.step_time_seconds),
        f"{format_seconds(heuristic.step_time_seconds)} ({heuristic.name})",
        format_seconds(learned),
        f"{format_seconds(min(times))} to {format_seconds(max(times))}",
        f"{one_gpu.step_time_seconds / learned:.2f}x",
        f"{heuristic.step_time_seconds / learned:.2f}x",
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
