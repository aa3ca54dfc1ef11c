"""Heuristics: what holds for every one that is registered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from placer.api import solve
from placer.cluster import Cluster
from placer.errors import GraphError, InfeasibleError, PlacerError, UnknownNameError
from placer.graph import OpGraph
from placer.heuristics import HEURISTICS, ORDERS, evaluate_heuristics
from placer.problem import Problem
from placer.simulator import Simulator
from placer.strategies import resolve
from tests.heuristics.builders import chain, gpus
from tests.strategies import clusters, graphs


def _problem(graph: OpGraph, cluster: Cluster) -> Problem:
    """A problem with an allowed device for each group; any other example is skipped."""
    try:
        problem = Problem.build(graph, cluster)
        problem.allowed  # noqa: B018
    except (GraphError, InfeasibleError):
        assume(False)
        raise
    return problem


@pytest.mark.parametrize("name", HEURISTICS)
@given(graphs(constraints=True), clusters(min_devices=2), st.integers(0, 9))
@settings(max_examples=30)
def test_candidates_are_choices_that_the_problem_allows(
    name: str, graph: OpGraph, cluster: Cluster, seed: int
) -> None:
    """int32 ``[num_candidates, num_groups]``, each device allowed, the same for the same seed."""
    problem = _problem(graph, cluster)
    heuristic = resolve("heuristic", name, HEURISTICS)
    try:
        candidates = heuristic(problem, np.random.default_rng(seed))
    except PlacerError:
        return
    again = heuristic(problem, np.random.default_rng(seed))
    assert candidates.dtype == np.int32
    assert candidates.ndim == 2
    assert candidates.shape[1] == problem.num_groups
    assert len(candidates) >= 1
    assert np.array_equal(candidates, again)
    if name != "single_device":  # which shows that a device is too small
        assert problem.allowed[np.arange(problem.num_groups), candidates].all()
    for placement in problem.expand(candidates):
        for group in range(len(graph.colocation_names)):
            assert len(set(placement[graph.colocation_group == group])) == 1


@given(graphs(constraints=True), clusters(min_devices=2))
@settings(max_examples=60)
def test_no_heuristic_breaks_a_constraint_but_memory(graph: OpGraph, cluster: Cluster) -> None:
    """Every infeasible row of a problem says that memory is the reason."""
    problem = _problem(graph, cluster)
    for row in evaluate_heuristics(problem, np.random.default_rng(0)):
        assert row.feasible == (row.reason is None) == np.isfinite(row.step_time_seconds)
        if row.choices is not None and not row.feasible:
            assert "bytes" in str(row.reason)


def test_rows_are_the_candidates_in_order() -> None:
    """A row per device for single_device, one for each other; each as the problem evaluates it."""
    problem = Problem.build(chain(6), gpus(2))
    rows = evaluate_heuristics(problem, np.random.default_rng(0))
    names = [row.name for row in rows]
    assert names == [
        "single_device:gpu:0",
        "single_device:gpu:1",
        *(name for name in HEURISTICS if name != "single_device"),
    ]
    for row in rows:
        if row.choices is not None:
            assert row.feasible
            assert row.step_time_seconds == problem.evaluate(row.choices[None]).step_time_seconds[0]


def test_a_heuristic_gives_the_same_row_whichever_others_are_asked_for() -> None:
    """Each has its own stream of randomness."""
    problem = Problem.build(chain(30), gpus(4))
    (alone,) = evaluate_heuristics(problem, np.random.default_rng(5), ["random"])
    rows = evaluate_heuristics(problem, np.random.default_rng(5), ["heft", "random"])
    assert rows[1].name == "random"
    assert np.array_equal(rows[1].choices, alone.choices)
    (other,) = evaluate_heuristics(problem, np.random.default_rng(6), ["random"])
    assert not np.array_equal(other.choices, alone.choices)


def test_a_heuristic_that_does_not_apply_is_a_row_with_a_reason() -> None:
    """No expert for a graph without name scopes, and no exception."""
    problem = Problem.build(chain(6), gpus(2))
    (row,) = evaluate_heuristics(problem, np.random.default_rng(0), ["expert"])
    assert row.choices is None
    assert not row.feasible
    assert row.step_time_seconds == np.inf
    assert str(row.reason).startswith("no expert for graph 'chain'")


def test_an_unknown_heuristic_gets_the_near_name() -> None:
    """The message suggests."""
    problem = Problem.build(chain(2), gpus(2))
    with pytest.raises(UnknownNameError, match="unknown heuristic 'heff'; did you mean 'heft'"):
        evaluate_heuristics(problem, np.random.default_rng(0), ["heff"])


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only placer's own errors become rows."""

    def broken(problem: Problem, rng: np.random.Generator) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("placer.heuristics.metis.metis", broken)
    with pytest.raises(ZeroDivisionError):
        evaluate_heuristics(Problem.build(chain(2), gpus(2)), np.random.default_rng(0), ["metis"])


@pytest.mark.parametrize("name", ORDERS)
def test_a_heuristic_with_an_order_of_its_own_has_a_row_for_it(name: str) -> None:
    """With order "priority" its candidate is simulated with both."""
    graph, cluster = OpGraph.load("inception_v3"), Cluster.load("v100x8")
    problem = Problem.build(graph, cluster, order="priority")
    default, own = evaluate_heuristics(problem, np.random.default_rng(0), [name])
    assert (default.name, own.name) == (name, f"{name}:own_order")
    assert default.priorities is None
    simulator = Simulator(graph, cluster, order="priority", priorities=own.priorities)
    assert own.step_time_seconds == simulator.step_time(problem.expand(own.choices))
    (row,) = evaluate_heuristics(Problem.build(graph, cluster), np.random.default_rng(0), [name])
    assert row.name == name


def test_a_placement_has_the_order_that_it_was_found_with() -> None:
    """On this cluster HEFT's own order is the best of all heuristics."""
    problem = Problem.build(OpGraph.load("inception_v3"), Cluster.load("v100x8"), order="priority")
    placement = solve(problem, strategy="random", evaluations=1).placement()
    assert placement.found_by == "heft:own_order"
    simulator = Simulator(
        problem.graph, problem.cluster, order="priority", priorities=placement.priorities
    )
    assert simulator.step_time(placement) == placement.step_time
