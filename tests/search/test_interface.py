"""What every search of :data:`placer.strategies.STRATEGIES` keeps to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from placer.cluster import Cluster
from placer.errors import InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.heuristics import evaluate_heuristics
from placer.placement import Evaluations
from placer.problem import Problem, Progress, Search
from placer.strategies import STRATEGIES, resolve
from tests.heuristics.builders import gpus, op
from tests.toys import all_choices, make_toy

NAMES = ["walk", *(name for name, at in STRATEGIES.items() if at.startswith("placer.search"))]
INEXACT = [name for name in NAMES if name != "exact"]
every_search = pytest.mark.parametrize("name", INEXACT)
TOY = make_toy(12)


class Counter:
    """An evaluator that counts placements and hides the simulator's moves."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.count = 0

    def evaluate(self, placements: np.ndarray) -> Evaluations:
        self.count += len(placements)
        return self.problem.evaluator.evaluate(placements)


def find(name: str) -> Search:
    return resolve("strategy", name, STRATEGIES)


@every_search
@pytest.mark.parametrize("evaluations", [1, 2, 7, 150, 401])
def test_the_budget_is_kept_to_the_evaluation(name: str, evaluations: int) -> None:
    """All of it is used, whoever evaluates; the history has an entry for each evaluation."""
    counter = Counter(TOY)
    hidden = dataclasses.replace(TOY, evaluator=counter)
    for problem in (TOY, hidden):
        result = find(name)(problem, evaluations=evaluations, seed=0)
        assert result.evaluations == evaluations
        assert len(result.best_so_far) == len(result.seconds_so_far) == evaluations
    assert counter.count == evaluations


@every_search
def test_the_result_is_the_best_that_was_evaluated(name: str) -> None:
    """Its step time is that of its choices, and the end of a history that only falls."""
    result = find(name)(TOY, evaluations=300, seed=0)
    assert result.method == name
    assert result.choices.dtype == np.int32
    assert result.step_time_seconds == result.best_so_far[-1]
    assert TOY.evaluate(result.choices[None]).step_time_seconds[0] == result.step_time_seconds
    assert (np.diff(result.best_so_far) <= 0).all()
    assert (np.diff(result.seconds_so_far) >= 0).all()
    assert 0 < result.seconds_so_far[0] <= result.seconds_so_far[-1] <= result.seconds


