"""Moves and draws near a placement."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from placer._move_tables import device_of
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.search.genetic import _keys_of
from placer.search.neighbours import Neighbours, devices_at, first_probabilities
from placer.simulator import Simulator
from tests.heuristics.builders import gpus
from tests.search.tiny import problems
from tests.toys import all_choices, make_toy


def _chain_with_a_fixed_end() -> Problem:
    """Six ops in a row on a CPU and two GPUs; the last may only be on a GPU, the first on the CPU."""
    kinds = [("cpu",), None, None, None, None, ("gpu",)]
    ops = [
        Op(
            f"op{i}",
            "Op",
            (f"op{i - 1}",) if i else (),
            outputs=(Output(1),),
            seconds={"cpu": 1.0, "gpu": 1.0},
            device_kinds=kind,
        )
        for i, kind in enumerate(kinds)
    ]
    graph, cluster = OpGraph.from_ops("chain", ops), gpus(2, cpu=True)
    groups = OpGroups(graph, np.arange(6, dtype=np.int32), graph.op_names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def test_moves_go_elsewhere_where_they_may() -> None:
    """Every other device of every group is drawn sooner or later, and nothing else."""
    problem = _chain_with_a_fixed_end()
    neighbours = Neighbours(problem)
    choices = np.array([0, 1, 1, 2, 2, 2], np.int32)
    drawn = [
        (int(proposal["group"]), device_of(proposal, problem.allowed, choices))
        for proposal in neighbours.draw(np.random.default_rng(0), 3000)
    ]
    expected = {
        (group, device)
        for group in range(6)
        for device in range(3)
        if problem.allowed[group, device] and device != choices[group] and group > 0
    }
    assert set(drawn) == expected
    near = [device in choices[neighbours.adjacent[group]] for group, device in drawn]
    # 0.3 of uniform draws; of the others half of those of three groups in five are near
    assert abs(np.mean(near) - (0.3 * 0.3 + 0.7 * 0.6 * (0.5 + 0.5 * 0.5))) < 0.03


def test_all_moves_go_everywhere_else() -> None:
    """Wherever the op groups are, each to each other device that it may go to, once."""
    problem = _chain_with_a_fixed_end()
    moves = Neighbours(problem).all()
    for choices in all_choices(problem):
        if not problem.allowed[np.arange(6), choices].all():
            continue
        found = [(move["group"], device_of(move, problem.allowed, choices)) for move in moves]
        expected = problem.allowed.copy()
        expected[np.arange(6), choices] = False
        assert sorted(found) == list(zip(*np.nonzero(expected), strict=True))


@settings(max_examples=50, deadline=None)
@given(problem=problems())
def test_neighbours_are_those_of_the_edges(problem: Problem) -> None:
    """Op groups with an edge between them, either way, in the order of producers, then consumers."""
    neighbours = Neighbours(problem)
    adjacent: list[list[int]] = [[] for _ in range(problem.num_groups)]
    group_of_op = problem.groups.group_of_op
    producers, consumers = (group_of_op[ops].tolist() for ops in problem.graph.edges[:2])
    for producer, consumer in sorted(set(zip(producers, consumers, strict=True))):
        if producer != consumer:
            adjacent[producer].append(consumer)
            adjacent[consumer].append(producer)
    assert neighbours.adjacent == adjacent
    assert neighbours.devices == [np.flatnonzero(row).tolist() for row in problem.allowed]
    assert neighbours.movable == np.flatnonzero(problem.allowed.sum(axis=1) > 1).tolist()


def test_related_groups_hang_together() -> None:
    """In a chain they are a run of it, without the group that cannot move."""
    neighbours = Neighbours(_chain_with_a_fixed_end())
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = sorted(neighbours.related(rng, 3))
        assert found == list(range(found[0], found[0] + 3))
        assert 0 not in found


def test_first_draws_differ_from_the_start_in_a_few_groups() -> None:
    """Four on average, less those that come out the same; without a start all are uniform."""
    problem = make_toy(40, 4)
    start = np.arange(40, dtype=np.int32) % 4
    keys = np.random.default_rng(0).random((2000, 40))
    draws = devices_at(first_probabilities(problem, start), keys)
    assert abs((draws != start).sum(axis=1).mean() - 4 * 3 / 4) < 0.2
    uniform = devices_at(first_probabilities(problem, None), keys)
    assert np.abs(np.bincount(uniform.ravel()) / uniform.size - 0.25).max() < 0.01


def test_devices_without_a_chance_are_not_drawn() -> None:
    """Neither the first nor the last, at either end of the keys."""
    chances = np.array([[0.0, 0.3, 0.7, 0.0]])
    keys = np.array([[0.0], [0.3], [np.nextafter(1.0, 0.0)], [0.299]])
    assert devices_at(chances, keys)[:, 0].tolist() == [1, 2, 2, 1]


def test_keys_stand_for_the_choices_that_they_were_made_of() -> None:
    """Whatever the start that biases the chances."""
    problem = _chain_with_a_fixed_end()
    for start in (None, np.array([0, 1, 1, 2, 2, 2], np.int32)):
        chances = first_probabilities(problem, start)
        choices = np.array([0, 2, 0, 1, 2, 1], np.int32)
        assert np.array_equal(devices_at(chances, _keys_of(choices, chances)[None])[0], choices)
