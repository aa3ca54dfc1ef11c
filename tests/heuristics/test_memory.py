"""Memory: what heuristics take op groups to need, and placements that keep to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from placer.cluster import Cluster, Device
from placer.graph import Op, OpGraph
from placer.heuristics import HEURISTICS
from placer.heuristics._memory import bytes_exchanged, keep_to_limits, kept_bytes
from placer.problem import Problem
from tests.heuristics.builders import candidates, gpus, op, problem_of
from tests.strategies import graphs


@given(graphs())
def test_the_estimate_is_exact_on_one_device(graph: OpGraph) -> None:
    """What groups need together is what the simulator says of a device that runs them all."""
    cluster = Cluster("one", (Device("d:0", "cpu", model="a", memory_bytes=1e9),), ())
    problem = Problem.build(graph, cluster)
    peak = problem.evaluator.schedule(np.zeros(graph.num_ops, int)).peak_memory_bytes["d:0"]
    assert kept_bytes(problem).sum() == peak


def test_what_is_held_at_the_peak_counts_to_its_group() -> None:
    """By hand: d starts while b's and c's tensors are there, a's is gone; d's own is made."""
    ops = [
        op("a", size=50),
        op("b", "a", size=30, parameter_bytes=7),
        op("c", "b", size=20, temporary_bytes=900),
        op("d", "b c", size=40, temporary_bytes=5000),
    ]
    assert kept_bytes(problem_of(ops, gpus(1, memory_bytes=1e9))).tolist() == [0, 37, 20, 5040]


def _variables(count: int, *, size: float = 0, kinds: tuple[str, ...] | None = None) -> list[Op]:
    return [
        op(f"layer_{i}/op", size=size, parameter_bytes=4, device_kinds=kinds) for i in range(count)
    ]


def test_nothing_moves_where_there_is_room() -> None:
    """Memory that is exactly full is enough."""
    problem = problem_of(_variables(4), gpus(2, memory_bytes=12))
    assert keep_to_limits(problem, np.array([0, 0, 0, 1])).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("size", [0, 2.0**-100])
def test_the_group_that_exchanges_least_moves(size: float) -> None:
    """Of three on a device for two, the one apart from the others leaves it, however little it is."""
    ops = [*_variables(2, size=size), op("apart", size=size, parameter_bytes=4)]
    ops[1] = op("layer_1/op", "layer_0/op", size=size, parameter_bytes=4)
    problem = problem_of(ops, gpus(2, memory_bytes=8))
    assert keep_to_limits(problem, np.array([1, 1, 1])).tolist() == [1, 1, 0]


def test_groups_move_to_the_fastest_device_with_room() -> None:
    """To a GPU before the CPU, and where they may not go to neither."""
    problem = problem_of(_variables(4), gpus(2, cpu=True, memory_bytes=8))
    choices = keep_to_limits(problem, np.array([1, 1, 1, 1]))
    assert np.bincount(choices, minlength=3).tolist() == [0, 2, 2]
    problem = problem_of(_variables(4, kinds=("gpu",)), gpus(1, cpu=True, memory_bytes=8))
    assert keep_to_limits(problem, np.array([1, 1, 1, 1])).tolist() == [1, 1, 1, 1]


def test_a_copy_received_takes_memory_too() -> None:
    """A reader moves on where its own tensor fits, but not beside the one that it reads."""
    ops = [op("a", size=60), op("b", "a", size=30), op("c", "b", size=1)]
    sizes = {"gpu:0": 60, "gpu:1": 80, "gpu:2": 90}
    devices = tuple(Device(name, "gpu", memory_bytes=size) for name, size in sizes.items())
    problem = problem_of(ops, Cluster("three", devices, gpus(3).links))
    assert keep_to_limits(problem, np.array([0, 1, 1])).tolist() == [0, 2, 1]


def test_what_may_not_be_where_it_is_moves() -> None:
    """To the allowed device that runs it fastest."""
    problem = problem_of([op("a", device_kinds=("gpu",)), op("b")], gpus(1, cpu=True))
    assert keep_to_limits(problem, np.array([0, 0])).tolist() == [1, 0]


def test_bytes_exchanged_count_in_both_directions() -> None:
    """A tensor counts once for each group that reads it, and one byte more for each edge."""
    ops = [op("a", size=5), op("b", "a", size=7), op("c", "a b", size=1)]
    problem = problem_of(ops, gpus(2))
    assert bytes_exchanged(problem, np.array([0, 1, -1])).tolist() == [[0, 6], [6, 0], [6, 8]]


@pytest.mark.parametrize("name", [name for name in HEURISTICS if name != "single_device"])
def test_every_heuristic_keeps_to_memory(name: str) -> None:
    """Eight variables on four GPUs with room for three each."""
    problem = problem_of(_variables(8), gpus(4, memory_bytes=12))
    (choices,) = candidates(name, problem)
    assert np.bincount(choices, minlength=4).max() <= 3
    assert problem.evaluate(choices[None]).feasible[0]
