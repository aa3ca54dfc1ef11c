"""Graphs with devices, to run elsewhere, and the order of ops on a device."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import placer.tf
from placer.errors import PlacementError, ReadError, UsageError
from placer.graph import split_input
from placer.placement import Placement
from placer.simulator import Simulator
from placer.tf._order import previous_ops
from placer.tf.verify import trace_step
from tests.strategies import clusters, graphs
from tests.tf.placing import NAMES, four_cpus, random_placement

SQUARE = tf.TensorSpec((4, 4))


def _graph_def():
    """Three products side by side, and their sum; constants, no variables."""

    @tf.function(autograph=False)
    def function(x):
        return tf.add_n([x @ tf.fill((4, 4), float(i)) for i in range(3)], name="sum")

    return function.get_concrete_function(SQUARE).graph.as_graph_def()


def _run(graph_def) -> np.ndarray:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    config = tf.compat.v1.ConfigProto(device_count={"CPU": 4}, allow_soft_placement=False)
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        return session.run("Identity:0", {"x:0": np.eye(4)})


@pytest.mark.parametrize("order", ["fifo", "priority"])
def test_a_placed_graph_def_computes_the_same(order) -> None:
    """Its nodes have the devices of the map, and the outputs are the original's."""
    graph_def = _graph_def()
    before = graph_def.SerializeToString(deterministic=True)
    placement = random_placement(placer.tf.read(graph_def), 0, order=order)
    placed = placer.tf.apply_to_graph_def(graph_def, placement)
    assert {node.name: node.device for node in placed.node} == placer.tf.device_map(placement)
    np.testing.assert_array_equal(_run(placed), _run(graph_def))
    assert graph_def.SerializeToString(deterministic=True) == before


def test_colocation_does_not_win_over_the_placement() -> None:
    """``_class`` goes, since TensorFlow would follow it."""
    graph_def = _graph_def()
    node = next(node for node in graph_def.node if node.op == "AddN")
    node.attr["_class"].list.s.append(b"loc:@x")
    placement = Placement(placer.tf.read(graph_def), four_cpus(), [1] * len(graph_def.node))
    placed = placer.tf.apply_to_graph_def(graph_def, placement)
    assert not any("_class" in node.attr for node in placed.node)
    assert "_class" in node.attr


def test_device_maps_name_devices_that_need_not_exist() -> None:
    """By the cluster's names or by those given; a cluster of other names needs them."""
    graph = placer.tf.read(_graph_def())
    placement = random_placement(graph, 0)
    by_name = placer.tf.device_map(placement)
    assert list(by_name) == list(graph.op_names)
    assert all(by_name[op] == f"/device:{d.upper()}" for op, d in placement.to_device_map().items())
    workers = [f"/job:worker/task:{i}/device:GPU:0" for i in range(4)]
    given_names = placer.tf.device_map(placement, devices=workers)
    for op, name in given_names.items():
        assert name == workers[NAMES.index(placement.device_of(op))]
    cluster = placer.Cluster("odd", (placer.cluster.Device("left", "cpu"),))
    odd = Placement(graph, cluster, [0] * graph.num_ops)
    with pytest.raises(UsageError, match="'left' is no name of a TensorFlow device"):
        placer.tf.device_map(odd)
    assert set(placer.tf.device_map(odd, devices=["CPU:0"]).values()) == {"/device:CPU:0"}


def test_what_is_no_graph_def_of_the_placement_is_refused() -> None:
    """Another program's, with what differs; or a function."""
    placement = random_placement(placer.tf.read(_graph_def()), 0)
    other = tf.function(lambda x: x + 1.0).get_concrete_function(SQUARE)
    with pytest.raises(PlacementError, match="made for another graph"):
        placer.tf.apply_to_graph_def(other.graph.as_graph_def(), placement)
    with pytest.raises(ReadError, match=r"given a function; expected a GraphDef"):
        placer.tf.apply_to_graph_def(other, placement)


def _order_edges(simulator: Simulator, devices) -> Iterator[tuple[str, str]]:
    """Pairs of ops of which the second follows the first."""
    names = simulator.graph.op_names
    for after, before in zip(names, previous_ops(simulator, devices), strict=True):
        if before >= 0:
            yield names[before], after


