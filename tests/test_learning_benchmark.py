"""The benchmark of learning runs what is missing, and judges what was found as it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

import placer
from placer import files
from policies.config import MODERN, TrainingConfig
from policies.pretrained import NETWORK, bundled
from tests.benchmarks import learning, learning_plan, learning_runs
from tests.benchmarks.learning_plan import SAMPLES_FROM_NOTHING, Plan
from tests.benchmarks.learning_runs import Cell, Outcome, Results, Run, Start, Subject
from tests.benchmarks.measuring import Criterion, Report
from tests.toys import make_toy

ANNEALING = Subject("annealing")
TRAINED = Subject("modern", dataclasses.replace(MODERN, hidden=4, batch_size=4))


@pytest.fixture
def toy(tmp_path: Path) -> Cell:
    """A toy that is kept in files."""
    problem = make_toy(8, 3)
    problem.graph.save(tmp_path / "toy.json.gz")
    problem.cluster.save(tmp_path / "toy.toml")
    return Cell(str(tmp_path / "toy.json.gz"), str(tmp_path / "toy.toml"), "fifo")


def write(folder: Path, run: Run, curve: list[tuple[int, float]], **facts: float) -> None:
    """Writes a made-up run, after heuristics of 20 evaluations and 1 s that found 4 s."""
    start = Start(*run.cell, run.seed, "expert", 4.0, [0], evaluations=20, seconds=1.0)
    step_time = curve[-1][1] if curve else None
    given = {"seconds": 2.0, "evaluation_seconds": 0.5, "load_average": 0.0, **facts}
    files.append_json_line(folder / "starts.jsonl", start)
    files.append_json_line(folder / "runs.jsonl", Outcome(run, step_time, curve, 20, **given))


def made_up(folder: Path, runs: list[Run], step_time: Callable[[Run], float]) -> Results:
    """Runs that found their best at once."""
    for run in runs:
        write(folder, run, [(1, step_time(run))])
    return Results(folder)


@pytest.mark.parametrize("subject", [ANNEALING, TRAINED], ids=lambda s: s.name)
@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_run_is_what_solve_does(tmp_path: Path, toy: Cell, subject: Subject, order) -> None:
    """The same heuristics, the same start, the same search."""
    from policies.reinforce import search

    def train(problem, **keywords):
        return search(problem, config=subject.config, **keywords)

    cell = toy._replace(order=order)
    run = subject.run(cell, 60, seed=3)
    results = Results(tmp_path / "out")
    assert results.finish([run]) == []
    placement = placer.place(
        cell.workload,
        cell.cluster,
        strategy=train if subject.config else subject.name,
        evaluations=60,
        seed=3,
        order=order,
    )
    found = results[run]
    assert min(found.step_time_seconds, results.start(run).step_time_seconds) == placement.step_time
    assert found.curve[0] == (1, results.start(run).step_time_seconds)
    assert found.curve[-1][1] == found.step_time_seconds
    assert found.curve[-1][0] + found.heuristics <= 60
    assert (found.evaluation_seconds is not None) == bool(subject.config)


def test_nothing_is_run_twice(tmp_path: Path, toy: Cell, monkeypatch) -> None:
    """Killed in the middle of a line, it does only what is missing, and finds the same."""
    runs = Plan((toy.workload,), (toy.cluster,), ("fifo",), (40, 50), seeds=2).of_all(ANNEALING)
    assert len(runs) == 4
    Results(tmp_path).finish([*runs, *runs])
    written = (tmp_path / "runs.jsonl").read_bytes()
    assert written.count(b"\n") == 4
    (tmp_path / "runs.jsonl").write_bytes(written[:-30])
    done: list[Run] = []
    perform = learning_runs.perform
    monkeypatch.setattr(
        learning_runs, "perform", lambda piece: done.append(piece[0]) or perform(piece)
    )
    monkeypatch.setattr(learning_runs, "find_start", None)
    again = Results(tmp_path)
    assert again.finish(runs) == []
    assert done == runs[3:]
    before, now = (
        text.splitlines()[3].split(b'"seconds"')[0]
        for text in (written, (tmp_path / "runs.jsonl").read_bytes())
    )
    assert now == before


def test_settings_tell_runs_apart(toy: Cell) -> None:
    """Other settings are another run, another name for them is not."""
    modern, renamed = Subject("modern", MODERN), Subject("batch of 16", MODERN)
    other = Subject("modern", dataclasses.replace(MODERN, batch_size=8))
    keys = [subject.run(toy, 100, 0).key for subject in (modern, renamed, other, ANNEALING)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert Subject("genetic").run(toy, 100, 0).key != keys[3]


@pytest.mark.parametrize("name", learning.PARTS)
def test_settings_are_kept_as_they_are(name: str) -> None:
    """What is read from the folder trains as what was asked for, under the same key."""
    part = learning.PARTS[name]
    for run in part.runs(dataclasses.replace(part.plan, seeds=1)):
        again = msgspec.json.decode(msgspec.json.encode(run), type=Run)
        assert (again, again.key) == (run, run.key)
        if run.training:
            TrainingConfig(name=run.subject, **again.training)


def test_a_run_that_fails_is_not_kept(tmp_path: Path, toy: Cell, capsys) -> None:
    """The others are, and it is said why."""
    runs = [ANNEALING.run(toy, 5, 0), ANNEALING.run(toy, 50, 0)]
    (failure,) = Results(tmp_path).finish(runs)
    assert "seed 0: UsageError: the heuristics take" in failure
    assert Results(tmp_path)[runs[1]].step_time_seconds
    parts = {"annealing": learning.PARTS["annealing"]}
    plans = {"annealing": Plan((toy.workload,), (toy.cluster,), ("fifo",), (5,), seeds=1)}
    assert learning.run(parts, plans, tmp_path, 1, write_page=False) == 1
    assert "failed: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratios", "verdicts"),
    [
        ([0.95, 0.95], ["ok", "ok"]),
        ([0.99, 0.97], ["MISS", "ok"]),
        ([0.80, 1.06], ["ok", "MISS"]),
        ([1.04, 1.06], ["MISS", "MISS"]),
    ],
)
def test_learning_is_judged_against_annealing(tmp_path: Path, ratios, verdicts) -> None:
    """By the geometric mean of ratios of medians, and by the worst of them."""
    plan = Plan(("rnnlm", "nmt"), ("p100x4",), ("fifo",), (300,), seeds=3)
    of_seed = [1.0, 2.0, 9.0]

    def step_time(run: Run) -> float:
        if run.subject == "annealing":
            return of_seed[run.seed]
        if run.subject == "walk":
            return 4.0
        return ratios[plan.workloads.index(run.workload)] * of_seed[2 - run.seed]

    part = learning.PARTS["annealing"]
    report = part.report(plan, made_up(tmp_path, part.runs(plan), step_time))
    # each of both policies, with this budget and over all budgets; then over the walk
    assert [criterion.verdict() for criterion in report.criteria] == [*(verdicts * 4), "-", "-"]
    assert report.criteria[-1].measured == f"{np.prod(ratios) ** 0.5 / 2:.3f}"
    assert f"{np.prod(ratios) ** 0.5:.3f}" == report.criteria[0].measured
    worst = plan.workloads[int(np.argmax(ratios))]
    assert report.criteria[1].measured == f"{max(ratios):.3f}: {worst} on p100x4, fifo"
    ratio_table, of_pretrained, of_walk, times_table = report.tables
    assert ratio_table.rows == of_pretrained.rows
    assert [row[3] for row in of_walk.rows] == ["2.000"] * 3
    assert [row[3] for row in ratio_table.rows[:2]] == [f"{ratio:.3f}" for ratio in ratios]
    assert times_table.rows[0][3] == (
        f"4000.00 / 2000.00{f' / {ratios[0] * 2000:.2f}' * 2} / 4000.00"
    )


def test_transfer_is_judged_against_training_from_scratch(tmp_path: Path) -> None:
    """By medians, the worst graph counting."""
    part = learning.PARTS["transfer"]
    plan = dataclasses.replace(part.plan, clusters=("p100x4",), orders=("fifo",), seeds=3)
    times = {
        "modern, from nothing": {"nmt": 2.5, "resnet50": 2.5},
        "zero_shot": {"nmt": 2.1, "resnet50": 2.3},
        "pretrained": {"nmt": 2, "resnet50": 1.8},
        "no moves, from nothing": {"nmt": 2.0, "resnet50": 2.0},
        "pretrained, no moves": {"nmt": 1.9, "resnet50": 2.0},
    }
    budgets = set()

    def step_time(run: Run) -> float:
        budgets.add((run.subject, run.evaluations))
        return times.get(run.subject, {}).get(run.workload, 2.0) + (run.seed - 1) / 10

    report = part.report(plan, made_up(tmp_path, part.runs(plan), step_time))
    scratch = {("modern", 3_000), ("modern, from nothing", 3_000)}
    samples = {("no moves, from nothing", 3_000), ("pretrained, no moves", 300)}
    assert budgets == {("zero_shot", 48), ("pretrained", 300), *scratch, *samples}
    verdicts = [criterion.verdict() for criterion in report.criteria]
    assert verdicts == ["MISS", "ok", "ok", "ok", "MISS", "ok"]
    assert report.criteria[0].measured == "1.099, worst 1.150: resnet50 on p100x4, fifo"
    assert report.tables[0].rows[0][3:] == (
        *("4000.00", "2000.00", "2500.00", "2100.00", "2000.00"),
        *("1.050", "0.840", "1.000", "0.800"),
    )
    assert report.tables[1].rows[1][4:] == ("2000.00", "2300.00", "2000.00", "1.150", "1.000")


@pytest.mark.parametrize("subject", ["zero_shot", "pretrained, no moves"])
def test_no_heuristics_are_run_for_who_does_not_use_them(
    tmp_path: Path, toy: Cell, subject: str
) -> None:
    """All of its budget are placements of the bundled policy."""
    run = Subject(subject).run(toy, 50, seed=0)
    results = Results(tmp_path / "out")
    assert results.finish([run]) == []
    assert results[run].heuristics == 0
    assert results[run].curve[-1][0] <= 50


def test_what_learns_from_nothing_without_moves_is_the_network_of_the_bundled_policy() -> None:
    """So the two differ by what was learned before."""
    config = SAMPLES_FROM_NOTHING.config
    assert config is not None
    assert (config.network, config.hidden) == (NETWORK, bundled().hidden)


@pytest.mark.parametrize(
    ("found_at", "from_nothing_at", "verdicts", "shown"),
    [
        (70, 100, ["ok", "ok"], ["90", "100"]),
        (85, 100, ["MISS", "ok"], ["105", "100"]),
        (70, None, ["ok", "MISS"], ["90", "not in 100"]),
    ],
)
def test_modern_is_judged_against_colocrl(
    tmp_path: Path, found_at, from_nothing_at, verdicts, shown
) -> None:
    """By evaluations until it is as fast, heuristics included where they are used."""
    plan = Plan(("rnnlm",), ("p100x4",), ("fifo",), (1_000,), seeds=1)
    part = learning.PARTS["colocrl"]
    curves = {
        "colocrl": [(1, 9.0), (400, 3.0)],
        "modern": [(1, 4.0), (found_at, 3.0), (95, 2.0)],
        "modern, from nothing": [(1, 9.0), *([(from_nothing_at, 2.9)] if from_nothing_at else [])],
    }
    budgets = set()
    for run in part.runs(plan):
        write(tmp_path, run, curves[run.subject])
        budgets.add((run.subject, run.evaluations))
    assert budgets == {("colocrl", 1_000), ("modern", 100), ("modern, from nothing", 100)}
    report = part.report(plan, Results(tmp_path))
    assert [criterion.verdict() for criterion in report.criteria] == [*verdicts, "-"]
    assert list(report.tables[0].rows[0][3:]) == ["1,000", "3000.00", "400", "4000.00", *shown]
    assert report.criteria[2].measured.startswith(f"{400 / (found_at + 20):.2f}x")


@pytest.mark.parametrize(
    ("budget", "seconds", "verdict"),
    [(10_000, 58.9, "ok"), (10_000, 59.1, "MISS"), (1_000, 1.0, "-")],
)
def test_the_time_includes_heuristics(tmp_path: Path, budget, seconds, verdict) -> None:
    """The slowest run is judged, and at 10,000 evaluations alone."""
    plan = Plan(("rnnlm",), ("p100x4",), ("fifo",), (budget,), seeds=3)
    part = learning.PARTS["speed"]
    for run in part.runs(plan):
        slower = seconds - abs(run.seed - 1)
        write(tmp_path, run, [(1, 1.0)], seconds=slower, evaluation_seconds=slower / 2)
    report = part.report(plan, Results(tmp_path))
    (criterion,) = report.criteria
    assert criterion.verdict() == verdict
    assert criterion.measured.startswith(f"{seconds + 1:.1f} s")
    assert part.timed


def test_ablations_compare_the_same_seeds(tmp_path: Path) -> None:
    """What all seeds share is no difference."""
    plan = Plan(("rnnlm", "nmt"), ("p100x4",), ("fifo",), (1_000,), seeds=3)
    part = learning.PARTS["ablations"]
    harm = {("no self-imitation", "rnnlm"): [1.21, 1.44, 1.0]}

    def step_time(run: Run) -> float:
        shared = 1.0 + run.seed + 10 * plan.workloads.index(run.workload)
        return shared * harm.get((run.subject, run.workload), [1.0] * 3)[run.seed]

    report = part.report(plan, made_up(tmp_path, part.runs(plan), step_time))
    (table,) = report.tables
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert set(rows) == set(learning_plan.ABLATIONS)
    assert rows["no self-imitation"] == [
        *("`num_elites = 0`", "1.210", "1.000"),
        *("1.100", "1.000 to 1.200"),
    ]
    assert rows["batch of 32"][1:] == ["1.000", "1.000", "1.000", "1.000 to 1.000"]


def test_what_is_infeasible_is_slower_than_all_else(tmp_path: Path) -> None:
    """And no slower than another that is infeasible."""
    plan = Plan(("rnnlm", "nmt"), ("p100x4",), ("fifo",), (300,), seeds=1)
    part = learning.PARTS["annealing"]
    for run in part.runs(plan):
        fits = run.workload == "nmt" and run.subject == "annealing"
        write(tmp_path, run, [(1, 1.0)] if fits else [])
    report = part.report(plan, Results(tmp_path))
    assert [row[3] for row in report.tables[0].rows] == ["1.000", "inf", "inf"]
    judged = report.criteria[:-2]  # the last two are not
    assert {criterion.verdict() for criterion in judged} == {"MISS"}


@pytest.mark.parametrize("name", learning_plan.ABLATIONS)
def test_ablations_change_something(name: str) -> None:
    """Each differs from `modern`, and from all others."""
    changed = dataclasses.replace(MODERN, **learning_plan.ABLATIONS[name])
    assert changed != MODERN
    assert sum(subject.config == changed for subject in learning_plan.VARIANTS) == 1


def test_less_is_run_on_request(tmp_path: Path, toy: Cell, capsys) -> None:
    """Parts share a folder; runs that are timed are kept apart."""
    words = ["--out", str(tmp_path / "out"), "--workloads", toy.workload, "--clusters", toy.cluster]
    words += ["--orders", "fifo", "--seeds", "1"]
    assert learning.main([*words, "--only", "annealing", "--budgets", "40"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "4 of 4" in printed
    assert "| pretrained, all budgets: none above 1.05 |" in printed
    learning.main([*words, "--only", "speed", "--budgets", "40"])
    assert "1 of 1" in capsys.readouterr().out
    assert (tmp_path / "out" / "speed.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds is 0; expected at least 1"),
        (["--workloads", "rnnlm,rnn"], "rnn"),
        (["--clusters", "p100x5"], "p100x5"),
        (["--orders", "lifo"], "lifo"),
        (["--budgets", "many"], "evaluations is 'many'"),
        (["--only", "all"], "invalid choice"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, words, message, capsys) -> None:
    """With what there is, before anything is run."""
    with pytest.raises(SystemExit):
        learning.main(["--out", str(tmp_path / "out"), *words])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_has_a_place_for_every_part() -> None:
    """Rewriting it replaces the figures and nothing else."""
    reports = [Report(name, [Criterion("must", "1.0x", True)], []) for name in learning.PARTS]
    page = learning.rewrite(learning.PAGE.read_text(), reports)
    assert page.count("| must | 1.0x | ok |") == len(reports)
    assert learning.rewrite(page, reports) == page
