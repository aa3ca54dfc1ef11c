"""A move session tells to the last bit what a full simulation would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.simulator import Simulator
from tests import strategies
from tests.simulator.builders import cluster as example_cluster
from tests.simulator.builders import random_graph


@given(
    data=st.data(),
    graph=strategies.graphs(max_ops=16),
    cluster=strategies.clusters(min_devices=2, in_order_of_start=True),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_moves_equal_full_runs(data: st.DataObject, graph: OpGraph, cluster: Cluster) -> None:
    """Moves of one op and of several, many from each of several bases."""
    simulator = Simulator(graph, cluster)
    base = data.draw(strategies.placements(graph, cluster))
    session = simulator.moves(base)
    ops_of_move = st.lists(st.integers(0, graph.num_ops - 1), min_size=1, max_size=4)
    for ops in data.draw(st.lists(ops_of_move, min_size=1, max_size=12)):
        device = data.draw(st.integers(0, cluster.num_devices - 1))
        moved = base.copy()
        moved[ops] = device
        expected = simulator.step_time(moved)
        assert session.try_move(ops, device) == expected
        if data.draw(st.booleans()):
            session.commit()
            base = moved
            assert session.step_time_seconds == expected


def check_random_moves(
    graph: OpGraph, cluster: Cluster, base: np.ndarray, num_moves: int, rng: np.random.Generator
) -> None:
    """Compares moves of one op, and of many, with full runs."""
    simulator = Simulator(graph, cluster)
    session = simulator.moves(base)
    for _ in range(num_moves):
        ops = rng.integers(graph.num_ops, size=rng.choice([1, 1, 1, 2, 10]))
        device = int(rng.integers(cluster.num_devices))
        moved = base.copy()
        moved[ops] = device
        expected = simulator.step_time(moved)
        assert session.try_move(ops, device) == expected
        if rng.random() < 0.1:
            session.commit()
            base = moved


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
