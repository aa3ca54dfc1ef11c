"""A move session tells to the last bit what a full simulation would."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from placer._move_tables import NONE
from placer.cluster import Cluster
from placer.errors import PlacementError, UsageError
from placer.graph import OpGraph
from placer.moves import Moves
from placer.simulator import Simulator
from tests import strategies
from tests.simulator.builders import cluster as example_cluster
from tests.simulator.builders import graph, op, random_graph

many = settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True, scope="module")
def short_spans() -> Iterator[None]:
    """Spans of time are so short that small graphs have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("placer._move_tables._OPS_PER_SPAN", 2)
        yield


def only_trials(session: Moves) -> None:
    """Has it make no full runs, which would hide what is wrong with trials."""
    for cost in session._costs:
        cost.most_starts = 10**9


def check_drawn_moves(data: st.DataObject, simulator: Simulator) -> None:
    """Draws moves of one op and of several, from one base after the other."""
    graph, cluster = simulator.graph, simulator.cluster
    base = data.draw(strategies.placements(graph, cluster))
    session = simulator.moves(base)
    only_trials(session)
    assert session.step_time_seconds == simulator.step_time(base)
    ops_of_move = st.lists(st.integers(0, graph.num_ops - 1), min_size=1, max_size=4)
    for ops in data.draw(st.lists(ops_of_move, min_size=1, max_size=12)):
        device = data.draw(st.integers(0, cluster.num_devices - 1))
        moved = base.copy()
        moved[ops] = device
        expected = simulator.step_time(moved)
        assert session.try_move(ops, device) == expected
        assert session.step_time_seconds == simulator.step_time(base)
        if data.draw(st.booleans()):
            session.commit()
            base = moved
            assert session.step_time_seconds == expected
            assert_array_equal(session.devices, base)


def sequences(session: Moves) -> list[list[int]]:
    """The ops of each device by start, as recorded, forwards and backwards alike."""
    tables = session._tables_of_moves
    found = []
    for device in tables.devices:
        ops, backwards = [], []
        op = device["first"]
        while op != NONE:
            ops.append(int(op))
            op = tables.ops[op]["next"]
        op = device["last"]
        while op != NONE:
            backwards.append(int(op))
            op = tables.ops[op]["previous"]
        assert backwards == ops[::-1]
        found.append(ops)
    return found


def recorded(session: Moves) -> dict[str, np.ndarray]:
    """What is recorded of the base, times in nanoseconds."""
    tables = session._tables_of_moves
    late_ns, ops, inputs = tables.late_ns, tables.ops, tables.inputs
    producers = np.repeat(np.arange(len(ops)), ops["end_edge"] - ops["first_edge"])
    return {
        "device": ops["device"],
        "start": ops["start_ns"] + late_ns[ops["span"]],
        "finish": ops["finish_ns"] + late_ns[ops["span"]],
        "effect": ops["effect_ns"] + late_ns[ops["span"]],
        "ready": ops["ready_ns"] + late_ns[ops["ready_span"]],
        "last producer": ops["last_producer_ns"] + late_ns[ops["last_span"]],
        "arrival": tables.edges["arrival_ns"] + late_ns[ops["span"][producers]],
        "start of input": inputs["start_ns"] + late_ns[inputs["span"]],
        "arrival of input": inputs["arrival_ns"] + late_ns[inputs["span"]],
        "number of ops": tables.devices["num_ops"],
    }


def check_spans(session: Moves) -> None:
    """Spans hold the ops that start in them, and know the first ones and the last effects."""
    tables, found = session._tables_of_moves, recorded(session)
    begin_ns = (tables.spans["begin_ns"] + tables.late_ns)[:-1]
    assert tables.late_ns[0] == 0
    assert (np.diff(begin_ns[np.isfinite(begin_ns)]) >= 0).all()
    span = tables.ops["span"]
    assert_array_equal(span, np.searchsorted(begin_ns, found["start"], side="right") - 1)
    carried_ns = tables.spans["carried_ns"] + tables.late_ns
    for each in range(1 + len(begin_ns)):
        assert carried_ns[each] == found["effect"][span < each].max(initial=0)
    for device, ops in enumerate(sequences(session)):
        assert (np.diff(found["start"][ops]) > 0).all()
        for each in range(len(begin_ns)):
            first = next((op for op in ops if span[op] >= each), NONE)
            assert tables.first_ops[each, device] == first