@given(st.data())
def test_edges_for_the_order_make_no_cycle(data) -> None:
    """With them, no device can run more ops at once than it has slots, and nothing deadlocks.

    And nothing new is asked: in the simulated schedule, the first op of each edge is over when the
    second one starts.
    """
    graph, cluster = data.draw(graphs()), data.draw(clusters())
    indices = st.integers(0, cluster.num_devices - 1)
    devices = data.draw(st.lists(indices, min_size=graph.num_ops, max_size=graph.num_ops))
    few = st.lists(st.integers(0, 3), min_size=graph.num_ops, max_size=graph.num_ops)
    priorities = data.draw(st.none() | few)  # with ties
    simulator = Simulator(graph, cluster, order="priority", priorities=priorities)
    schedule = simulator.schedule(devices)
    ops = {op.name: op for op in schedule.ops}
    edges = list(_order_edges(simulator, devices))
    for before, after in edges:
        assert ops[before].device == ops[after].device
        assert ops[before].finish_seconds <= ops[after].start_seconds
    everything = nx.DiGraph(edges)
    everything.add_nodes_from(graph.op_names)
    for op in graph.ops():
        everything.add_edges_from((split_input(ref)[0], op.name) for ref in op.inputs)
    assert nx.is_directed_acyclic_graph(everything)
    chains = nx.DiGraph(edges)
    chains.add_nodes_from(graph.op_names)
    heads = defaultdict(int)
    for name in graph.op_names:
        assert chains.out_degree(name) <= 1
        assert chains.in_degree(name) <= 1
        heads[ops[name].device] += chains.in_degree(name) == 0
    assert all(heads[d.name] <= d.slots for d in cluster.devices)


def test_each_device_runs_its_ops_in_the_order_of_the_schedule() -> None:
    """In TensorFlow's own trace too, where the priorities turn the order around."""

    def function(x):
        return tf.add_n([tf.matmul(x, x, name=f"product_{i}") for i in range(6)])

    graph = placer.tf.read(function, SQUARE)
    for sign in (1, -1):
        priorities = [sign * i for i in range(graph.num_ops)]
        placement = Placement(graph, four_cpus(), [1] * graph.num_ops, "priority", priorities)
        placed = placer.tf.apply(function, placement, SQUARE)
        stats = trace_step(placed.placed, [tf.ones((4, 4))])
        runs = [node for device in stats.dev_stats for node in device.node_stats]
        runs.sort(key=lambda node: node.all_start_nanos)
        found = [m[1] for node in runs if (m := re.match(r".*/(product_\d)$", node.node_name))]
        assert found == [f"product_{i}" for i in range(6)][::-sign]


@pytest.mark.parametrize("seed", range(8))
def test_any_priorities_run_on_many_devices(seed) -> None:
    """However they contradict the graph, nothing waits forever, numbers hold, and so does the order.

    Each op starts after the one that had its slot before.
    """
    weights = [tf.Variable(tf.random.normal((4, 4), seed=i)) for i in range(3)]

    def step(x):
        with tf.GradientTape() as tape:
            y = x
            for weight in weights:
                y = tf.nn.relu(y @ weight) + x
            loss = tf.reduce_mean(y**2)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.1 * gradient)
        return loss

    graph = placer.tf.read(step, SQUARE)
    priorities = np.random.default_rng(seed).permutation(graph.num_ops)
    placement = random_placement(graph, seed, order="priority", priorities=priorities)
    placed = placer.tf.apply(step, placement, SQUARE)
    x = tf.random.normal((4, 4), seed=9)
    stats = trace_step(placed.placed, [x])
    started, finished = {}, {}
    for device in stats.dev_stats:
        for node in device.node_stats:
            name = node.node_name.removeprefix("placer_step/")
            started[name] = node.all_start_micros * 1000 + node.op_start_rel_nanos
            finished[name] = node.all_start_micros * 1000 + node.op_end_rel_nanos
    simulator = Simulator(graph, placement.cluster, order="priority", priorities=priorities)
    edges = list(_order_edges(simulator, placement.devices))
    assert len(edges) > graph.num_ops // 2
    assert all(finished[before] <= started[after] for before, after in edges)
    start = [weight.numpy() for weight in weights]
    results = []
    for function in (tf.function(step, autograph=False), placed):
        for weight, value in zip(weights, start, strict=True):
            weight.assign(value)
        losses = [float(function(x)) for _ in range(2)]
        results.append((losses, [weight.numpy() for weight in weights]))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for found, expected in zip(results[1][1], results[0][1], strict=True):
        np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
