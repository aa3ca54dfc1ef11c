"""Problem: choices of op groups, where they may go, and what evaluating them gives."""

from __future__ import annotations

import numpy as np
import pytest

from placer.cluster import Cluster, Device, Link
from placer.errors import ClusterError, InfeasibleError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator


def _device(name: str, kind: str, memory_bytes: float = 1e9) -> Device:
    return Device(name, kind, memory_bytes=memory_bytes, flops=1e9, memory_bandwidth=1e9, slots=1)


CLUSTER = Cluster(
    "two",
    (_device("cpu:0", "cpu"), _device("gpu:0", "gpu", 100)),
    (Link(("cpu:0", "gpu:0"), 1e9, 1e-6),),
)


def _graph(**changes: object) -> OpGraph:
    big = {"flops": 2e6, "outputs": (Output(40),), **changes}
    return OpGraph.from_ops(
        "abc",
        [
            Op("a", "MatMul", flops=1e6, outputs=(Output(40), Output(40))),
            Op("b", "MatMul", inputs=("a:0",), **big),
            Op("c", "MatMul", inputs=("a:1",), flops=3e6, outputs=(Output(40),)),
        ],
    )


def _problem(graph: OpGraph, cluster: Cluster = CLUSTER) -> Problem:
    """Each op is an op group of its own."""
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names, ())
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def test_choices_expand_to_the_ops_of_their_groups() -> None:
    """Every op gets the device of its op group, for one row and for a batch."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load("k80x2"))
    choices = np.random.default_rng(0).integers(0, 3, (4, problem.num_groups))
    placements = problem.expand(choices)
    assert placements.shape == (4, problem.graph.num_ops)
    assert placements.flags.c_contiguous
    for op, group in enumerate(problem.groups.group_of_op):
        assert placements[2, op] == choices[2, group]
    assert np.array_equal(problem.expand(choices[2]), placements[2])


def test_device_kinds_and_memory_of_variables_bound_the_choices() -> None:
    """A group may go where all its ops may run and its variables fit."""
    problem = _problem(_graph(device_kinds=("gpu",)))
    assert problem.allowed.tolist() == [[True, True], [False, True], [True, True]]
    problem = _problem(_graph(parameter_bytes=101))
    assert problem.allowed.tolist() == [[True, True], [True, False], [True, True]]


def test_an_op_group_that_fits_nowhere_is_named() -> None:
    """The message has the op group and the bytes, or the kinds."""
    with pytest.raises(InfeasibleError, match="'b' has 2,000,000,000 bytes of variables"):
        _ = _problem(_graph(parameter_bytes=2e9)).allowed
    with pytest.raises(ClusterError, match="op 'b' needs a device of kind tpu; cluster 'two' has"):
        _ = _problem(_graph(device_kinds=("tpu",))).allowed


def test_the_reference_is_the_serial_time_of_the_best_device() -> None:
    """It equals the step time of the fastest single device, memory aside."""
    problem = _problem(_graph())
    assert problem.reference_seconds == pytest.approx(6e-3)
    assert problem.evaluate([[0, 0, 0]]).step_time_seconds[0] == problem.reference_seconds


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([[0, 0]], r"have shape \(1, 2\); expected \(3,\) or \(batch, 3\)"),
        ([0, 0, 0], r"have shape \(3,\); expected \(batch, 3\)"),
        ([[0.0, 0.0, 0.0]], "have dtype float64; expected integers"),
        ([[0, 0, 2]], "choices reach from 0 to 2; expected device indices from 0 to 1"),
        ([[0, 0, 0], [0, 0]], "choices are no array: .* inhomogeneous"),
    ],
)
def test_a_batch_of_wrong_shape_is_refused(choices: list[object], message: str) -> None:
    """The message has the shape that was given and the one expected."""
    with pytest.raises(UsageError, match=message):
        _problem(_graph()).evaluate(choices)


def test_a_start_with_rows_of_unlike_lengths_is_refused() -> None:
    """As any other start that is none."""
    with pytest.raises(UsageError, match="choices are no array"):
        _problem(_graph()).check_start([[0, 0, 0], [0]])


def test_infeasible_rows_do_not_stop_a_batch() -> None:
    """Each row has its own verdict; the reason names device and bytes."""
    graph = OpGraph.from_ops(
        "big",
        [
            Op("a", "Op", flops=1e6, parameter_bytes=60, outputs=(Output(1),)),
            Op("b", "Op", flops=1e6, parameter_bytes=60, inputs=("a",)),
        ],
    )
    result = _problem(graph).evaluate([[1, 1], [0, 1], [0, 0]])
    assert result.feasible.tolist() == [False, True, True]
    assert np.isinf(result.step_time_seconds).tolist() == [True, False, False]
    assert result.reasons[0] is not None
    assert "gpu:0" in result.reasons[0]
    assert "121" in result.reasons[0]
    assert result.reasons[1:] == (None, None)
