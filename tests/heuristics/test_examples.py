"""Heuristics on examples that are worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from placer.cluster import Cluster, Device, Link
from placer.graph import OpGraph
from placer.grouping import OpGroups
from placer.heuristics import evaluate_heuristics
from placer.heuristics.topological_blocks import equal_blocks
from placer.problem import Problem
from placer.simulator import Simulator
from tests.heuristics.builders import candidates, chain, gpus, op, problem_of


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
    assert candidates("heft", problem).tolist() == [[1, 1]]


def test_single_device_has_a_candidate_per_device_and_leaves_out_what_it_cannot_run() -> None:
    """An op for the CPU only stays there."""
    ops = [op("decode", device_kinds=("cpu",)), op("matmul", "decode")]
    choices = candidates("single_device", problem_of(ops, gpus(2, cpu=True)))
    assert choices.tolist() == [[0, 0], [0, 1], [0, 2]]


def test_single_device_shows_that_a_device_is_too_small() -> None:
    """Variables larger than a device are placed there all the same, and reported."""
    problem = problem_of(
        [op("a", parameter_bytes=6), op("b", parameter_bytes=6)], gpus(1, memory_bytes=10)
    )
    evaluations = problem.evaluate(candidates("single_device", problem))
    assert not evaluations.feasible[0]
    assert "gpu:0" in str(evaluations.reasons[0])


def test_round_robin_deals_groups_to_the_accelerators() -> None:
    """Five ops on two GPUs beside a CPU: one each in turn, the CPU none."""
    choices = candidates("round_robin", problem_of(chain(5).ops(), gpus(2, cpu=True)))
    assert choices.tolist() == [[1, 2, 1, 2, 1]]


def test_topological_blocks_are_equal_and_one_to_each_accelerator() -> None:
    """Six ops in a chain on two GPUs beside a CPU: three each, the CPU none."""
    choices = candidates("topological_blocks", problem_of(chain(6).ops(), gpus(2, cpu=True)))
    assert choices.tolist() == [[1, 1, 1, 2, 2, 2]]


def test_equal_blocks_balance_work_not_counts() -> None:
    """A heavy item counts for several light ones."""
    assert equal_blocks(np.array([3.0, 1, 1, 1]), 2).tolist() == [0, 1, 1, 1]
    assert equal_blocks(np.ones(5), 1).tolist() == [0] * 5
    assert equal_blocks(np.ones(2), 4).tolist() == [1, 3]


@pytest.mark.parametrize(("name", "cpu"), [("metis", False), ("min_cut", True)])
def test_metis_cuts_the_light_edges(name: str, cpu: bool) -> None:
    """Two chains of heavy tensors joined by a light one are put on two GPUs."""
    ops = [
        *(op(f"a{i}", f"a{i - 1}" if i else "", size=100) for i in range(4)),
        op("b0", "a0 a3", size=100),
        *(op(f"b{i}", f"b{i - 1}", size=100) for i in range(1, 4)),
    ]
    ops[3] = op("a3", "a2", size=1)
    ops[4] = op("b0", "a3", size=100)
    (choices,) = candidates(name, problem_of(ops, gpus(2, cpu=cpu)))
    assert len(set(choices[:4])) == len(set(choices[4:])) == 1
    assert {choices[0], choices[4]} == {cpu, 1 + cpu}


def test_metis_gives_each_device_work_by_its_speed() -> None:
    """Of 210 ops alike, a CPU a tenth as fast as each of two GPUs gets about ten, or none."""
    problem = problem_of([op(f"op{i}") for i in range(210)], gpus(2, cpu=True))
    counts = np.bincount(candidates("metis", problem)[0])
    assert counts == pytest.approx([10, 100, 100], abs=4)
    counts = np.bincount(candidates("min_cut", problem)[0])
    assert counts == pytest.approx([0, 105, 105], abs=4)
    assert counts[0] == 0


def test_m_topo_fills_one_accelerator_after_the_other() -> None:
    """Jeon et al.'s cap by hand: 12 bytes over two devices, and 4 for the largest, are 10."""
    sizes = [4, 2, 2, 4]
    ops = [op(f"op{i}", size=0, parameter_bytes=size) for i, size in enumerate(sizes)]
    assert candidates("m_topo", problem_of(ops, gpus(2, cpu=True))).tolist() == [[1, 1, 1, 2]]
    small = gpus(2, cpu=True, memory_bytes=7)
    assert candidates("m_topo", problem_of(ops, small)).tolist() == [[1, 1, 2, 2]]


def test_random_draws_every_allowed_device_alike() -> None:
    """Over many groups each of three devices has its third; a constrained op has one."""
    ops = [op(f"op{i}") for i in range(3000)] + [op("decode", device_kinds=("cpu",))]
    (choices,) = candidates("random", problem_of(ops, gpus(2, cpu=True)))
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
    assert candidates("heft", problem).tolist() == [[1, 1, 1]]


def test_expert_and_min_cut_show_that_groups_permit_good_placements() -> None:
    """On RNNLM over NVLink both are at least 25% faster than one GPU."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("v100x8"))
    names = ["single_device", "expert", "min_cut"]
    rows = evaluate_heuristics(problem, np.random.default_rng(0), names)
    seconds = {row.name: row.step_time_seconds for row in rows}
    for name in names[1:]:
        assert seconds[name] <= 0.75 * seconds["single_device:gpu:0"]
