"""Examples worked by hand: each number below follows from docs/simulator.md with a pencil."""

from __future__ import annotations

import pytest

from placer.cluster import Cluster, Device
from placer.graph import Op
from placer.simulator import Simulator
from tests.simulator.builders import cluster, graph, op, op_times, transfer_times

DIAMOND = graph(
    op("a", 10, "", (4,)),
    op("b", 5, "a", (2,)),
    op("c", 7, "a", (6,)),
    op("d", 3, "b c"),
)


def test_diamond_over_a_shared_bus() -> None:
    """Two transfers of the same tensor to two devices queue on the bus; the second one waits."""
    schedule = Simulator(DIAMOND, cluster(3, "bus", latency_ns=1)).schedule([0, 1, 2, 0])
    assert op_times(schedule) == {"a": (0, 10), "b": (15, 20), "c": (20, 27), "d": (34, 37)}
    assert transfer_times(schedule) == [
        ("a:0", "d1", 10, 15),
        ("a:0", "d2", 15, 20),
        ("b:0", "d0", 20, 23),
        ("c:0", "d0", 27, 34),
    ]
    assert schedule.step_time_seconds == 37 / 1e9
    assert schedule.busy_seconds == {"d0": 13 / 1e9, "d1": 5 / 1e9, "d2": 7 / 1e9}
    assert (schedule.num_transfers, schedule.transfer_bytes) == (4, 16)
    # d0 holds a until its second transfer is done at 20, when the copy of b begins; then c's too
    assert schedule.peak_memory_bytes == {"d0": 8, "d1": 6, "d2": 10}


def test_diamond_over_channels_of_their_own() -> None:
    """With a channel per ordered pair both transfers go at once."""
    schedule = Simulator(DIAMOND, cluster(3, "pair", latency_ns=1)).schedule([0, 1, 2, 0])
    assert op_times(schedule) == {"a": (0, 10), "b": (15, 20), "c": (15, 22), "d": (29, 32)}


@pytest.mark.parametrize(
    ("channel", "waits"),
    [
        #             there and back, one source, disjoint, same link
        ("pair", (False, False, False, True)),
        ("unordered", (True, False, False, True)),
        ("source", (False, True, False, True)),
        ("bus", (True, True, True, True)),
        ("none", (False, False, False, False)),
    ],
)
def test_which_transfers_share_a_channel(channel: str, waits: tuple[bool, ...]) -> None:
    """Each channel model makes exactly those transfers wait that it should."""
    pairs = [((0, 1), (1, 0)), ((0, 1), (0, 2)), ((0, 1), (2, 3)), ((0, 1), (0, 1))]
    two_senders = graph(
        op("x", 10, "", (5,)), op("y", 10, "", (5,)), op("u", 1, "x"), op("v", 1, "y")
    )
    simulator = Simulator(two_senders, cluster(4, channel, slots=2))
    for ((source, target), (other_source, other_target)), wait in zip(pairs, waits, strict=True):
        schedule = simulator.schedule([source, other_source, target, other_target])
        first, second = schedule.transfers
        assert (first.tensor, first.start_seconds, first.finish_seconds) == ("x:0", 1e-8, 1.5e-8)
        assert (second.tensor, second.start_seconds) == ("y:0", 1.5e-8 if wait else 1e-8)


def test_a_tensor_goes_to_a_device_once() -> None:
    """However many consumers it has there; they all wait for that one transfer."""
    fan = graph(
        op("a", 10, "", (4,)),
        *(op(f"user{i}", 2, "a a" if i == 1 else "a") for i in range(3)),
        op("later", 1, "^user0 a"),
    )
    schedule = Simulator(fan, cluster(2)).schedule([0, 1, 1, 1, 1])
    assert transfer_times(schedule) == [("a:0", "d1", 10, 14)]
    assert op_times(schedule) == {
        "a": (0, 10),
        "user0": (14, 16),
        "user1": (16, 18),
        "user2": (18, 20),
        "later": (20, 21),
    }


