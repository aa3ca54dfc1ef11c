"""Lower bounds: by hand, and against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from placer.bounds import Bound, lower_bound, lower_bounds
from placer.cluster import Cluster, Device, Link
from placer.errors import InfeasibleError
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.heuristics import evaluate_heuristics
from placer.problem import Problem
from placer.search import exact
from placer.simulator import Simulator
from tests.heuristics.builders import chain, gpus, op
from tests.search.tiny import problems
from tests.toys import all_choices, make_toy


def one_group_per_op(graph: OpGraph, cluster: Cluster) -> Problem:
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


def bounds_of(graph: OpGraph, cluster: Cluster) -> dict[str, float]:
    found = lower_bounds(one_group_per_op(graph, cluster))
    return {bound.name: bound.seconds for bound in found}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems())
def test_no_bound_exceeds_the_best_placement(problem: Problem) -> None:
    """Any graph, constraints, memory, channels, slots and both orders."""
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    try:
        found = lower_bounds(problem)
    except InfeasibleError:
        assert np.isinf(best)
        return
    assert {bound.name for bound in found} >= {"critical_path", "work", "schedule"}
    for bound in found:
        assert 0 < bound.seconds <= best
    assert lower_bound(problem).seconds == max(bound.seconds for bound in found)


@pytest.mark.parametrize("num_devices", [2, 3])
def test_bounds_are_near_the_best_placement_of_toys(num_devices: int) -> None:
    """The schedule's bound most of all; a bound of nothing would hold, too."""
    gaps = []
    for seed in range(8):
        problem = make_toy(6, num_devices, seed=seed)
        best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
        gaps.append(lower_bound(problem).seconds / best)
    assert min(gaps) > 0.8
    assert np.median(gaps) > 0.97


def test_a_chain_takes_its_fastest_devices() -> None:
    """Three ops that a CPU runs in 10 s and a GPU in 1 s; transfers would only add to that."""
    bounds = bounds_of(chain(3), gpus(1, cpu=True))
    assert bounds["critical_path"] == 3.0
    assert "forced_transfer" not in bounds


def test_independent_work_is_spread_in_fractions() -> None:
    """33 s of work on a GPU, or 330 s on a CPU, are done after 30 s by both."""
    graph = OpGraph.from_ops("free", [op(f"op{i}", seconds=3.0) for i in range(11)])
    assert bounds_of(graph, gpus(1, cpu=True))["work"] == pytest.approx(30.0, rel=1e-6)
    assert bounds_of(graph, gpus(3))["work"] == pytest.approx(11.0, rel=1e-6)


def test_slots_share_the_work() -> None:
    """Two devices, one of which runs three ops at once, have four slots."""
    graph = OpGraph.from_ops("free", [op(f"op{i}") for i in range(10)])
    devices = tuple(Device(f"gpu:{i}", "gpu", memory_bytes=1e9, slots=1 + 2 * i) for i in range(2))
    cluster = Cluster("slots", devices, (Link(("gpu:0", "gpu:1"), 1.0),))
    assert bounds_of(graph, cluster)["work"] == pytest.approx(2.5, rel=1e-6)


def test_memory_forces_work_onto_slower_devices() -> None:
    """10 ops of 1 s; a GPU has memory for the variables of 6, so that the CPU runs 4, 10 s each."""
    graph = OpGraph.from_ops("full", [op(f"op{i}", parameter_bytes=5, size=0) for i in range(10)])
    devices = (
        Device("cpu:0", "cpu", memory_bytes=1e9),
        Device("gpu:0", "gpu", memory_bytes=30),
    )
    bounds = bounds_of(graph, Cluster("small", devices, (Link(("cpu:0", "gpu:0"), 1.0),)))
    assert bounds["work"] == pytest.approx(40.0, rel=1e-6)


def test_work_between_what_comes_before_and_after_counts_on_top() -> None:
    """A second, six seconds of work for two devices, a second."""
    middle = [op(f"m{i}", "first") for i in range(6)]
    last = op("last", " ".join(f"m{i}" for i in range(6)))
    graph = OpGraph.from_ops("waist", [op("first"), *middle, last])
    assert bounds_of(graph, gpus(2))["work"] == pytest.approx(5.0, rel=1e-6)


def test_what_does_not_fit_one_device_sends_a_tensor() -> None:
    """Three ops of 1 s with 6 bytes each, on devices of 15 bytes; the least tensor takes 2 s."""
    ops = [
        Op("a", "Op", parameter_bytes=6, outputs=(Output(3),), seconds={"gpu": 1.0}),
        Op("b", "Op", ("a",), parameter_bytes=6, outputs=(Output(2),), seconds={"gpu": 1.0}),
        Op("c", "Op", ("b",), parameter_bytes=6, seconds={"gpu": 1.0}),
    ]
    graph = OpGraph.from_ops("split", ops)
    bounds = bounds_of(graph, gpus(2, memory_bytes=15))
    assert bounds["forced_transfer"] == 5.0
    assert bounds["schedule"] == 5.0
    assert "forced_transfer" not in bounds_of(graph, gpus(2, memory_bytes=18))


def test_sums_of_bytes_in_another_order_force_nothing() -> None:
    """0.3, 0.2 and 0.1 bytes fit 0.6, though 0.3, 0.1 and 0.2 add up to more in float64."""
    ops = [
        op("a", parameter_bytes=0.3, size=0),
        op("b", "c", parameter_bytes=0.2, size=0),
        op("c", "a", parameter_bytes=0.1, size=0),
    ]
    problem = one_group_per_op(OpGraph.from_ops("sums", ops), gpus(2, memory_bytes=0.6))
    assert problem.evaluate([[0, 0, 0]]).step_time_seconds[0] == 3.0
    assert lower_bound(problem).seconds == 3.0