def check_record(session: Moves) -> None:
    """What moves have left behind is what recording their placement anew gives."""
    simulator = Simulator(session._graph, session._cluster)
    session.try_move(0, int(session.devices[0]))  # what was committed is written now
    fresh = simulator.moves(session.devices)
    assert session._can_try == fresh._can_try
    if fresh._can_try:
        expected = recorded(fresh)
        for name, values in recorded(session).items():
            assert_array_equal(values, expected[name], name)
        assert sequences(session) == sequences(fresh)
        if not session._tables.always_fits:
            needed = (each._tables_of_moves.devices["needed_bytes"] for each in (session, fresh))
            assert_allclose(*needed, rtol=1e-12, atol=1e-3)
        check_spans(session)
        check_spans(fresh)


@pytest.fixture
def never_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions write into the one record that they make."""
    monkeypatch.setattr("placer.moves._MOST_WRITTEN", 10**9)


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=16),
    cluster=strategies.clusters(min_devices=2, in_order_of_start=True),
)
@many
def test_moves_equal_full_runs(data: st.DataObject, graph: OpGraph, cluster: Cluster) -> None:
    """Where only what changes is simulated; memory may be short."""
    check_drawn_moves(data, Simulator(graph, cluster))


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=8, constraints=True),
    cluster=strategies.clusters(min_devices=2, in_order_of_start=True)
    | strategies.clusters(min_devices=2),
    order=st.sampled_from(["fifo", "priority"]),
)
@settings(many, max_examples=200)
def test_moves_equal_full_runs_whatever_the_case(
    data: st.DataObject, graph: OpGraph, cluster: Cluster, order: str
) -> None:
    """With constraints; and where there is no shortcut: other orders, channels and slots."""
    check_drawn_moves(data, Simulator(graph, cluster, order=order))


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=40),
    cluster=strategies.clusters(min_devices=2, in_order_of_start=True),
)
@settings(many, max_examples=100)
def test_what_moves_leave_behind_is_what_recording_gives(
    data: st.DataObject, graph: OpGraph, cluster: Cluster
) -> None:
    """After each of many that are committed one after the other."""
    simulator = Simulator(graph, cluster)
    base = data.draw(strategies.placements(graph, cluster))
    session = simulator.moves(base)
    only_trials(session)
    ops_of_move = st.lists(st.integers(0, graph.num_ops - 1), min_size=1, max_size=3)
    for ops in data.draw(st.lists(ops_of_move, min_size=1, max_size=12)):
        device = data.draw(st.integers(0, cluster.num_devices - 1))
        base[ops] = device
        assert session.try_move(ops, device) == simulator.step_time(base)
        session.commit()
        check_record(session)


def check_random_moves(
    graph: OpGraph, cluster: Cluster, base: np.ndarray, num_moves: int, rng: np.random.Generator
) -> None:
    """Compares moves of one op, and of many, with full runs."""
    simulator = Simulator(graph, cluster)
    session = simulator.moves(base)
    only_trials(session)
    for _ in range(num_moves):
        ops = rng.integers(graph.num_ops, size=rng.choice([1, 1, 1, 2, 10]))
        device = int(rng.integers(cluster.num_devices))
        moved = base.copy()
        moved[ops] = device
        expected = simulator.step_time(moved)
        assert session.try_move(ops, device) == expected
        if rng.random() < 0.5:
            session.commit()
            base = moved
    check_record(session)


@pytest.mark.parametrize("channel", ["pair", "source", "none"])
@pytest.mark.parametrize("placement", ["random", "blocks"])
def test_moves_in_larger_graphs_equal_full_runs(channel: str, placement: str) -> None:
    """Where trials skip from cut to cut and end early."""
    rng = np.random.default_rng(len(channel) + len(placement))
    for num_ops in (60, 400):
        graph = random_graph(num_ops, rng)
        for latency_ns in (1, 30):
            cluster = example_cluster(4, channel, latency_ns=latency_ns)
            base = rng.integers(0, 4, num_ops).astype(np.int32)
            if placement == "blocks":
                rank = np.argsort(np.argsort([int(name[2:]) for name in graph.op_names]))
                base = rng.integers(0, 4, 20).astype(np.int32)[rank * 20 // num_ops]
            check_random_moves(graph, cluster, base, 150, rng)


def draw_graph(num_ops: int, rng: np.random.Generator) -> OpGraph:
    """Ops that read up to two before them, near or far; some are long, some tensors large."""
    reach = int(rng.choice([2, 5, 8, 40]))
    ops = [op("op0", 5, "", (10,))]
    for i in range(1, num_ops):
        producers = rng.integers(max(0, i - reach), i, size=rng.integers(3))
        inputs = " ".join(f"op{j}" if rng.random() < 0.8 else f"^op{j}" for j in producers)
        ns, size = rng.choice([1, 1, 2, 5, 9, 30]), rng.choice([0, 1, 5, 20, 60])
        ops.append(op(f"op{i}", int(ns), inputs, (int(size),)))
    return graph(*ops)


def test_many_moves_in_many_graphs_equal_full_runs() -> None:
    """Rare cases: several moved ops wait in queues while time shifts, or start out of turn."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        num_ops, num_devices = int(rng.integers(8, 60)), int(rng.integers(2, 5))
        channel, latency_ns = str(rng.choice(["pair", "source"])), int(rng.choice([0, 1, 3, 20]))
        simulator = Simulator(
            draw_graph(num_ops, rng), example_cluster(num_devices, channel, latency_ns=latency_ns)
        )
        base = rng.integers(num_devices, size=num_ops).astype(np.int32)
        if rng.random() < 0.5:
            base = (np.arange(num_ops) * 5 // num_ops % num_devices).astype(np.int32)
        session = simulator.moves(base)
        only_trials(session)
        moves = [rng.integers(num_ops, size=rng.choice([1, 2, 3, 5])) for _ in range(100)]
        devices = rng.integers(num_devices, size=100)
        placements = np.repeat(base[None], 100, axis=0)
        for placement, ops, device in zip(placements, moves, devices, strict=True):
            placement[ops] = device
        expected = simulator.evaluate(placements).step_time_seconds
        assert_array_equal(session.try_moves(moves, devices), expected)


@pytest.mark.usefixtures("never_recorded_anew")
@pytest.mark.parametrize("chance", [0.1, 0.5, 1.0])
def test_long_walks_equal_full_runs(chance: float) -> None:
    """Hundreds of moves, many or all committed; the record stays what recording anew gives."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        num_ops, num_devices = int(rng.integers(20, 300)), int(rng.integers(2, 5))
        channel, latency_ns = str(rng.choice(["pair", "source", "none"])), int(rng.choice([0, 3]))
        graph = draw_graph(num_ops, rng)
        simulator = Simulator(graph, example_cluster(num_devices, channel, latency_ns=latency_ns))
        base = (np.arange(num_ops) * 5 // num_ops % num_devices).astype(np.int32)
        session = simulator.moves(base)
        only_trials(session)
        records = []
        session._set_base = lambda *arguments, records=records: records.append(arguments)
        for _ in range(200):
            ops = rng.integers(num_ops, size=rng.choice([1, 1, 1, 2, 5]))
            device = int(rng.integers(num_devices))
            moved = base.copy()
            moved[ops] = device
            expected = simulator.step_time(moved)
            assert session.try_move(ops, device) == expected
            if rng.random() < chance:
                session.commit()
                base = moved
                assert session.step_time_seconds == expected
        assert not records
        check_record(session)


def test_walks_of_many_moves_record_anew_at_times() -> None:
    """When about as much has been written into the record as recording takes, several times over."""
    rng = np.random.default_rng(0)
    simulator = Simulator(draw_graph(100, rng), example_cluster(3))
    session = simulator.moves(rng.integers(3, size=100).astype(np.int32))
    only_trials(session)
    written = []
    for _ in range(300):
        session.try_move(int(rng.integers(100)), int(rng.integers(3)))
        session.commit()
        written.append(session._num_written)
    assert max(written) > 100
    assert (np.diff(written) < 0).sum() > 3
    assert session.step_time_seconds == simulator.step_time(session.devices)


def test_a_move_that_is_committed_counts_at_many_moves_at_once() -> None:
    """It is written before they are tried, and once."""
    rng = np.random.default_rng(0)
    graph = random_graph(100, rng)
    simulator = Simulator(graph, example_cluster(3))
    session = simulator.moves(np.zeros(100, np.int32))
    only_trials(session)
    session.try_move([7, 30], 1)
    session.commit()
    base = session.devices
    moved = np.repeat(base[None], 100, axis=0)
    devices = rng.integers(3, size=100)
    moved[np.arange(100), np.arange(100)] = devices
    expected = simulator.evaluate(moved).step_time_seconds
    for _ in range(2):
        assert_array_equal(session.try_moves(np.arange(100), devices), expected)
    check_record(session)


def test_a_session_has_the_memory_of_one_that_ended_and_nothing_of_its_base() -> None:
    """It may have ended with a move yet to be written; one that goes on keeps its own."""
    rng = np.random.default_rng(0)
    simulator = Simulator(random_graph(100, rng), example_cluster(3))
    kept = simulator.moves(np.zeros(100, np.int32))
    tables = []
    for _ in range(10):
        session = simulator.moves(rng.integers(3, size=100).astype(np.int32))
        tables.append(id(session._tables_of_moves))
        only_trials(session)
        check_record(session)
        for _ in range(5):
            session.try_move(int(rng.integers(100)), int(rng.integers(3)))
            session.commit()
        assert session.step_time_seconds == simulator.step_time(session.devices)
        del session
    assert len(set(tables)) == 1
    assert id(kept._tables_of_moves) not in tables
    check_record(kept)


def test_a_session_cannot_be_copied() -> None:
    """Compiled code would find the memory of the session that it was copied from."""
    session = Simulator(graph(op("a", 1)), example_cluster(1)).moves([0])
    for copy_of in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="cannot be copied"):
            copy_of(session)


def test_starts_after_months_are_counted_where_there_is_room() -> None:
    """Rounded, the last one is at the end of time that the spans are cut from."""
    for ns in range(2**53 - 100, 2**53 - 60):
        ops = graph(op("a", ns), op("b", 1, "^a"), op("c", 1, "^b"))
        simulator = Simulator(ops, example_cluster(2))
        session = simulator.moves([0, 0, 0])
        only_trials(session)
        assert session._tables_of_moves.line.sum() == 3
        assert session.try_move(2, 1) == simulator.step_time([0, 0, 1])


def test_many_moves_at_once_equal_single_ones() -> None:
    """Each from the base, of one op or of several; none is no error."""
    rng = np.random.default_rng(0)
    graph = random_graph(200, rng)
    session = Simulator(graph, example_cluster(3)).moves(np.zeros(200, np.int32))
    ops = [3, [5, 7, 5], np.arange(20), 199]
    devices = [1, 2, 1, 0]
    expected = [session.try_move(*move) for move in zip(ops, devices, strict=True)]
    assert_array_equal(session.try_moves(ops, devices), expected)
    assert session.try_moves([], []).shape == (0,)
    assert_array_equal(session.try_moves(np.array([3, 199]), [1, 0]), [expected[0], expected[3]])


def test_trials_end_early() -> None:
    """In a long chain, a move starts only the ops around it, and still is exact."""
    chain = graph(
        op("a0", 5, "", (3,)), *(op(f"a{i}", 5, f"a{i - 1}", (3,)) for i in range(1, 2000))
    )
    simulator = Simulator(chain, example_cluster(2))
    base = np.arange(2000, dtype=np.int32) // 100 % 2
    session = simulator.moves(base)
    moved = base.copy()
    moved[1050] = 1 - moved[1050]
    assert session.try_move(1050, int(moved[1050])) == simulator.step_time(moved)
    assert session.step_time_seconds < simulator.step_time(moved)
    assert 0 < session._costs[0]._mean_starts < 10


def test_full_runs_are_made_where_trials_take_longer() -> None:
    """A move of a first op changes everything after it: soon nearly all trials are full runs."""
    chains = [
        op(f"{chain}{i}", 5 + i % 3, f"{chain}{i - 1}" if i else "", (3,))
        for i in range(100)
        for chain in "abcd"
    ]
    simulator = Simulator(graph(*chains), example_cluster(2))
    base = np.zeros(400, np.int32)
    session = simulator.moves(base)
    moved = base.copy()
    moved[0] = 1
    expected = simulator.step_time(moved)
    assert [session.try_move(0, 1) for _ in range(100)] == [expected] * 100
    assert session._costs[0]._num_trials < 10


@pytest.mark.parametrize("memory_bytes", [1e9, 150])
def test_full_runs_equal_those_of_the_simulator(memory_bytes: float) -> None:
    """Single ones and many, committed ones and those near a capacity; trials take over again."""
    rng = np.random.default_rng(0)
    graph = random_graph(60, rng)
    simulator = Simulator(graph, example_cluster(3, memory_bytes=memory_bytes))
    base = np.arange(60, dtype=np.int32) % 3
    session = simulator.moves(base)
    for cost in session._costs:  # as if trials had taken long
        cost.learn(10**6, 0, 10)
        cost._probe_after = 100
    for _ in range(6):
        ops = [rng.integers(60, size=rng.choice([1, 2, 5])) for _ in range(40)]
        devices = rng.integers(3, size=40)
        moved = np.repeat(base[None], 40, axis=0)
        for row, moving, device in zip(moved, ops, devices, strict=True):
            row[moving] = device
        expected = simulator.evaluate(moved).step_time_seconds
        assert_array_equal(session.try_moves(ops, devices), expected)
        assert session.try_move(ops[7], int(devices[7])) == expected[7]
        assert_array_equal(session.devices, base)
        session.commit()
        base = moved[7]
        assert session.step_time_seconds == expected[7]
        assert_array_equal(session.devices, base)
    if memory_bytes == 1e9:
        assert session._costs[1]._num_trials > 10


def test_one_device_leaves_nothing_to_move() -> None:
    """A move to where an op is gives the step time of the base."""
    simulator = Simulator(graph(op("a", 1), op("b", 2, "^a")), example_cluster(1))
    session = simulator.moves([0, 0])
    assert session.try_move([0, 1], 0) == session.step_time_seconds == 3e-9
    session.commit()
    assert session.step_time_seconds == 3e-9


def test_memory_decides_exactly() -> None:
    """A move that fits only as something is freed before is told from one that does not."""
    chain = graph(
        op("a", 1, "", (60,)), op("b", 1, "a", (60,)), op("c", 1, "b", (60,)), op("d", 1, "^c")
    )
    session = Simulator(chain, example_cluster(2, memory_bytes=120)).moves([0, 0, 0, 0])
    assert session.step_time_seconds == 4e-9, "180 bytes in all, 120 at once"
    assert np.isfinite(session.try_move(1, 1))
    tight = Simulator(chain, example_cluster(2, memory_bytes=119)).moves([0, 0, 0, 0])
    assert tight.step_time_seconds == np.inf
    assert tight.try_move(1, 1) == np.inf
    assert np.isfinite(tight.try_move([2, 3], 1)) == np.isfinite(
        Simulator(chain, example_cluster(2, memory_bytes=119)).step_time([0, 0, 1, 1])
    )


@pytest.mark.parametrize(
    ("ops", "device", "message"),
    [
        (3, 0, r"ops are \[?3\]?; expected one or more op indices from 0 to 1"),
        (-1, 0, r"ops are \[?-1\]?; expected one or more op indices"),
        ([], 0, r"ops are \[\]; expected one or more"),
        ([0.5], 0, r"ops are \[0.5\]; expected one or more"),
        ([[1, 2], [3]], 0, r"ops are \[\[1, 2\], \[3\]\]; expected one or more"),
        ([None, 1], 0, r"ops are \[None, 1\]; expected one or more"),
        (0, 2, r"device is \[?2\]?; expected device indices from 0 to 1"),
        (0, -1, r"device is \[?-1\]?; expected device indices"),
        (0, 0.5, "device"),
    ],
)
def test_moves_that_are_none_are_refused(ops: object, device: int, message: str) -> None:
    """With what was given and what was expected."""
    session = Simulator(graph(op("a", 1), op("b", 1)), example_cluster(2)).moves([0, 0])
    with pytest.raises(PlacementError, match=message):
        session.try_move(ops, device)
    with pytest.raises(PlacementError, match=message):
        session.try_moves([ops], [device])


def test_moves_and_devices_that_do_not_go_together_are_refused() -> None:
    """One device per move, and integers."""
    session = Simulator(graph(op("a", 1), op("b", 1)), example_cluster(2)).moves([0, 0])
    for devices in ([1], [1.0, 1.0], [[1], [1, 1]], 1, [[0, 1]], ["a", "b"]):
        with pytest.raises(PlacementError, match="expected 2 device indices, one per move"):
            session.try_moves([0, 1], devices)
    for ops in (5, None, np.array(1)):
        with pytest.raises(PlacementError, match="expected one or more op indices"):
            session.try_moves(ops, [1])
    assert_array_equal(session.try_moves(iter([0, 1]), [1, 0]), [1e-9, 2e-9])


def test_there_must_be_something_to_commit() -> None:
    """A move is committed once."""
    session = Simulator(graph(op("a", 1), op("b", 1)), example_cluster(2)).moves([0, 0])
    with pytest.raises(UsageError, match="nothing to commit"):
        session.commit()
    session.try_move(1, 1)
    session.try_moves([1], [1])
    with pytest.raises(UsageError, match="nothing to commit"):
        session.commit()
    session.try_move(1, 1)
    session.commit()
    assert session.step_time_seconds == 1e-9
    with pytest.raises(UsageError, match="nothing to commit"):
        session.commit()


@pytest.mark.parametrize("counter", [0, 1], ids=["trials", "cuts"])
def test_stamps_begin_anew_before_they_overflow(counter: int) -> None:
    """After a billion, what is left of earlier ones is forgotten."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        graph = random_graph(30, rng)
        simulator = Simulator(graph, example_cluster(3))
        base = rng.integers(3, size=30).astype(np.int32)
        session = simulator.moves(base)
        only_trials(session)
        for moving in rng.integers(30, size=29):
            session.try_move(int(moving), 1)
        session._tables_of_moves.counters[counter] = 1_000_000_001
        devices = rng.integers(3, size=30)
        for moving, device in zip(rng.integers(30, size=30), devices, strict=True):
            moved = base.copy()
            moved[moving] = device
            assert session.try_move(int(moving), int(device)) == simulator.step_time(moved)
        assert session._tables_of_moves.counters[counter] < 10_000