def test_a_control_edge_is_a_transfer_of_no_bytes_once_per_device() -> None:
    """It takes the latency, and is sent once however many ops of the device wait for it."""
    controls = graph(op("a", 10), op("b", 1, "^a"), op("c", 1, "^a"), op("d", 1, "^a"))
    schedule = Simulator(controls, cluster(3, "source", latency_ns=3)).schedule([0, 1, 2, 1])
    assert transfer_times(schedule) == [("^a", "d1", 10, 13), ("^a", "d2", 13, 16)]
    assert schedule.transfer_bytes == 0


def test_an_op_s_transfers_queue_by_first_consumer_then_port_then_control() -> None:
    """Not by port or device alone: the tensor whose first consumer the user named first leads."""
    ops = graph(
        op("a", 1, "", (1, 1, 1)),
        op("b", 1, "a:2"),
        op("c", 1, "^a a:1 a:0"),
    )
    schedule = Simulator(ops, cluster(3, "bus")).schedule([0, 2, 1])
    assert [t[:2] for t in transfer_times(schedule)] == [
        ("a:2", "d2"),
        ("a:0", "d1"),
        ("a:1", "d1"),
        ("^a", "d1"),
    ]


def test_ops_that_finish_together_send_in_the_users_order() -> None:
    """Whatever their devices: here the op on the higher device was named first."""
    ops = graph(op("x", 5, "", (1,)), op("y", 5, "", (1,)), op("u", 1, "y"), op("v", 1, "x"))
    schedule = Simulator(ops, cluster(3, "bus")).schedule([1, 0, 2, 2])
    assert [t[0] for t in transfer_times(schedule)] == ["x:0", "y:0"]


def test_a_transfer_that_ends_and_an_op_that_ends_together_keep_the_channel_fifo() -> None:
    """The transfer that waited longer goes first, though the channel frees at that instant."""
    ops = graph(
        op("late", 8, "", (1,)),  # ends at 8, just as the first transfer does
        op("a", 4, "", (4,)),
        op("b", 6, "", (1,)),  # waits since 6
        op("u", 1, "late a b"),
    )
    schedule = Simulator(ops, cluster(4, "bus")).schedule([0, 1, 2, 3])
    assert transfer_times(schedule) == [
        ("a:0", "d3", 4, 8),
        ("b:0", "d3", 8, 9),
        ("late:0", "d3", 9, 10),
    ]


def test_fifo_starts_the_earliest_ready_then_the_first_named() -> None:
    """`second` became ready before `first`; `third` and `fourth` at one instant."""
    ops = graph(
        op("fourth", 1, "p"),
        op("first", 1, "q"),
        op("second", 1, "p"),
        op("p", 2, "", (0,)),
        op("q", 3, "", (0,)),
        op("third", 10),
    )
    times = op_times(Simulator(ops, cluster(1)).schedule([0] * 6))
    # p, q, third are ready at 0 in this order; p ends at 2, q at 5
    assert times == {
        "p": (0, 2),
        "q": (2, 5),
        "third": (5, 15),
        "fourth": (15, 16),
        "second": (16, 17),
        "first": (17, 18),
    }


def test_fifo_sorts_ops_made_ready_at_one_instant_by_different_events() -> None:
    """A local finish and an arrival at the same nanosecond: the user's order decides."""
    ops = graph(
        op("arrives", 1, "remote"),
        op("local", 1, "here"),
        op("here", 9, "", (0,)),
        op("remote", 4, "", (5,)),
    )
    times = op_times(Simulator(ops, cluster(2)).schedule([0, 0, 0, 1]))
    assert times["arrives"] == (9, 10)
    assert times["local"] == (10, 11)


def test_priority_starts_the_highest_among_the_ready() -> None:
    """It looks when the device becomes free, and interrupts nothing."""
    ops = graph(op("low", 5), op("mid", 2), op("high", 2, "s"), op("s", 1, "", (3,)))
    simulator = Simulator(ops, cluster(2), order="priority", priorities=[0, 1, 2, 0])
    # high is ready at 1 + 3 = 4, while low runs
    times = op_times(simulator.schedule([0, 0, 0, 1]))
    assert times == {"s": (0, 1), "mid": (0, 2), "low": (2, 7), "high": (7, 9)}


