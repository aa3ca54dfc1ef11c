"""What the simulator says of placements that cannot be run, and of those that are none."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from placer.cluster import Cluster, Device, Link
from placer.errors import ClusterError, GraphError, PlacementError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.placement import Placement
from placer.simulator import Simulator
from tests.simulator.builders import cluster, graph, op

CHAIN = graph(op("a", 1, "", (100,)), op("b", 1, "a", (50,)), op("c", 1, "b"))


def test_too_much_memory_names_device_and_bytes() -> None:
    """The device, what it needs, what it has, and by how much that is too many."""
    large = graph(op("a", 1, "", (14e9,)))
    simulator = Simulator(large, cluster(2, memory_bytes=12e9))
    results = simulator.evaluate([[1]])
    assert results.step_time_seconds.tolist() == [np.inf]
    assert results.feasible.tolist() == [False]
    assert results.reasons == (
        "d1 needs 14,000,000,000 bytes of memory, has 12,000,000,000: 2,000,000,000 too many, "
        "at first for op 'a'",
    )
    schedule = simulator.schedule([1])
    assert not schedule.feasible
    assert schedule.infeasible_because == results.reasons[0]
    assert schedule.step_time_seconds == 1e-9, "the schedule is there all the same"


def test_every_device_with_too_little_memory_is_named() -> None:
    """Not only the first one; bytes that are not whole are not rounded away."""
    two = graph(op("a", 1, parameter_bytes=10.5), op("b", 1, parameter_bytes=20))
    (reason,) = Simulator(two, cluster(2, memory_bytes=10)).evaluate([[0, 1]]).reasons
    assert reason == (
        "d0 needs 10.5 bytes of memory, has 10: 0.5 too many, at first for op 'a'; "
        "d1 needs 20 bytes of memory, has 10: 10 too many, at first for op 'b'"
    )


def test_variables_that_are_too_large_name_the_op_with_which_they_become_so() -> None:
    """Added up in the user's order; what begins later is not named."""
    ops = graph(
        op("a", 1, "c", parameter_bytes=6),
        op("b", 1, parameter_bytes=5),
        op("c", 1, "", (99,), parameter_bytes=9),
    )
    schedule = Simulator(ops, cluster(1, memory_bytes=10)).schedule([0, 0, 0])
    assert schedule.first_overflow == {"d0": "b"}


def test_of_transfers_that_start_together_those_on_idle_channels_overflow_first() -> None:
    """Before one that waited, though it entered earlier; and transfers before starts of ops."""
    ops = [
        op("a", 1, "", (1, 7)),  # its second tensor waits for the first, from 1 to 2
        op("b", 2, "", (5,)),
        op("c", 2),
        op("d", 1, "^c", (9,)),
        op("e", 1, "a:0 a:1 b:0 d"),
    ]
    schedule = Simulator(graph(*ops), cluster(3, memory_bytes=8)).schedule([0, 1, 2, 2, 2])
    assert [(t.tensor, t.start_seconds) for t in schedule.transfers] == [
        ("a:0", 1e-9),
        ("a:1", 2e-9),
        ("b:0", 2e-9),
    ]
    assert schedule.first_overflow == {"d2": "a"}, "1 + 5 bytes fit, 7 more do not"
    smaller = Simulator(graph(*ops), cluster(3, memory_bytes=5)).schedule([0, 1, 2, 2, 2])
    assert smaller.first_overflow["d2"] == "b"


def test_a_broken_constraint_goes_before_memory() -> None:
    """Of several, the first op in the user's order."""
    ops = graph(
        op("a", 1, "", (20,), colocation_group="x"),
        op("b", 1),
        op("c", 1, colocation_group="x"),
        op("d", 1, device_kinds=("gpu",)),
    )
    devices = (Device("d0", "gpu", memory_bytes=10), Device("d1", "cpu", memory_bytes=10))
    slow = OpGraph.from_ops("slow", [replace(o, seconds={}) for o in ops.ops()])
    mixed = Cluster("mixed", devices, cluster(2).links)
    reasons = Simulator(slow, mixed).evaluate([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).reasons
    assert reasons == (
        "op 'c' is on d1, but op 'a' of its colocation group 'x' is on d0",
        "op 'd' is on d1, of kind 'cpu'; it can run on 'gpu'",
        "d0 needs 20 bytes of memory, has 10: 10 too many, at first for op 'a'",
    )


def test_memory_may_be_full() -> None:
    """To the last byte."""
    assert Simulator(CHAIN, cluster(1, memory_bytes=150)).step_time([0, 0, 0]) == 3e-9
    assert Simulator(CHAIN, cluster(1, memory_bytes=149)).step_time([0, 0, 0]) == np.inf


def test_a_wrong_kind_of_device_is_infeasible() -> None:
    """And not an exception: the reason names op, device and the kinds that would do."""
    picky = graph(op("a", 1), op("b", 1, device_kinds=("tpu", "gpu")))
    devices = (Device("d0", "cpu", memory_bytes=1e9), Device("d1", "gpu", memory_bytes=1e9))
    mixed = Cluster("mixed", devices, cluster(2).links)
    results = Simulator(picky, mixed).evaluate([[1, 0], [1, 1]])
    assert results.feasible.tolist() == [False, True]
    assert results.reasons == (
        "op 'b' is on d0, of kind 'cpu'; it can run on 'tpu' or 'gpu'",
        None,
    )


def test_a_split_colocation_group_is_infeasible() -> None:
    """The reason names the group, both ops and both devices."""
    held = graph(
        op("a", 1), op("w", 1, colocation_group="vars"), op("x", 1, colocation_group="vars")
    )
    results = Simulator(held, cluster(2)).evaluate([[0, 1, 1], [1, 1, 0]])
    assert results.feasible.tolist() == [True, False]
    assert results.reasons[1] == (
        "op 'x' is on d0, but op 'w' of its colocation group 'vars' is on d1"
    )


def test_an_empty_batch() -> None:
    """Gives empty results."""
    results = Simulator(CHAIN, cluster(2)).evaluate(np.empty((0, 3), int))
    assert results.step_time_seconds.shape == (0,)
    assert results.feasible.shape == (0,)
    assert results.reasons == ()


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ([0, 0], r"has shape \(2,\); expected \(3,\)"),
        ([[0, 0, 0]], r"has shape \(1, 3\); expected \(3,\)"),
        ([0.0, 0.0, 0.0], "has dtype float64; expected integers"),
        ([0, 0, 2], r"op 'c'\) is 2; expected a device index from 0 to 1"),
        ([-1, 0, 0], r"op 'a'\) is -1; expected a device index from 0 to 1"),
    ],
)
def test_what_is_no_placement(placement: list[object], message: str) -> None:
    """Is an error that says what was given and what was expected."""
    simulator = Simulator(CHAIN, cluster(2))
    for use in (simulator.step_time, simulator.schedule):
        with pytest.raises(PlacementError, match=message):
            use(placement)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 1, 3), (0,)])