def test_device_kinds_force_transfers_too() -> None:
    """One op runs on the CPU only, its consumer on the GPU only; control signals take 1 ns."""
    ops = [
        Op("a", "Op", device_kinds=("cpu",), seconds={"cpu": 2.0}),
        Op("b", "Op", ("^a",), device_kinds=("gpu",), seconds={"gpu": 3.0}),
    ]
    bounds = bounds_of(OpGraph.from_ops("kinds", ops), gpus(1, cpu=True))
    assert bounds["critical_path"] == 5.0
    assert bounds["forced_transfer"] == 5.000000001
    assert lower_bound(one_group_per_op(OpGraph.from_ops("kinds", ops), gpus(1, cpu=True))) == (
        Bound("forced_transfer", 5.000000001)
    )


def test_a_schedule_knows_that_channels_are_taken() -> None:
    """Two tensors of 4 s to where alone they can be used share a channel."""
    source = Op(
        "s", "Op", outputs=(Output(4), Output(4)), device_kinds=("cpu",), seconds={"cpu": 1.0}
    )
    sinks = [
        Op(f"t{i}", "Op", (f"s:{i}",), device_kinds=("gpu",), seconds={"gpu": 1.0}) for i in (0, 1)
    ]
    bounds = bounds_of(OpGraph.from_ops("fork", [source, *sinks]), gpus(1, cpu=True))
    assert bounds["forced_transfer"] == 6.0
    assert bounds["schedule"] == 10.0


def test_the_solver_gives_up_where_it_gains_a_nanosecond_at_a_time() -> None:
    """Two slots, 107 s of work of which nothing fits together; what is proven is a bound."""
    ops = [op(f"op{i}", seconds=s, size=0) for i, s in enumerate([50, 50, 3, 2])]
    ops.append(op("last", "op0", seconds=2, size=0))
    device = Device("gpu:0", "gpu", memory_bytes=1e9, slots=2)
    graph, cluster = OpGraph.from_ops("long", ops), Cluster("two slots", (device,), ())
    bounds = bounds_of(graph, cluster)
    assert 53.49 < bounds["schedule"] < 54.0 == Simulator(graph, cluster).step_time([0] * 5)


@pytest.mark.parametrize(
    ("parameter_bytes", "memory_bytes"), [(1.0, 1e20), (3e18, 1e20), (3e19, 1e20), (4e18, 9e18)]
)
def test_bytes_beyond_the_solvers_integers_leave_bounds(
    parameter_bytes: float, memory_bytes: float
) -> None:
    """Memory of 1e20 bytes means that there is no limit; exact search takes it, too."""
    ops = [
        op(f"op{i}", f"op{i - 1}" if i % 2 else "", size=0, parameter_bytes=parameter_bytes)
        for i in range(4)
    ]
    problem = one_group_per_op(OpGraph.from_ops("huge", ops), gpus(2, memory_bytes=memory_bytes))
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    assert min(bound.seconds for bound in lower_bounds(problem)) > 0
    assert lower_bound(problem).seconds <= best
    assert exact.search(problem, evaluations=100, seed=0).step_time_seconds == best


def test_the_schedule_s_bound_is_a_whole_number_of_nanoseconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The solver's figure may be off by rounding; the bound is no more than the step time."""
    from ortools.sat.python import cp_model

    bound = cp_model.CpSolver.best_objective_bound.fget
    rounded_up = property(lambda solver: np.nextafter(bound(solver), np.inf))
    monkeypatch.setattr(cp_model.CpSolver, "best_objective_bound", rounded_up)
    problem = make_toy(4)
    best = problem.evaluate(all_choices(problem)).step_time_seconds.min()
    assert lower_bound(problem).seconds == best


def test_what_fits_nowhere_says_how_many_bytes_are_too_many() -> None:
    """The variables together exceed all memory together."""
    graph = OpGraph.from_ops("huge", [op(f"op{i}", parameter_bytes=700) for i in range(3)])
    with pytest.raises(InfeasibleError, match=r"2,100 bytes.*2,000: 100 too many"):
        lower_bounds(one_group_per_op(graph, gpus(2, memory_bytes=1000)))


def test_what_fits_only_the_wrong_kind_is_infeasible() -> None:
    """A CPU with memory for all does not help ops that cannot run there."""
    ops = [
        Op(f"op{i}", "Op", parameter_bytes=700, device_kinds=("gpu",), seconds={"gpu": 1.0})
        for i in range(3)
    ]
    devices = (Device("cpu:0", "cpu", memory_bytes=1e9), Device("gpu:0", "gpu", memory_bytes=1000))
    cluster = Cluster("kinds", devices, (Link(("cpu:0", "gpu:0"), 1.0),))
    with pytest.raises(InfeasibleError, match="exceed the memory"):
        lower_bounds(one_group_per_op(OpGraph.from_ops("huge", ops), cluster))


@pytest.mark.parametrize("cluster", ["p100x4", "v100x8"])
def test_bundled_graphs_have_bounds(cluster: str) -> None:
    """Below every heuristic, and the same each time."""
    problem = Problem.build(OpGraph.load("rnnlm"), Cluster.load(cluster))
    rows = evaluate_heuristics(problem, np.random.default_rng(0), ["single_device", "expert"])
    best = min(row.step_time_seconds for row in rows)
    bound = lower_bound(problem)
    assert 0.1 * best < bound.seconds < best
    assert lower_bound(problem) == bound
