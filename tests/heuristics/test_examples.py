"""Heuristics on examples that are published or worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph
from placer.grouping import OpGroups
from placer.heuristics import HEURISTICS, evaluate_heuristics
from placer.heuristics._list_scheduling import Tasks, schedule, upward_ranks
from placer.heuristics.round_robin import equal_blocks
from placer.problem import Problem
from placer.simulator import Simulator
from placer.strategies import resolve
from tests.heuristics.builders import chain, gpus, op


def _problem(ops: Sequence[Op], cluster: Cluster) -> Problem:
    """A problem with a group per op."""
    graph = OpGraph.from_ops("example", ops)
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def _candidates(name: str, problem: Problem) -> NDArray[np.int32]:
    return resolve("heuristic", name, HEURISTICS)(problem, np.random.default_rng(0))


# Topcuoglu, Hariri and Wu (2002), figure 2: ten tasks on three processors, fully connected at one
# unit of data per unit of time.
COSTS = [
    [14, 16, 9],
    [13, 19, 18],
    [11, 13, 19],
    [13, 8, 17],
    [12, 13, 10],
    [13, 16, 9],
    [7, 15, 11],
    [5, 11, 14],
    [18, 12, 20],
    [21, 7, 16],
]
EDGES = {
    (1, 2): 18,
    (1, 3): 12,
    (1, 4): 9,
    (1, 5): 11,
    (1, 6): 14,
    (2, 8): 19,
    (2, 9): 16,
    (3, 7): 23,
    (4, 8): 27,
    (4, 9): 23,
    (5, 9): 13,
    (6, 8): 15,
    (7, 10): 17,
    (8, 10): 11,
    (9, 10): 13,
}


def _topcuoglu() -> Tasks:
    ends = np.array(list(EDGES), np.int32) - 1
    return Tasks(
        seconds=np.array(COSTS, float),
        order=np.arange(10, dtype=np.int32),
        producers=ends[:, 0],
        consumers=ends[:, 1],
        bytes=np.array(list(EDGES.values()), float),
        latency_seconds=np.zeros((3, 3)),
        bandwidth=np.where(np.eye(3, dtype=bool), np.inf, 1.0),
        slots=(1, 1, 1),
        memory_bytes=np.full(3, np.inf),
        group_of_task=np.arange(10, dtype=np.int32),
        allowed=np.ones((10, 3), bool),
        parameter_bytes=np.zeros(10),
        group_names=tuple(f"n{i + 1}" for i in range(10)),
    )


def test_upward_ranks_are_those_of_the_paper() -> None:
    """Table 1 of Topcuoglu et al. (2002)."""
    expected = [108, 77, 80, 80, 69, 63.333, 42.667, 35.667, 44.333, 14.667]
    assert upward_ranks(_topcuoglu()) == pytest.approx(expected, abs=1e-3)


def test_heft_s_schedule_is_that_of_the_paper() -> None:
    """Figure 3(a) of Topcuoglu et al. (2002): a makespan of 80, and who runs where."""
    tasks = _topcuoglu()
    result = schedule(tasks, upward_ranks(tasks))
    assert result.finish_seconds.max() == 80
    assert result.device_of_group.tolist() == [2, 0, 2, 1, 2, 1, 2, 0, 1, 1]
    assert result.start_seconds[[0, 9]].tolist() == [0, 73]


def test_heft_fills_a_gap() -> None:
    """A short task of low rank runs in the idle time before a long one that waits for data."""
    # a and b are first; c waits on device 0 for b's data until 5; d (rank 2) fits before it
    tasks = Tasks(
        seconds=np.array([[1.0, 9], [9, 1], [4, 40], [2, 90]]),
        order=np.arange(4, dtype=np.int32),
        producers=np.array([0, 1], np.int32),
        consumers=np.array([2, 2], np.int32),
        bytes=np.array([4.0, 4.0]),
        latency_seconds=np.zeros((2, 2)),
        bandwidth=np.where(np.eye(2, dtype=bool), np.inf, 1.0),
        slots=(1, 1),
        memory_bytes=np.full(2, np.inf),
        group_of_task=np.arange(4, dtype=np.int32),
        allowed=np.ones((4, 2), bool),
        parameter_bytes=np.zeros(4),
        group_names=("a", "b", "c", "d"),
    )
    result = schedule(tasks, np.array([9.0, 8, 7, 6]))
    assert result.device_of_group.tolist() == [0, 1, 0, 0]
    assert result.start_seconds.tolist() == [0, 0, 5, 1]


def test_heft_keeps_to_memory() -> None:
    """Two ops with variables that do not fit one device go to two, whatever the transfer."""
    ops = [op("a", parameter_bytes=6), op("b", "a", size=99, parameter_bytes=6)]
    choices = _candidates("heft", _problem(ops, gpus(2, memory_bytes=10)))
    assert choices.tolist() == [[0, 1]]


def test_heft_places_a_group_for_all_of_it() -> None:
    """A group whose first op is as quick on the CPU goes where the rest is quick."""
    ops = [
        op("layer/shape", "", 0.0),
        op("layer/matmul", "layer/shape"),
        op("next", "layer/matmul"),
    ]
    graph = OpGraph.from_ops("example", ops)
    groups = OpGroups(graph, np.array([0, 0, 1], np.int32), ("layer", "next"))
    cluster = gpus(1, cpu=True)
    problem = Problem(graph, cluster, groups, Simulator(graph, cluster))
    assert _candidates("heft", problem).tolist() == [[1, 1]]


def test_single_device_has_a_candidate_per_device_and_leaves_out_what_it_cannot_run() -> None:
    """An op for the CPU only stays there."""
    ops = [op("decode", device_kinds=("cpu",)), op("matmul", "decode")]
    choices = _candidates("single_device", _problem(ops, gpus(2, cpu=True)))
    assert choices.tolist() == [[0, 0], [0, 1], [0, 2]]


def test_single_device_shows_that_a_device_is_too_small() -> None:
    """Variables larger than a device are placed there all the same, and reported."""
    problem = _problem(
        [op("a", parameter_bytes=6), op("b", parameter_bytes=6)], gpus(1, memory_bytes=10)
    )
    evaluations = problem.evaluate(_candidates("single_device", problem))
    assert not evaluations.feasible[0]
    assert "gpu:0" in str(evaluations.reasons[0])


def test_round_robin_deals_equal_blocks_to_the_accelerators() -> None:
    """Six ops in a chain on two GPUs beside a CPU: three each, the CPU none."""
    choices = _candidates("round_robin", _problem(chain(6).ops(), gpus(2, cpu=True)))
    assert choices.tolist() == [[1, 1, 1, 2, 2, 2]]


def test_equal_blocks_balance_work_not_counts() -> None:
    """A heavy item counts for several light ones."""
    assert equal_blocks(np.array([3.0, 1, 1, 1]), 2).tolist() == [0, 1, 1, 1]
    assert equal_blocks(np.ones(5), 1).tolist() == [0] * 5
    assert equal_blocks(np.ones(2), 4).tolist() == [1, 3]


def test_metis_cuts_the_light_edges() -> None:
    """Two chains of heavy tensors joined by a light one are put on two GPUs."""
    ops = [
        *(op(f"a{i}", f"a{i - 1}" if i else "", size=100) for i in range(4)),
        op("b0", "a0 a3", size=100),
        *(op(f"b{i}", f"b{i - 1}", size=100) for i in range(1, 4)),
    ]
    ops[3] = op("a3", "a2", size=1)
    ops[4] = op("b0", "a3", size=100)
    (choices,) = _candidates("metis", _problem(ops, gpus(2, cpu=True)))
    assert len(set(choices[:4])) == len(set(choices[4:])) == 1
    assert {choices[0], choices[4]} == {1, 2}


def test_random_draws_every_allowed_device_alike() -> None:
    """Over many groups each of three devices has its third; a constrained op has one."""
    ops = [op(f"op{i}") for i in range(3000)] + [op("decode", device_kinds=("cpu",))]
    (choices,) = _candidates("random", _problem(ops, gpus(2, cpu=True)))
    assert choices[-1] == 0
    assert np.bincount(choices[:-1]) == pytest.approx([1000] * 3, abs=120)


def test_heft_lets_a_variable_follow_its_reader() -> None:
    """The read of a variable chooses nothing: it goes where the op that needs it goes."""
    # a is bound to the second device, and moving its result to b takes 50 seconds
    ops = [
        op("a", size=50, device_kinds=("cpu",)),
        op("w/read", size=50, colocation_group="w"),
        op("b", "a w/read"),
        op("w/update", "b", colocation_group="w"),
    ]
    graph = OpGraph.from_ops("example", ops)
    groups = OpGroups(graph, np.array([0, 1, 2, 1], np.int32), ("a", "w", "b"))
    devices = (
        Device("gpu:0", "gpu", memory_bytes=1e9),
        Device("cpu:0", "cpu", model="gpu", memory_bytes=1e9),  # as fast as a GPU
    )
    cluster = Cluster("two", devices, (Link(("gpu:0", "cpu:0"), 1.0),))
    problem = Problem(graph, cluster, groups, Simulator(graph, cluster))
    assert _candidates("heft", problem).tolist() == [[1, 1, 1]]


def test_expert_and_metis_show_that_groups_permit_good_placements() -> None:
    """On RNNLM over NVLink both are at least 25% faster than one GPU."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("v100x8"))
    names = ["single_device", "expert", "metis"]
    rows = evaluate_heuristics(problem, np.random.default_rng(0), names)
    seconds = {row.name: row.step_time_seconds for row in rows}
    for name in names[1:]:
        assert seconds[name] <= 0.75 * seconds["single_device:gpu:0"]