@every_search
def test_the_same_seed_finds_the_same(name: str) -> None:
    """To the bit; and another seed another history."""
    first, second, other = (find(name)(TOY, evaluations=200, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.choices, second.choices)
    assert np.array_equal(first.best_so_far, second.best_so_far)
    assert not np.array_equal(first.best_so_far, other.best_so_far)


@pytest.mark.parametrize("name", ["hill_climbing", "annealing"])
def test_moves_in_a_session_are_those_of_full_simulations(name: str) -> None:
    """The same history, where the evaluator has no session for moves."""
    hidden = dataclasses.replace(TOY, evaluator=Counter(TOY))
    fast, slow = (find(name)(problem, evaluations=500, seed=3) for problem in (TOY, hidden))
    assert np.array_equal(fast.choices, slow.choices)
    assert np.array_equal(fast.best_so_far, slow.best_so_far)


@every_search
def test_small_problems_are_solved(name: str) -> None:
    """The optimum of 64 placements, found by brute force, within 1,500 evaluations."""
    problem = make_toy(6)
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    assert find(name)(problem, evaluations=1500, seed=0).step_time_seconds == best


@pytest.mark.parametrize("name", [name for name in INEXACT if name != "random"])
def test_searches_beat_random_search_from_a_start(name: str) -> None:
    """They are never worse than the start, and on a real graph far better than random draws."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("p100x4"))
    (row,) = evaluate_heuristics(problem, np.random.default_rng(0), ["expert"])
    assert row.choices is not None
    result = find(name)(problem, evaluations=400, seed=0, start=row.choices)
    assert result.best_so_far[0] == row.step_time_seconds
    assert result.step_time_seconds < 0.99 * row.step_time_seconds
    drawn = find("random")(problem, evaluations=400, seed=0)
    assert result.step_time_seconds < drawn.step_time_seconds


@every_search
def test_a_second_is_a_budget_too(name: str) -> None:
    """After the first batch nothing is begun that would be late."""
    result = find(name)(TOY, evaluations=1_000_000, seconds=1e-9, seed=0)
    assert 1 <= result.evaluations <= 100
    result = find(name)(TOY, evaluations=10_000_000, seconds=0.05, seed=0)
    assert result.evaluations < 10_000_000
    assert result.seconds < 1
    assert len(result.seconds_so_far) == result.evaluations


@every_search
def test_progress_is_told(name: str) -> None:
    """Evaluations rise to the budget, and the best is that of the history."""
    told: list[Progress] = []
    result = find(name)(TOY, evaluations=150, seed=0, on_progress=told.append)
    counts = [progress.evaluations for progress in told]
    assert counts == sorted(set(counts))
    assert len(counts) >= 2
    assert counts[-1] == 150
    for progress in told:
        assert progress.best_seconds == result.best_so_far[progress.evaluations - 1]
        assert progress.best_seconds <= progress.mean_seconds


@pytest.mark.parametrize("name", [name for name in INEXACT if name != "random"])
def test_searches_find_their_way_from_an_infeasible_start(name: str) -> None:
    """All ops are on one device, which has no memory for all; they end not far from the optimum."""
    problem = make_toy(12, memory_bytes=14e6)
    start = np.zeros(12, np.int32)
    assert not problem.evaluate(start[None]).feasible[0]
    result = find(name)(problem, evaluations=1000, seed=0, start=start)
    assert np.isinf(result.best_so_far[0])
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    assert problem.evaluate(result.choices[None]).step_time_seconds[0] <= 1.25 * best


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_fits_the_error_says_why(name: str) -> None:
    """Three ops, two of which would fit one device only together with no other."""
    graph = OpGraph.from_ops("full", [op(f"op{i}", parameter_bytes=6) for i in range(3)])
    problem = Problem.build(graph, gpus(2, memory_bytes=10))
    with pytest.raises(InfeasibleError, match=r"gpu:\d needs 1\d bytes of memory, has 10"):
        find(name)(problem, evaluations=50, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_place_for_everything_is_a_problem_too(name: str) -> None:
    """No op group can move: there is one placement, and it is found."""
    problem = make_toy(4, num_devices=1)
    result = find(name)(problem, evaluations=5, seed=0, start=np.zeros(4, np.int32))
    assert (result.choices == 0).all()
    assert 1 <= result.evaluations <= 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 10**12}, "evaluations is 1000000000000; expected a whole number from 1"),
        ({"evaluations": 0}, "evaluations is 0; expected a whole number from 1"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"seconds": 0.0}, "seconds is 0.0; expected a number above 0"),
        ({"seconds": float("nan")}, "seconds is nan; expected a number above 0"),
    ],
)
def test_bad_budgets_are_refused(name: str, arguments: dict[str, float], message: str) -> None:
    """The message says what was given."""
    with pytest.raises(UsageError, match=message):
        find(name)(TOY, **{"evaluations": 5, "seed": 0} | arguments)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros(3, np.int32), r"shape \(3,\)"),
        (np.full(12, 2, np.int32), "expected device indices from 0 to 1"),
        (np.zeros((1, 12), np.int32), r"start has shape \(1, 12\); expected \(12,\)"),
    ],
)
def test_bad_starts_are_refused(name: str, start: np.ndarray, message: str) -> None:
    """The message says what was given."""
    with pytest.raises(UsageError, match=message):
        find(name)(TOY, evaluations=5, seed=0, start=start)
