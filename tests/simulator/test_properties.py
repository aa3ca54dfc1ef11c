"""What holds for every placement, whatever the graph."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import placer
from placer._kernels.jit import digest_sources, jit
from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph
from placer.simulator import Simulator
from tests import reference, strategies
from tests.simulator.builders import cluster, graph, op, random_graph


@given(graph=strategies.graphs(), order=st.sampled_from(["fifo", "priority"]))
@settings(max_examples=50)
def test_one_device_takes_the_sum_of_the_durations(graph: OpGraph, order: str) -> None:
    """With one slot it never idles, in either order."""
    one = Cluster("one", (Device("d:0", "cpu", "a", memory_bytes=float("inf")),))
    total = sum(row[0] for row in reference.durations(graph, one))
    assert Simulator(graph, one, order=order).step_time([0] * graph.num_ops) == total / 1e9


@given(data=st.data(), graph=strategies.graphs(), cluster=strategies.clusters())
@settings(max_examples=50)
def test_no_schedule_beats_its_critical_path(
    data: st.DataObject, graph: OpGraph, cluster: Cluster
) -> None:
    """Nor the busiest device; and no op starts before its inputs are made."""
    placement = data.draw(strategies.placements(graph, cluster))
    schedule = Simulator(graph, cluster).schedule(placement)
    longest = np.zeros(graph.num_ops)
    producers, consumers, _ = graph.edges
    for i in graph.topological_order:
        before = producers[consumers == i]
        duration = reference.durations(graph, cluster)[i][placement[i]]
        longest[i] = duration + max(longest[before], default=0)
        assert all(schedule.ops[p].finish_seconds <= schedule.ops[i].start_seconds for p in before)
    assert schedule.step_time_seconds >= longest.max() / 1e9
    for device in cluster.devices:
        assert schedule.step_time_seconds * device.slots >= schedule.busy_seconds[device.name]


@given(data=st.data(), graph=strategies.graphs(), cluster=strategies.clusters())
@settings(max_examples=100)
def test_a_later_start_shifts_everything_and_changes_nothing_else(
    data: st.DataObject, graph: OpGraph, cluster: Cluster
) -> None:
    """An op of 10**6 s before all others moves every start and finish by just that."""
    delay_ns = 10**15
    placement = data.draw(strategies.placements(graph, cluster))
    names = cluster.device_names
    starter = Op("starter", "Op", seconds={"starter": delay_ns / 1e9})
    delayed = [
        o if o.inputs else msgspec.structs.replace(o, inputs=("^starter",)) for o in graph.ops()
    ]
    later_graph = OpGraph.from_ops("later", [*delayed, starter])
    # on a device of its own, so that no other op waits for it; the signal takes 1 ns
    later_cluster = Cluster(
        "later",
        (*cluster.devices, Device("starter", "starter")),
        (*cluster.links, *(Link((name, "starter"), 1e9, 0, "none") for name in names)),
    )
    now = Simulator(graph, cluster).schedule(placement)
    later = Simulator(later_graph, later_cluster).schedule([*placement, len(names)])

    def ns(seconds: float) -> int:
        return round(seconds * 1e9)

    shift = delay_ns + 1
    assert [
        (o.name, o.device, ns(o.start_seconds) - shift, ns(o.finish_seconds) - shift)
        for o in later.ops[:-1]
    ] == [(o.name, o.device, ns(o.start_seconds), ns(o.finish_seconds)) for o in now.ops]
    assert [
        (t.tensor, t.target, ns(t.start_seconds) - shift, ns(t.finish_seconds) - shift)
        for t in later.transfers
        if t.source != "starter"
    ] == [(t.tensor, t.target, ns(t.start_seconds), ns(t.finish_seconds)) for t in now.transfers]
    assert all(later.peak_memory_bytes[name] == now.peak_memory_bytes[name] for name in names)


@pytest.fixture(scope="module")
def batch() -> tuple[OpGraph, np.ndarray]:
    """A graph, and 101 placements of it that are large enough to be spread over threads."""
    rng = np.random.default_rng(0)
    graph = random_graph(1_000, rng)
    return graph, rng.integers(0, 4, (101, graph.num_ops))


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_batch_equals_its_rows_one_by_one(batch: tuple[OpGraph, np.ndarray], order: str) -> None:
    """On one thread, on three, and from several threads of the caller's at once."""
    graph, placements = batch
    roomy = Simulator(graph, cluster(4, "bus"), order=order)
    most = [max(roomy.schedule(row).peak_memory_bytes.values()) for row in placements]
    tight = cluster(4, "bus", memory_bytes=float(np.median(most)))
    simulator = Simulator(graph, tight, order=order)
    one_by_one = [simulator.step_time(row) for row in placements]
    assert {True, False} == set(np.isinf(one_by_one).tolist())
    for num_threads in (1, 3):
        threaded = Simulator(graph, tight, order=order, num_threads=num_threads)
        results = threaded.evaluate(placements)
        np.testing.assert_array_equal(results.step_time_seconds, one_by_one)
        np.testing.assert_array_equal(results.feasible, np.isfinite(one_by_one))
        assert [reason is None for reason in results.reasons] == results.feasible.tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(simulator.step_time, placements)) == one_by_one


def test_a_simulator_forgets_what_it_simulated(batch: tuple[OpGraph, np.ndarray]) -> None:
    """The same placement gives the same schedule before and after others, and in a new one."""
    graph, placements = batch
    simulator = Simulator(graph, cluster(4, "source"))
    first = simulator.schedule(placements[0])
    simulator.evaluate(placements[1:20])
    assert simulator.schedule(placements[0]) == first
    assert Simulator(graph, cluster(4, "source")).schedule(placements[0]) == first


