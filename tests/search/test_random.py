"""Random search: keeps the best of its budget."""

from __future__ import annotations

import numpy as np
import pytest

from placer.errors import InfeasibleError, UsageError
from placer.graph import OpGraph
from placer.problem import Problem, Progress
from placer.search.random import search
from tests.heuristics.builders import chain, gpus, op
from tests.toys import all_choices, make_toy


def test_random_search_returns_the_best_that_it_evaluated() -> None:
    """The step time is that of the choices, and no evaluation was better."""
    problem = make_toy(8)
    result = search(problem, evaluations=100, seed=0)
    assert result.method == "random"
    assert result.evaluations == len(result.best_so_far) == 100
    assert (np.diff(result.best_so_far) <= 0).all()
    assert result.step_time_seconds == result.best_so_far[-1]
    assert problem.evaluate(result.choices[None]).step_time_seconds[0] == result.step_time_seconds


def test_random_search_finds_the_optimum_of_a_small_problem() -> None:
    """With many more draws than the 16 placements that there are."""
    problem = make_toy(4)
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    assert search(problem, evaluations=300, seed=0).step_time_seconds == best


def test_the_same_seed_finds_the_same() -> None:
    """And another seed another history."""
    problem = make_toy(12)
    first, second, other = (search(problem, evaluations=70, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.choices, second.choices)
    assert np.array_equal(first.best_so_far, second.best_so_far)
    assert not np.array_equal(first.best_so_far, other.best_so_far)


def test_progress_is_told_after_each_batch() -> None:
    """Evaluations rise to the budget, and the best is that of the history."""
    told: list[Progress] = []
    result = search(make_toy(6), evaluations=150, seed=0, on_progress=told.append)
    assert [p.evaluations for p in told] == [64, 128, 150]
    for progress in told:
        assert progress.best_seconds == result.best_so_far[progress.evaluations - 1]
        assert progress.best_seconds <= progress.mean_seconds


def test_where_nothing_fits_the_error_says_why() -> None:
    """Three ops, two of which would fit one device only together with no other."""
    graph = OpGraph.from_ops("full", [op(f"op{i}", parameter_bytes=6) for i in range(3)])
    problem = Problem.build(graph, gpus(2, memory_bytes=10))
    with pytest.raises(
        InfeasibleError, match="none of 20 placements tried by random is feasible; .*bytes"
    ):
        search(problem, evaluations=20, seed=0)


def test_a_budget_of_none_is_refused() -> None:
    """The message says what was given."""
    problem = Problem.build(chain(2), gpus(2))
    with pytest.raises(UsageError, match="evaluations is 0; expected a whole number from 1"):
        search(problem, evaluations=0, seed=0)
