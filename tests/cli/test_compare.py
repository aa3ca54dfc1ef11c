"""`placer compare`: lines, tables, files, and going on after being killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from experiments.comparison import parse_methods
from placer import Simulator
from placer.heuristics import HEURISTICS
from placer.strategies import STRATEGIES
from tests.experiments.builders import cluster, graph

ON_TINY = ["--graph", "g.json", "--cluster", "c.toml"]


def test_a_line_per_run(placer) -> None:
    """One JSON object per workload, cluster, method, budget and seed, and the same as CSV."""
    arguments = ["--methods", "single_device,heft,random", "--evaluations", "60", "--seeds", "2"]
    result = placer("compare", *ON_TINY, *arguments, "--out", "c", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in ("single_device", "heft", "random") for seed in (0, 1)
    ]
    assert {
        (row["workload"], row["cluster"], row["order"], row["evaluations"]) for row in rows
    } == {("chains", "pair", "fifo", 60)}
    alone = Simulator(graph(), cluster()).step_time(np.full(14, 1))
    assert rows[0]["step_time_seconds"] == alone
    assert rows[0]["speedup"] == 1
    assert rows[0]["found_by"] == "single_device:gpu:0"
    assert rows[0]["gap"] > 0
    # a strategy that does worse than the heuristics is not hidden behind them
    assert rows[4]["found_by"] == "random"
    assert rows[4]["step_time_seconds"] > min(row["step_time_seconds"] for row in rows[:4])
    with Path("c/runs.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["step_time_seconds"]) for row in written] == [
        row["step_time_seconds"] for row in rows
    ]


def test_the_folder(placer) -> None:
    """Tables and plots; asked again, all is there, and the table is the same."""
    arguments = ["--methods", "single_device,random", "--evaluations", "40,60", "--seeds", "2"]
    first = placer("compare", *ON_TINY, *arguments, "--order", "fifo,priority", "--out", "c")
    assert first.exit_code == 0
    names = ["evaluations.png", "runs.csv", "runs.jsonl", "seconds.png", "summary.json"]
    assert sorted(path.name for path in Path("c").iterdir()) == names
    summary = json.loads(Path("c/summary.json").read_text())
    assert [(row["order"], row["method"], row["budget"]) for row in summary] == [
        (order, *method)
        for order in ("fifo", "priority")
        for method in (("single_device", 40), ("random", 40), ("random", 60))
    ]
    lines = Path("c/runs.jsonl").read_bytes()
    pictures = Path("c/seconds.png").read_bytes()
    again = placer("compare", *ON_TINY, *arguments, "--order", "fifo,priority", "--out", "c")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert Path("c/runs.jsonl").read_bytes() == lines
    assert Path("c/seconds.png").read_bytes() == pictures


def test_a_table(placer) -> None:
    """It has best, median, interval, what it took and the gap; what does not fit says why."""
    cluster(memory_bytes=7e6).save("c.toml")
    result = placer("compare", *ON_TINY, "--methods", "single_device,heft", "--evaluations", "9")
    assert "chains on pair, single_device: none found: single_device:cpu:0" in result.stdout
    columns = ("evaluations", "seeds", "best", "median", "interval", "speedup", "gap", "seconds")
    assert result.stdout.split("method")[1].split()[: len(columns)] == list(columns)


def test_no_memory_at_all(placer, folder: Path) -> None:
    """Which ops, and how many bytes."""
    cluster(memory_bytes=3e6).save("c.toml")
    result = placer("compare", *ON_TINY, "--out", "c")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "error: chains does not fit pair: ops that may go to cpu:0, gpu:0, gpu:1 have 12,000,000 "
        "bytes of variables, all of that 9,000,000 of memory: 3,000,000 too many; by op: 'a0' ("
    )
    assert not Path("c").exists()


def test_names_tell_what_is_compared_apart(placer, folder: Path) -> None:
    """Two clusters of one name are refused if they differ; the same one twice is one."""
    cluster(memory_bytes=2e9).save("d.toml")
    on = ["--graph", "g.json", "--methods", "heft", "--json"]
    result = placer("compare", *on, "--cluster", "c.toml, d.toml", "--out", "c")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: two clusters that differ are named 'pair'; expected")
    assert not Path("c").exists()
    result = placer("compare", *on, "--cluster", "c.toml, c.toml")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)


def test_a_failure_is_said(placer, monkeypatch) -> None:
    """On stderr, with exit code 1; the other rows are there."""
    from experiments.comparison import runner

    def fail(problem, task):
        raise RuntimeError("no bound today")

    monkeypatch.setattr(runner, "_bound", fail)
    result = placer("compare", *ON_TINY, "--methods", "heft", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["step_time_seconds"]
    assert "failed: lower_bound, seed 0: RuntimeError: no bound today" in result.stderr


def test_all_methods_are_known() -> None:
    """`all` is every heuristic and strategy."""
    assert set(parse_methods("all")) == {*HEURISTICS, *STRATEGIES}


def test_killed_and_begun_again(folder: Path) -> None:
    """With no warning, while processes work: what was finished is not run again."""
    root = str(Path(__file__).parents[2])
    arguments = ["--methods", "random,hill_climbing", "--evaluations", "2000", "--seeds", "4"]
    command = [sys.executable, "-c", "from experiments.cli import main; main()", "compare"]
    command += [*ON_TINY, *arguments, "--jobs", "2", "--out", "c", "--json"]
    environment = {**os.environ, "PYTHONPATH": root}
    journal = Path("c/runs.jsonl")
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = journal.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    after = journal.read_bytes()
    assert after.startswith(before)
    tasks = [json.dumps(json.loads(line)["task"]) for line in after.splitlines()]
    assert len(set(tasks)) == len(tasks)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(row["method"], row["seed"]) for row in rows} == {
        (method, seed) for method in ("random", "hill_climbing") for seed in range(4)
    }
    assert all(row["step_time_seconds"] for row in rows)