def test_equal_priorities_go_by_the_users_order() -> None:
    """Not by when they became ready."""
    ops = graph(op("b", 1, "s"), op("s", 1, "", (0,)), op("long", 10), op("a", 1))
    simulator = Simulator(ops, cluster(1), order="priority", priorities=[5, 9, 6, 5])
    times = op_times(simulator.schedule([0] * 4))
    assert times == {"s": (0, 1), "long": (1, 11), "b": (11, 12), "a": (12, 13)}


def test_default_priority_is_the_longest_remaining_path_of_mean_durations() -> None:
    """An op before much work goes first."""
    ops = graph(op("short", 3), op("chain", 1, "", (0,)), op("end", 5, "chain"))
    times = op_times(Simulator(ops, cluster(1), order="priority").schedule([0] * 3))
    assert times == {"chain": (0, 1), "end": (1, 6), "short": (6, 9)}


def test_default_priority_averages_over_unlike_devices() -> None:
    """Where both run, `even` is longer; on average `uneven` is, so it goes first."""
    ops = graph(
        Op("even", "Op", seconds={"fast": 20e-9, "slow": 20e-9}),
        Op("uneven", "Op", seconds={"fast": 2e-9, "slow": 40e-9}),
    )
    unlike = Cluster("unlike", (Device("d0", "fast"), Device("d1", "slow")), cluster(2).links)
    times = op_times(Simulator(ops, unlike, order="priority").schedule([0, 0]))
    assert times == {"uneven": (0, 2), "even": (2, 22)}


def test_a_device_with_two_slots_runs_two_ops_at_once() -> None:
    """The third op starts when the first of the two finishes."""
    ops = graph(op("a", 5), op("b", 3), op("c", 4))
    schedule = Simulator(ops, cluster(1, slots=2)).schedule([0, 0, 0])
    assert op_times(schedule) == {"a": (0, 5), "b": (0, 3), "c": (3, 7)}
    assert schedule.busy_seconds == {"d0": 12 / 1e9}


@pytest.mark.parametrize(
    ("ns", "rounded"), [(0, 1), (0.5, 1), (1.5, 2), (2.5, 2), (3.5, 4), (4.5, 4), (4.51, 5)]
)
def test_durations_round_half_to_even_and_are_at_least_a_nanosecond(
    ns: float, rounded: int
) -> None:
    """Of ops, and of transfers after latency and bytes are added up."""
    assert Simulator(graph(op("a", ns)), cluster(1)).step_time([0]) == rounded / 1e9
    send = Simulator(graph(op("a", 1, "", (0,)), op("b", 1, "a")), cluster(2, latency_ns=ns))
    assert send.step_time([0, 1]) == (2 + rounded) / 1e9


def test_memory_is_freed_before_it_is_taken() -> None:
    """At 10, `a` frees its temporary bytes and `b` takes its own; at 20, `b` frees `a`'s tensor."""
    ops = graph(
        op("a", 10, "", (8,), temporary_bytes=100),
        op("b", 10, "a", (16,), temporary_bytes=90),
        op("c", 10, "b", (32,), parameter_bytes=1000),
    )
    # 0-10: 1000 + 100 + 8; 10-20: 1000 + 90 + 8 + 16; 20-30: 1000 + 16 + 32
    assert Simulator(ops, cluster(1)).schedule([0] * 3).peak_memory_bytes == {"d0": 1114}


def test_a_tensor_nobody_needs_lives_while_its_producer_runs() -> None:
    """It is freed when the producer finishes."""
    ops = graph(op("a", 10, "", (8, 5)), op("b", 10, "a:1", (4,)))
    assert Simulator(ops, cluster(1)).schedule([0, 0]).peak_memory_bytes == {"d0": 13}


def test_memory_of_a_tensor_that_waits_for_its_channel() -> None:
    """It stays at home until its transfer is done, and is nowhere else before that starts."""
    ops = graph(
        op("a", 1, "", (50,)),
        op("b", 1, "", (7,)),
        op("u", 100, "a"),
        op("v", 1, "b"),
    )
    # a sends 1-51; b is made 1-2, waits, sends 51-58; u runs on d1 51-151, then v
    schedule = Simulator(ops, cluster(2)).schedule([0, 0, 1, 1])
    assert transfer_times(schedule) == [("a:0", "d1", 1, 51), ("b:0", "d1", 51, 58)]
    assert schedule.peak_memory_bytes == {"d0": 57, "d1": 57}
