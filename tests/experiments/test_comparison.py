"""Comparisons: what is run, what is not run again, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from experiments import comparison, tables
from experiments.comparison import Comparison, ComparisonRow, Journal, runner, summarize
from experiments.comparison.shortage import find_shortage
from experiments.comparison.summaries import write_summaries
from experiments.comparison.tasks import BOUND, Outcome, Setting
from placer.api import best_heuristic, solve
from placer.cluster import Cluster, Device, Link
from placer.errors import FormatError, InfeasibleError, UnknownNameError, UsageError
from placer.graph import Op, OpGraph
from placer.heuristics import HEURISTICS, HeuristicResult, evaluate_heuristics, with_order_of
from placer.problem import Problem, SearchResult
from tests.experiments.builders import cluster, graph

METHODS = ("single_device", "random", "hill_climbing")


def small(**changes: object) -> Comparison:
    asked: dict[str, object] = {
        "graphs": [graph()],
        "clusters": [cluster()],
        "methods": METHODS,
        "evaluations": (60,),
        "num_seeds": 2,
    }
    return Comparison(**{**asked, **changes})


def rows_of(asked: Comparison, journal: Journal | None = None) -> list[ComparisonRow]:
    """Sorted, and without what depends on the clock."""
    rows = asked.sort(comparison.compare(asked, journal or Journal()))
    return [msgspec.structs.replace(row, seconds=0.0) for row in rows]


def test_a_row_for_each_run() -> None:
    """Methods, budgets, orders and seeds in the order asked for; figures that belong together."""
    asked = small(evaluations=(40, 60), orders=("fifo", "priority"))
    rows = rows_of(asked)
    assert len(rows) == asked.num_rows == 2 * 3 * 2 * 2
    assert [(r.order, r.method, r.evaluations, r.seed) for r in rows] == [
        (order, method, evaluations, seed)
        for order in ("fifo", "priority")
        for method in METHODS
        for evaluations in (40, 60)
        for seed in (0, 1)
    ]
    for row in rows:
        assert row.lower_bound_seconds <= row.step_time_seconds
        assert row.gap == row.step_time_seconds / row.lower_bound_seconds - 1
        if row.method in ("random", "hill_climbing"):
            assert row.evaluations_used <= row.evaluations
    assert rows[0].evaluations_used == 3
    assert rows[0].speedup == 1


@pytest.mark.parametrize("memory_bytes", [1e9, 7e6])
def test_a_strategy_does_as_in_solve(memory_bytes: float) -> None:
    """The same start, budget and seed, so the same placement; where nothing fits alone, too."""
    devices = cluster(memory_bytes=memory_bytes)
    problem = Problem.build(graph(), devices)
    for row in rows_of(small(methods=("hill_climbing",), clusters=[devices])):
        solution = solve(problem, strategy="hill_climbing", evaluations=60, seed=row.seed)
        assert solution.search is not None
        assert row.step_time_seconds == solution.search.step_time_seconds
        assert row.evaluations_used == solution.evaluations
        assert (row.found_by == "hill_climbing") == (solution.found_by == "hill_climbing")


def test_a_heuristic_does_as_in_solve() -> None:
    names = tuple(name for name in HEURISTICS if name != "random")
    rows = rows_of(small(methods=names, num_seeds=1))
    heuristics = solve(Problem.build(graph(), cluster()), strategy="random").heuristics
    for row in rows:
        best = best_heuristic([h for h in heuristics if h.name.split(":")[0] == row.method])
        assert row.step_time_seconds == (best.step_time_seconds if best else None)


def test_a_budget_that_the_heuristics_take() -> None:
    (row,) = rows_of(small(methods=("hill_climbing",), evaluations=(2,), num_seeds=1))
    assert row.step_time_seconds is None
    assert "all of the budget or more" in row.infeasible_because


def test_what_was_run_is_not_run_again(tmp_path: Path, monkeypatch) -> None:
    """Stopped at any row and begun again: each task is done once, and the rows are the same."""
    expected = rows_of(small())
    done = []
    original = runner.Runner.__call__

    def call(self, piece):
        done.append(piece.task)
        return original(self, piece)

    monkeypatch.setattr(runner.Runner, "__call__", call)
    path = tmp_path / "runs.jsonl"
    for _ in range(4):
        for number, _ in enumerate(comparison.compare(small(), Journal(path))):
            if number == 1 + len(done) // 8:
                break
    rows = rows_of(small(), Journal(path))
    assert rows == expected
    assert len(set(done)) == len(done)
    assert len(path.read_text().splitlines()) == len(done)
    assert rows_of(small(), Journal(path)) == expected
    assert len(set(done)) == len(done)
    # more seeds, and only those are run
    num_done = len(done)
    rows_of(small(num_seeds=3), Journal(path))
    assert {task.seed for task in done[num_done:]} == {2}
    # each row can be had alone
    alone = rows_of(small(methods=("hill_climbing",)))
    assert alone == [row for row in expected if row.method == "hill_climbing"]


def test_a_line_cut_off_is_run_again(tmp_path: Path) -> None:
    """As a kill while a line is written leaves it."""
    path = tmp_path / "runs.jsonl"
    expected = rows_of(small(), Journal(path))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert len(Journal(path).outcomes) == content.count(b"\n") - 1
    assert rows_of(small(), Journal(path)) == expected
    lines = path.read_bytes().splitlines()
    assert len(lines) == content.count(b"\n")
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize("line", ["{}", "a journal", '{"task": 3}'])
def test_a_file_of_something_else(tmp_path: Path, line: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(FormatError, match=r"runs\.jsonl:1: "):
        Journal(path)


def test_a_failure_does_not_end_the_others(tmp_path: Path, monkeypatch) -> None:
    """It is said, with what depends on it; the next time it is tried again."""
    path = tmp_path / "runs.jsonl"
    original = runner._run_heuristic

    def fail(problem, task):
        if task.method == "metis" and task.seed == 1:
            raise MemoryError("too little")
        return original(problem, task)

    monkeypatch.setattr(runner, "_run_heuristic", fail)
    asked = small(methods=("metis", "heft", "hill_climbing"))
    journal = Journal(path)
    rows = rows_of(asked, journal)
    assert [(row.method, row.seed) for row in rows if row.failed_because] == [
        ("metis", 1),
        ("hill_climbing", 1),
    ]
    assert rows[1].failed_because == "MemoryError: too little"
    assert "metis, which comes before it, has failed" in rows[5].failed_because
    assert [summary.num_feasible for summary in summarize(rows)] == [1, 2, 1]
    monkeypatch.setattr(runner, "_run_heuristic", original)
    assert not any(row.failed_because for row in rows_of(asked, Journal(path)))


def test_processes_find_the_same() -> None:
    """Two at once, or all here: the same rows, but for the clock."""
    asked = small(methods=("single_device", "hill_climbing"), num_seeds=1)
    rows = asked.sort(comparison.compare(asked, Journal(), jobs=2))
    assert [msgspec.structs.replace(row, seconds=0.0) for row in rows] == rows_of(asked)


def two(memory_bytes: float, *, cpu_bytes: float = float("inf")) -> Cluster:
    """A CPU and a GPU."""
    devices = (
        Device("cpu:0", "cpu", memory_bytes=cpu_bytes, flops=1e9),
        Device("gpu:0", "gpu", memory_bytes=memory_bytes, flops=1e9),
    )
    return Cluster("two", devices, (Link(("cpu:0", "gpu:0"), 1e9),))


def test_a_shortage_names_ops_and_bytes() -> None:
    """Of one op group, and of all that may only run on some devices."""
    ops = [
        Op(name, "Op", parameter_bytes=size, device_kinds=("gpu",), colocation_group=group)
        for name, size, group in (("a", 60, "x"), ("b", 50, "x"), ("c", 30, None))
    ]
    ops += [Op(name, "Op", parameter_bytes=500) for name in ("d", "e")]
    problem = OpGraph.from_ops("g", ops)
    assert find_shortage(problem, two(140)) is None
    assert find_shortage(problem, two(139)) == (
        "g does not fit two: ops that may go to gpu:0 have 140 bytes of variables, all of that 139 "
        "of memory: 1 too many; by op: 'a' (60), 'b' (50), 'c' (30)"
    )
    assert find_shortage(problem, two(100)) == (
        "g does not fit two: op group 'x' has 110 bytes of variables, the largest device that may "
        "hold it 100 of memory: 10 too many; by op: 'a' (60), 'b' (50)"
    )
    assert find_shortage(problem, two(200, cpu_bytes=900)) == (
        "g does not fit two: ops that may go to cpu:0, gpu:0 have 1,140 bytes of variables, all of "
        "that 1,100 of memory: 40 too many; by op: 'd' (500), 'e' (500), 'a' (60) and 2 more"
    )


def test_a_setting_without_memory_says_so_and_the_others_go_on() -> None:
    tight = cluster(memory_bytes=3e6)
    tight = Cluster("tight", tight.devices, tight.links)
    rows = rows_of(small(clusters=[tight, cluster()], methods=("single_device",)))
    assert [row.cluster for row in rows] == ["tight", "tight", "pair", "pair"]
    assert "12,000,000 bytes of variables, all of that 9,000,000" in rows[0].infeasible_because
    assert rows[2].step_time_seconds
    with pytest.raises(InfeasibleError, match="3,000,000 too many"):
        rows_of(small(clusters=[tight]))


def test_a_setting_without_a_device_for_an_op_ends_no_other() -> None:
    """A cluster of CPUs for a graph that needs a GPU."""
    needs_gpu = OpGraph.from_ops("g", [Op("a", "Op", flops=1e6, device_kinds=("gpu",))])
    cpus = [Device(f"cpu:{i}", "cpu", flops=1e9) for i in range(2)]
    clusters = [Cluster("cpus", cpus, (Link(("cpu:0", "cpu:1"), 1e9),)), two(1e9)]
    asked = small(graphs=[needs_gpu], clusters=clusters, methods=("heft",), num_seeds=1)
    lacking, fine = rows_of(asked)
    assert "g does not fit cpus: op 'a' needs a device of kind gpu" in lacking.infeasible_because
    assert fine.step_time_seconds


def test_curves_begin_at_the_first_feasible_placement() -> None:
    """A point wherever the best changes, and one at the end."""
    best = np.array([np.inf, np.inf, 3.0, 3.0, 2.0, 2.0])
    seconds = np.arange(1.0, 7.0)
    found = SearchResult("s", np.zeros(1, np.int32), 2.0, 6, 6.5, best, seconds)
    assert runner._curve(found, 10, 6.5) == [(13, 3.0, 3.0), (15, 5.0, 2.0), (16, 6.5, 2.0)]


def test_a_start_that_lacks_memory_keeps_its_order(monkeypatch) -> None:
    """As in solve, the search goes on in the order of the candidate that lacks the least."""
    setting = Setting(graph(), cluster(), "priority", None)
    problem = Problem.build(graph(), cluster(), order="priority")
    choices = np.zeros(problem.num_groups, np.int32)
    lacking = [
        HeuristicResult(name, choices, np.inf, False, "no memory", excess)
        for name, excess in (("heft", 9.0), ("heft:own_order", 5.0))
    ]
    searched = []

    def search(problem, **options):
        searched.append(problem.priorities)
        raise InfeasibleError("none fits")

    monkeypatch.setattr(runner, "evaluate_heuristics", lambda *arguments: lacking)
    monkeypatch.setattr(runner, "resolve", lambda *arguments: search)
    start = runner._run_heuristic(problem, setting.task("heft"))
    runner._run_search(problem, setting.task("hill_climbing", 0, 60), [start])
    (priorities,) = searched
    assert np.array_equal(priorities, with_order_of("heft:own_order", problem).priorities)


def test_summaries() -> None:
    """Best, median and range over seeds; heuristics once, whatever the budgets."""
    asked = small(evaluations=(40, 60), num_seeds=3)
    rows = rows_of(asked)
    summaries = summarize(rows)
    assert [(s.method, s.budget) for s in summaries] == [
        ("single_device", 40),
        *((method, budget) for method in METHODS[1:] for budget in (40, 60)),
    ]
    times = [r.step_time_seconds for r in rows if r.method == "random" and r.evaluations == 60]
    found = summaries[2]
    assert (found.best_seconds, found.high_seconds) == (min(times), max(times))
    assert found.median_seconds == np.median(times)
    assert found.gap == min(times) / found.lower_bound_seconds - 1
    assert (found.num_seeds, found.num_feasible, found.evaluations) == (3, 3, 60)


@pytest.mark.parametrize(
    ("times", "median", "speedup"),
    [
        ([1.0, 2.0, 4.0], 2.0, 2.0),
        ([1.0, None, 2.0], 2.0, 2.0),
        ([1.0, None, None], None, None),
        ([1.0, None], None, None),
        ([None, None], None, None),
    ],
)
def test_a_seed_that_finds_nothing_is_the_slowest(
    times: list[float | None], median: float | None, speedup: float | None
) -> None:
    """So that a method that seldom finds anything has no better median for it."""
    given, *_ = rows_of(small(methods=("single_device",), num_seeds=1))
    rows = [
        msgspec.structs.replace(
            given, seed=seed, step_time_seconds=time, speedup=None if time is None else 4.0 / time
        )
        for seed, time in enumerate(times)
    ]
    (found,) = summarize(rows)
    assert found.num_feasible == sum(time is not None for time in times)
    assert found.median_seconds == pytest.approx(median or np.nan, nan_ok=True)
    assert found.speedup == pytest.approx(speedup or np.nan, nan_ok=True)


def test_what_is_refused_has_evaluated_nothing() -> None:
    """A search that says at once that it is not for such a problem costs the heuristics alone."""
    rnnlm, p100x4 = OpGraph.load("rnnlm"), Cluster.load("p100x4")
    asked = small(graphs=[rnnlm], clusters=[p100x4], methods=("exact",), num_seeds=1)
    (refused,) = rows_of(asked)
    heuristics = evaluate_heuristics(Problem.build(rnnlm, p100x4), np.random.default_rng(0))
    assert refused.step_time_seconds is None
    assert refused.evaluations_used == sum(row.choices is not None for row in heuristics)


def test_summaries_are_json_without_nan(tmp_path: Path) -> None:
    rows = rows_of(small(methods=("hill_climbing",), evaluations=(2,)))
    write_summaries(summarize(rows), tmp_path / "s.json")
    (found,) = json.loads((tmp_path / "s.json").read_text())
    assert found["best_seconds"] is None
    assert found["infeasible_because"]


@pytest.mark.parametrize("text", ["", "0", "1,", "-1", "1.5", "many", "200000000"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected whole numbers from 1 to 100,000,000"):
        comparison.parse_budgets(text)


def test_lists() -> None:
    assert comparison.parse_budgets(" 60,9, 60") == (9, 60)
    assert comparison.parse_orders("priority, fifo") == ("fifo", "priority")
    with pytest.raises(UnknownNameError, match="unknown order 'prority'; did you mean 'priority'"):
        comparison.parse_orders("fifo,prority")


def test_the_journal_keeps_all_that_is_known(tmp_path: Path) -> None:
    """What is read is what was written."""
    path = tmp_path / "runs.jsonl"
    journal = Journal(path)
    rows_of(small(num_seeds=1), journal)
    assert Journal(path).outcomes == journal.outcomes
    methods = {task.method for task in journal.outcomes}
    assert methods == {BOUND, "hill_climbing", *HEURISTICS}
    assert all(isinstance(outcome, Outcome) for outcome in journal.outcomes.values())


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.1, 0.1, "100 ms"),
        (0.1, 0.10000001, "100 ms"),
        (0.1, 0.25, "100 to 250 ms"),
        (0.9, 1.5, "900 ms to 1.5 s"),
    ],
)
def test_intervals_in_the_table(low: float, high: float, text: str) -> None:
    """The unit once, if it is the same; one figure, if both look the same."""
    (found, *_) = summarize(rows_of(small(methods=("single_device",), num_seeds=1)))
    row = msgspec.structs.replace(found, best_seconds=low, high_seconds=high)
    assert tables._interval(row) == text
