"""The compiled simulator does to the last bit what the slow one in ``tests/reference.py`` does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.simulator import Simulator
from tests import reference, strategies
from tests.simulator.builders import cluster as example_cluster
from tests.simulator.builders import random_graph

several_hundred = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def assert_equal_to_reference(
    graph: OpGraph,
    cluster: Cluster,
    placement: np.ndarray,
    order: str,
    priorities: np.ndarray | None,
) -> None:
    """Step time, every start and finish, peaks, busy times and feasibility, bit for bit."""
    expected = reference.simulate(graph, cluster, placement, order, priorities)
    simulator = Simulator(graph, cluster, order=order, priorities=priorities)
    schedule = simulator.schedule(placement)
    names = cluster.device_names
    assert schedule.step_time_seconds == expected.step_time / 1e9
    assert [(op.name, op.device, op.start_seconds, op.finish_seconds) for op in schedule.ops] == [
        (name, names[placement[i]], expected.starts[i] / 1e9, expected.finishes[i] / 1e9)
        for i, name in enumerate(graph.op_names)
    ]
    assert [
        (t.start_seconds, t.finish_seconds, t.tensor, t.source, t.target)
        for t in schedule.transfers
    ] == [
        (t.start / 1e9, t.finish / 1e9, t.tensor, names[t.source], names[t.target])
        for t in sorted(expected.transfers, key=lambda t: t.start)
    ]
    assert schedule.num_transfers == len(expected.transfers)
    assert schedule.transfer_bytes == sum(t.num_bytes for t in expected.transfers)
    assert schedule.peak_memory_bytes == dict(zip(names, expected.peak_memory_bytes, strict=True))
    work = reference.durations(graph, cluster)
    assert schedule.busy_seconds == {
        name: sum(work[i][d] for i in range(graph.num_ops) if placement[i] == d) / 1e9
        for d, name in enumerate(names)
    }
    feasible = not reference.breaks_a_constraint(graph, cluster, placement) and all(
        peak <= device.memory_bytes
        for peak, device in zip(expected.peak_memory_bytes, cluster.devices, strict=True)
    )
    assert schedule.feasible == feasible
    assert (schedule.infeasible_because is None) == feasible
    assert simulator.step_time(placement) == (expected.step_time / 1e9 if feasible else np.inf)


@given(data=st.data(), graph=strategies.graphs(), cluster=strategies.clusters())
@several_hundred
def test_fifo_equals_the_reference(data: st.DataObject, graph: OpGraph, cluster: Cluster) -> None:
    """Fifo order: everything is bit-equal on random graphs, clusters, channels and slots."""
    placement = data.draw(strategies.placements(graph, cluster))
    assert_equal_to_reference(graph, cluster, placement, "fifo", None)


@given(data=st.data(), graph=strategies.graphs(), cluster=strategies.clusters())
@several_hundred
def test_priority_equals_the_reference(
    data: st.DataObject, graph: OpGraph, cluster: Cluster
) -> None:
    """Priority order, default and given priorities: everything is bit-equal."""
    placement = data.draw(strategies.placements(graph, cluster))
    priorities = data.draw(strategies.priorities(graph))
    assert_equal_to_reference(graph, cluster, placement, "priority", priorities)


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=6, constraints=True),
    cluster=strategies.clusters(min_devices=2),
)
@several_hundred
def test_constraints_equal_the_reference(
    data: st.DataObject, graph: OpGraph, cluster: Cluster
) -> None:
    """Feasible is what keeps to kinds, colocation and memory; the schedule is there regardless."""
    placement = data.draw(strategies.placements(graph, cluster))
    assert_equal_to_reference(graph, cluster, placement, "fifo", None)


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=16),
    cluster=strategies.clusters(in_order_of_start=True),
    order=st.sampled_from(["fifo", "priority"]),
)
@settings(several_hundred, max_examples=800)
def test_both_engines_equal_the_reference(
    data: st.DataObject, graph: OpGraph, cluster: Cluster, order: str
) -> None:
    """Where ops may be handled in order of start: step times of a batch, and both engines."""
    given_priorities = data.draw(strategies.priorities(graph)) if order == "priority" else None
    simulator = Simulator(graph, cluster, order=order, priorities=given_priorities)
    assert simulator._starts_in_order
    rows = np.array([data.draw(strategies.placements(graph, cluster)) for _ in range(3)])
    results = simulator.evaluate(rows)
    for row, seconds in zip(rows, results.step_time_seconds, strict=True):
        expected = reference.simulate(graph, cluster, row, order, given_priorities)
        fits = all(
            peak <= device.memory_bytes
            for peak, device in zip(expected.peak_memory_bytes, cluster.devices, strict=True)
        )
        assert seconds == (expected.step_time / 1e9 if fits else np.inf)
        assert simulator.schedule(row).step_time_seconds == expected.step_time / 1e9
    simulator._starts_in_order = False
    again = simulator.evaluate(rows)
    assert_array_equal(results.step_time_seconds, again.step_time_seconds)
    assert_array_equal(results.excess_bytes, again.excess_bytes)
    assert results.reasons == again.reasons


@pytest.mark.parametrize("order", ["fifo", "priority"])
@pytest.mark.parametrize("channel", ["pair", "unordered", "source", "bus", "none"])
def test_larger_graphs_equal_the_reference(order: str, channel: str) -> None:
    """The same on 120 ops with long queues on devices and channels, and one with many outputs."""
    rng = np.random.default_rng([len(channel), len(order)])
    graph = random_graph(120, rng)
    placement = rng.integers(0, 5, graph.num_ops).astype(np.int32)
    for slots in (1, 2):
        cluster = example_cluster(5, channel, latency_ns=1, slots=slots)
        assert_equal_to_reference(graph, cluster, placement, order, None)