def test_what_is_no_batch(shape: tuple[int, ...]) -> None:
    """Says the shape that was given and that expected."""
    with pytest.raises(PlacementError, match=r"has?v?e? shape .*; expected .*\(batch, 3\)"):
        Simulator(CHAIN, cluster(2)).evaluate(np.zeros(shape, int))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_any_integers_do(dtype: type) -> None:
    """In any memory layout, read-only arrays included."""
    simulator = Simulator(CHAIN, cluster(2))
    placements = np.asfortranarray(np.array([[0, 0, 0], [0, 1, 0]], dtype))
    placements.setflags(write=False)
    times = simulator.evaluate(placements).step_time_seconds
    assert times.tolist() == [simulator.step_time([0, 0, 0]), simulator.step_time([0, 1, 0])]
    assert simulator.step_time(placements[1]) == times[1]


def test_a_placement_object_is_taken_if_it_is_for_this_simulator() -> None:
    """One for another graph, cluster, order or priorities would be simulated wrongly."""
    two = cluster(2)
    simulator = Simulator(CHAIN, two, order="priority", priorities=[1, 2, 3])
    devices = np.array([0, 1, 0], np.int32)
    made_for_it = Placement(CHAIN, two, devices, "priority", np.array([1.0, 2, 3]))
    assert simulator.step_time(made_for_it) == simulator.step_time(devices)
    assert simulator.schedule(made_for_it) == simulator.schedule(devices)
    other_graph = graph(op("a", 1), op("b", 1), op("c", 1))
    for wrong, message in [
        (Placement(other_graph, two, devices, "priority"), "another graph"),
        (Placement(CHAIN, cluster(2, "bus"), devices, "priority"), "another cluster"),
        (Placement(CHAIN, two, devices), "is for order 'fifo'"),
        (Placement(CHAIN, two, devices, "priority", np.zeros(3)), "other priorities"),
        (Placement(CHAIN, two, devices, "priority"), "other priorities"),
    ]:
        with pytest.raises(PlacementError, match=message):
            simulator.step_time(wrong)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": "lifo"}, UsageError, "order is 'lifo'; expected 'fifo' or 'priority'"),
        ({"num_threads": 0}, UsageError, "num_threads is 0; expected a whole number from 1"),
        ({"num_threads": 1.5}, UsageError, "num_threads is 1.5; expected a whole number"),
        ({"order": "priority", "priorities": ["a", "b", "c"]}, PlacementError, "no numbers"),
        (
            {"priorities": [1, 2, 3]},
            PlacementError,
            "priorities are given, but the order is 'fifo'",
        ),
        (
            {"order": "priority", "priorities": [1, 2]},
            PlacementError,
            r"priorities have shape \(2,\); expected \(3,\)",
        ),
        (
            {"order": "priority", "priorities": [1, 2, np.nan]},
            PlacementError,
            "priority of op 'c' is nan; not finite",
        ),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type, message: str) -> None:
    """Each has one clear message."""
    with pytest.raises(error, match=message):
        Simulator(CHAIN, cluster(2), **arguments)


@pytest.mark.parametrize("seconds", [1e7, 1e300])
def test_durations_beyond_exact_nanoseconds_are_refused(seconds: float) -> None:
    """The op or the link is named, before anything overflows."""
    graph = OpGraph.from_ops(
        "long",
        [Op("a", "Op", outputs=(Output(8),), seconds={"gpu": seconds}), Op("b", "Op", ("a",))],
    )
    gpus = tuple(Device(name, "gpu", memory_bytes=99) for name in ("gpu:0", "gpu:1"))
    names = ("gpu:0", "gpu:1")
    with pytest.raises(GraphError, match="op 'a' takes .* s on gpu:0; expected less than 9.01e"):
        Simulator(graph, Cluster("c", gpus, (Link(names, 1.0),)))
    short = OpGraph.from_ops("short", [Op("a", "Op", outputs=(Output(8),)), Op("b", "Op", ("a",))])
    with pytest.raises(ClusterError, match="sending 8 bytes from gpu:0 to gpu:1 takes .* s"):
        Simulator(short, Cluster("c", gpus, (Link(names, 1.0, seconds),)))
