"""Walks by moves in a session and by whole evaluations are the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placer._draw import draw_choices
from placer._move_tables import Records, device_of
from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.placement import Evaluations
from placer.problem import Problem
from placer.search._ledger import INFEASIBLE_COST, Ledger
from placer.search._walk import LEAST, Walk
from placer.search.neighbours import Neighbours
from tests.search.tiny import problems
from tests.toys import make_toy


class Hidden:
    """An evaluator without a session for moves."""

    def __init__(self, problem: Problem) -> None:
        self._evaluator = problem.evaluator

    def evaluate(self, placements: np.ndarray) -> Evaluations:
        return self._evaluator.evaluate(placements)


def take_all(
    problem: Problem, start: np.ndarray, moves: Records, limits: np.ndarray
) -> tuple[Walk, Ledger, list[float]]:
    """Walks until all moves have been tried."""
    ledger = Ledger(
        "walk", problem, evaluations=1 + len(moves), seed=0, seconds=None, on_progress=None
    )
    walk, changes = Walk(ledger, start), []
    while len(changes) < len(moves):
        some = walk.take(moves[len(changes) :], limits[len(changes) :])
        assert len(some)
        changes += some.tolist()
    return walk, ledger, changes


def check_walk(
    problem: Problem, start: np.ndarray, moves: Records, limits: np.ndarray
) -> tuple[Walk, Ledger, list[float]]:
    """Both ways give the same, and what is made is what changes the cost by less than its limit."""
    hidden = dataclasses.replace(problem, evaluator=Hidden(problem))
    walk, ledger, changes = take_all(problem, start, moves, limits)
    other, other_ledger, other_changes = take_all(hidden, start, moves, limits)
    assert changes == other_changes
    assert walk.cost == other.cost
    assert np.array_equal(walk.choices, other.choices)
    assert ledger.count == other_ledger.count == 1 + len(moves)
    here = start.copy()
    for move, change, limit in zip(moves, changes, limits, strict=True):
        if change < limit:
            here[move["group"]] = device_of(move, problem.allowed, here)
    assert np.array_equal(walk.choices, here)
    if walk.cost < INFEASIBLE_COST:
        assert walk.cost == problem.evaluate(here[None]).step_time_seconds[0]
        result, other_result = ledger.result(), other_ledger.result()
        assert np.array_equal(result.best_so_far, other_result.best_so_far)
        assert np.array_equal(result.choices, other_result.choices)
        best = problem.evaluate(result.choices[None]).step_time_seconds[0]
        assert best == result.step_time_seconds
    return walk, ledger, changes


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems(), seed=st.integers(0, 99), far=st.floats(0, 1))
def test_both_ways_are_the_same(problem: Problem, seed: int, far: float) -> None:
    """Any graph, constraints, memory, channels, slots and both orders; also from infeasible ones."""
    rng = np.random.default_rng(seed)
    neighbours = Neighbours(problem)
    if not neighbours.movable:
        return
    start = draw_choices(problem, rng, 1)[0]
    limits = rng.choice([0.0, LEAST, 1e-9, far], 80)
    check_walk(problem, start, neighbours.draw(rng, 80), limits)


@pytest.mark.parametrize("memory_bytes", [np.inf, 60e6])
@pytest.mark.parametrize("full_runs", [False, True])
def test_long_walks_are_the_same(
    memory_bytes: float, full_runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is recorded anew at times, and calls pause; trials and full runs take turns."""
    monkeypatch.setattr("placer.moves._PAUSE_AFTER", 500)
    if full_runs:
        monkeypatch.setattr("placer.moves._STARTS_PER_OP", 10)
    problem = make_toy(100, 3, memory_bytes=memory_bytes)
    rng = np.random.default_rng(0)
    moves = Neighbours(problem).draw(rng, 1500)
    limits = rng.exponential(3e-4, 1500)
    start = np.arange(100, dtype=np.int32) // 34
    walk, _, changes = check_walk(problem, start, moves, limits)
    made = np.array(changes) < limits
    assert 200 < made.sum() < 1300
    assert np.isinf(changes).any() == np.isfinite(memory_bytes)
    session = walk._session
    assert session is not None
    assert np.array_equal(session.devices, walk.choices)


def test_walks_of_op_groups_are_the_same() -> None:
    """Groups of many ops of a training graph, on GPUs and a CPU, some of which take full runs."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("p100x4"), num_groups=40)
    rng = np.random.default_rng(0)
    start = draw_choices(problem, rng, 1)[0]
    moves = Neighbours(problem).draw(rng, 200)
    _, _, changes = check_walk(problem, start, moves, rng.exponential(1e-3, 200))
    assert 20 < (np.array(changes) < 0).sum() < 180


def test_a_walk_goes_on_by_single_moves() -> None:
    """The session then has the walk's placement, the last move of which may be yet to be written."""
    problem = make_toy(60, 3)
    rng = np.random.default_rng(0)
    moves = Neighbours(problem).draw(rng, 50)
    walk, _, _ = take_all(problem, np.zeros(60, np.int32), moves, np.full(50, np.inf))
    session = walk._session
    assert session is not None
    for op in range(60):
        moved = walk.choices.copy()
        moved[op] = 1
        expected = problem.evaluate(moved[None]).step_time_seconds[0]
        assert session.try_move(op, 1) == expected