def test_copies_simulate_the_same(batch: tuple[OpGraph, np.ndarray]) -> None:
    """A simulator can be deep-copied and sent to another process."""
    graph, placements = batch
    priorities = np.arange(graph.num_ops) % 7
    simulator = Simulator(graph, cluster(4), order="priority", priorities=priorities)
    expected = simulator.step_time(placements[0])
    for again in (copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator))):  # noqa: S301
        assert again.step_time(placements[0]) == expected


def test_infinite_bandwidth_and_memory_are_allowed() -> None:
    """They mean no time per byte and no limit."""
    names = ("d0", "d1")
    devices = tuple(Device(name, "gpu", memory_bytes=float("inf")) for name in names)
    boundless = Cluster("boundless", devices, (Link(names, float("inf"), 5e-9),))
    send = graph(op("a", 1, "", (1e12,)), op("b", 1, "a"))
    schedule = Simulator(send, boundless).schedule([0, 1])
    assert schedule.step_time_seconds == 7e-9
    assert schedule.peak_memory_bytes == {"d0": 1e12, "d1": 1e12}


def test_times_that_leave_no_room_for_an_op_beside_them() -> None:
    """The fast engine packs both into 64 bits; where they do not fit, the other one simulates."""
    ops = graph(*(op(f"op{i}", 2.0**42, f"op{i - 1}" if i else "", (1,)) for i in range(1_100)))
    simulator = Simulator(ops, cluster(2, latency_ns=8))
    placement = np.arange(1_100) % 2
    expected = (1_100 * 2.0**42 + 1_099 * 9) / 1e9
    assert simulator.step_time(placement) == expected


def test_steps_that_are_too_long_to_be_exact() -> None:
    """Beyond 2^53 ns sums are rounded; one engine adds them up, so that all that is said agrees."""
    rng = np.random.default_rng(0)
    times = rng.integers(2**51, 2**52, 40).tolist()
    ops = graph(*(op(f"op{i}", ns, f"op{i - 1}" if i else "", (1,)) for i, ns in enumerate(times)))
    simulator = Simulator(ops, cluster(2, latency_ns=8))
    placement = rng.integers(0, 2, 40)
    session = simulator.moves(placement)
    for moved in range(40):
        placement[moved] = 1 - placement[moved]
        seconds = simulator.schedule(placement).step_time_seconds
        assert simulator.step_time(placement) == seconds
        assert session.try_move(moved, placement[moved]) == seconds
        session.commit()


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_many_devices(order: str) -> None:
    """Both engines agree on more devices than ops are ready, and on no power of two."""
    rng = np.random.default_rng(1)
    ops = random_graph(6_000, rng)
    simulator = Simulator(ops, cluster(37), order=order)
    placements = rng.integers(0, 37, (3, ops.num_ops))
    placements[1] %= 2
    expected = [simulator.schedule(row).step_time_seconds for row in placements]
    assert simulator.evaluate(placements).step_time_seconds.tolist() == expected


def test_a_hundred_thousand_ops() -> None:
    """A graph of this size runs, and takes on one device what its ops add up to."""
    rng = np.random.default_rng(0)
    large = random_graph(100_000, rng)
    simulator = Simulator(large, cluster(8, "source"))
    placements = rng.integers(0, 8, (2, large.num_ops))
    placements[0] = 3
    times = simulator.evaluate(placements).step_time_seconds
    assert times[0] == sum(round(s["gpu"] * 1e9) for s in large.seconds) / 1e9
    assert times[1] == simulator.schedule(placements[1]).step_time_seconds


def test_compiled_code_works_where_nothing_can_be_cached() -> None:
    """Numba refuses to cache what has no file it may write beside; it is compiled all the same."""
    namespace: dict[str, object] = {}
    exec("def double(x): return 2 * x", namespace)  # noqa: S102
    assert jit(namespace["double"])(21) == 42


def test_the_cache_sees_changes_in_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else compiled code would look for arrays where the tables used to have them."""
    package = tmp_path / "placer"
    shutil.copytree(Path(placer.__file__).parent / "_kernels", package / "_kernels")
    for name in ("_tables.py", "_move_tables.py"):
        shutil.copy(Path(placer.__file__).parent / name, package)
    digests = [digest_sources(package)]
    assert digests == [digest_sources(Path(placer.__file__).parent)]
    for name in ("_tables.py", "_move_tables.py", "_kernels/addresses.py", "_kernels/heaps.py"):
        with (package / name).open("a") as file:
            file.write("# changed\n")
        digests.append(digest_sources(package))
    assert len(set(digests)) == 5

    source = tmp_path / "double.py"
    source.write_text("def double(x): return 2 * x")
    hits = []
    for digest in (*digests[:1], *digests[:2]):
        namespace: dict[str, object] = {"__name__": __name__}
        exec(compile(source.read_text(), source, "exec"), namespace)  # noqa: S102
        monkeypatch.setattr("placer._kernels.jit._DIGEST", digest)
        double = jit(namespace["double"])
        assert double(21) == 42
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 1, 0]


def test_a_simulator_compiles_nothing_before_its_first_use() -> None:
    """Making a problem, as a command does that simulates nothing, does not even import numba."""
    script = """
import sys
from placer.simulator import Simulator
from tests.simulator.builders import cluster, graph, op
simulator = Simulator(graph(op("a", 1)), cluster(1))
assert "numba" not in sys.modules
assert simulator.step_time([0]) == 1e-9
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
