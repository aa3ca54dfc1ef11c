"""Steps are measured in the order of the simulated schedule, which devices then keep to."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import placer.tf
from placer.cluster import Cluster, Device, Link
from placer.errors import ClusterError, FormatError, PlacementError, PlacerError, UsageError
from placer.grouping import OpGroups
from placer.placement import Placement
from placer.problem import Problem
from placer.simulator import Simulator
from placer.tf import _team
from placer.tf._flatten import flatten_function
from placer.tf._order import previous_ops
from placer.tf._placed import beside_variables, variables_of
from placer.tf._program import save_program, step_of, values_of
from placer.tf._steps import Runner
from placer.tf._wire import Request
from placer.tf.measure import MeasuredEvaluator
from placer.tf.measurements import Measurement, MeasurementLog
from placer.tf.profile import with_seconds
from tests.experiments.builders import cluster as pair
from tests.experiments.builders import graph as chains
from tests.tf.faults import children
from tests.tf.placing import CPUS, NUM_DEVICES, four_cpus, random_placement

WIDE = tf.TensorSpec((96, 96))
SQUARE = tf.TensorSpec((4, 4))
NUM_PRODUCTS = 5


def _workers(number: int) -> Cluster:
    names = tuple(f"worker:{i}" for i in range(number))
    devices = tuple(
        Device(n, "cpu", memory_bytes=1e9, flops=1e10, memory_bandwidth=1e10) for n in names
    )
    return Cluster("workers", devices, (Link(names, 1e9, 1e-4),))


def branches(x):
    """Products that may run in any order, on two devices, and what needs all of them."""
    left = [tf.matmul(x, x, name=f"left_{i}") for i in range(NUM_PRODUCTS)]
    right = [tf.matmul(x, x, name=f"right_{i}") for i in range(NUM_PRODUCTS)]
    return tf.add_n([*left, *right], name="sum")


def chain_and_others(x):
    """A chain that takes as long as the four products beside it, which come first in the graph."""
    others = [tf.matmul(x, x, name=f"other_{i}") for i in range(4)]
    y = x
    for i in range(4):
        y = tf.matmul(y, x, name=f"chain_{i}")
    return tf.add_n([*others, y], name="sum")


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """After any test."""
    yield
    assert not children(os.getpid())


def _ran(trace, prefix: str) -> list[str]:
    """The ops of a name, as they began."""
    ran = [op for op in trace if op.name.startswith(prefix)]
    return [op.name for op in sorted(ran, key=lambda op: op.start_seconds)]


@pytest.mark.parametrize("where", ["logical devices", "workers"])
def test_each_device_follows_the_priorities(where) -> None:
    """In TensorFlow's own statistics of a step, whichever way the priorities turn the order.

    No two ops of a device ran at once, though nothing but the order parts them.
    """
    on_workers = where == "workers"
    cluster, workers = (_workers(2), 2) if on_workers else (four_cpus(), None)
    with MeasuredEvaluator(
        branches, cluster, WIDE, workers=workers, warmup=1, steps=2
    ) as evaluator:
        graph = evaluator.graph
        devices = np.array([int(name.startswith("right")) for name in graph.op_names])
        names = {side: [f"{side}_{i}" for i in range(NUM_PRODUCTS)] for side in ("left", "right")}
        for seed in range(3):
            priorities = np.random.default_rng(seed).permutation(graph.num_ops).astype(float)
            placement = Placement(graph, cluster, devices, "priority", priorities)
            found = evaluator.measure(placement, traced=True)
            assert found.reason is None
            for of_side in names.values():
                asked = sorted(of_side, key=lambda name: -priorities[graph.op_index[name]])
                assert _ran(found.trace, of_side[0][:-1]) == asked
                times = {op.name: op for op in found.trace}
                for before, after in itertools.pairwise(asked):
                    assert times[before].finish_seconds <= times[after].start_seconds


def test_the_priorities_of_the_simulator_start_the_longest_path_first() -> None:
    """Ops with more still to come are first; ties go by the graph's order."""
    with MeasuredEvaluator(
        chain_and_others, four_cpus(), WIDE, order="priority", warmup=1, steps=2
    ) as evaluator:
        placement = Placement(evaluator.graph, four_cpus(), [0] * evaluator.graph.num_ops)
        placed = Placement(evaluator.graph, four_cpus(), placement.devices, "priority")
        found = evaluator.measure(placed, traced=True)
        ran = _ran(found.trace, "")
        assert ran.index("chain_1") < ran.index("other_0")
        assert [name for name in ran if name.startswith("other")] == [
            f"other_{i}" for i in range(4)
        ]
        known = evaluator.known(placement.devices)
        assert known is found, "it is what evaluate() measures"


@pytest.fixture
def requests(monkeypatch) -> list[Request]:
    """What is asked of the process that measures, in whose place made-up seconds are given."""
    asked: list[Request] = []

    def measure(team: _team.Team, request: Request, seconds_limit: float) -> Measurement:
        asked.append(request)
        return Measurement((float(len(asked)),))

    monkeypatch.setattr(_team.Team, "start", lambda team: None)
    monkeypatch.setattr(_team.Team, "measure", measure)
    return asked


def test_orders_do_not_mix(tmp_path, requests) -> None:
    """Each is measured once and read back for itself; priorities of one order are one."""
    log = tmp_path / "steps.jsonl"
    cluster = four_cpus()
    with MeasuredEvaluator(branches, cluster, SQUARE, log=log) as evaluator:
        graph = evaluator.graph
        rising, falling = np.arange(graph.num_ops), -np.arange(graph.num_ops)
        devices = np.zeros(graph.num_ops, np.int32)
        orders = [("fifo", None), ("priority", rising), ("priority", falling)]
        placements = [Placement(graph, cluster, devices, *order) for order in orders]
        found = [evaluator.measure(placement) for placement in placements]
        assert len({id(measurement) for measurement in found}) == 3
        assert evaluator.known(devices) is found[0]
        assert [evaluator.measure(placement) for placement in placements] == found
        same_order = Placement(graph, cluster, devices, "priority", 10.0 * rising)
        assert evaluator.measure(same_order) is found[1]
        again = evaluator.measure(placements[2], again=True)
        assert again is not found[2]
        assert evaluator.measure(placements[1]) is found[1]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["devices"] for line in lines] == [devices.tolist()] * 4
    for line, placement in zip(lines, [*placements, placements[2]], strict=True):
        expected = []
        if placement.order == "priority":
            priorities = placement.priorities
            simulator = Simulator(graph, cluster, order="priority", priorities=priorities)
            expected = previous_ops(simulator, devices)
        assert line["previous"] == expected
    read = MeasurementLog(log, graph, cluster).read()
    assert list(read.values()) == [*found[:2], again]
    with MeasuredEvaluator(
        branches, cluster, SQUARE, order="priority", priorities=falling, log=log
    ) as evaluator:
        assert evaluator.order == "priority"
        np.testing.assert_array_equal(evaluator.priorities, falling)
        assert evaluator.known(devices) == again
        step_times = evaluator.evaluate(devices[None]).step_time_seconds
        assert step_times.tolist() == [again.step_time_seconds]
    assert [request.previous for request in requests] == [line["previous"] for line in lines]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": [0] * 13}, "devices has 13 entries; expected 14, one for each op"),
        ({"devices": [0] * 13 + [3]}, r"devices\[13\] is 3; expected one from 0 to 2"),
        ({"devices": [99999999999] * 14}, r"devices\[0\] is 99999999999; expected"),
        ({"previous": [-1]}, "previous has 1 entries; expected 14"),
        ({"previous": [-2] * 14}, r"previous\[0\] is -2; expected one from -1 to 13"),
        ({"step_seconds": []}, "step_seconds is empty; expected some, or a reason"),
    ],
)
def test_a_log_that_does_not_fit(tmp_path, changes, message) -> None:
    """A line of the same graph and cluster is checked against them."""
    log = MeasurementLog(tmp_path / "steps.jsonl", chains(), pair())
    log.append([0] * 14, [], Measurement(reason="the process was killed"))
    log.append([1] * 14, [-1] * 14, Measurement((0.5,)))
    good = log.path.read_text()
    assert len(log.read()) == 2
    line = json.loads(good.splitlines()[1])
    log.path.write_text(f"{good}{json.dumps({**line, **changes})}\n")
    with pytest.raises(FormatError, match=rf"steps\.jsonl:3: {message}"):
        log.read()


def test_a_problem_is_searched_in_its_order(requests) -> None:
    """Each measured placement is held to its own schedule; priorities stay those asked for."""
    cluster = four_cpus()
    with MeasuredEvaluator(branches, cluster, SQUARE, order="priority") as evaluator:
        graph = evaluator.graph
        groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
        problem = Problem(graph, cluster, groups, evaluator, "priority")
        assert not problem.takes_priorities
        choices = np.random.default_rng(0).integers(0, NUM_DEVICES, (3, graph.num_ops))
        found = problem.evaluate(choices)
        simulator = Simulator(graph, cluster, order="priority")
        for row, seconds, request in zip(choices, found.step_time_seconds, requests, strict=True):
            assert (request.devices, request.previous) == (
                row.tolist(),
                previous_ops(simulator, row),
            )
            placement = Placement(graph, cluster, row, "priority")
            assert evaluator.measure(placement).step_time_seconds == seconds


def test_the_order_is_that_of_the_seconds_that_are_known(requests) -> None:
    """A profiled graph's, in the evaluator, in measuring and in applying; and of no other one."""
    read = placer.tf.read(branches, SQUARE)
    slow = {name: 1e-3 if name.startswith("right") else 1e-6 for name in read.op_names}
    graph = with_seconds(read, {"cpu": slow})
    cluster, devices = four_cpus(), np.zeros(read.num_ops, np.int32)
    expected = previous_ops(Simulator(graph, cluster, order="priority"), devices)
    assert expected != previous_ops(Simulator(read, cluster, order="priority"), devices)
    with MeasuredEvaluator(branches, cluster, SQUARE, graph=graph, order="priority") as evaluator:
        assert evaluator.graph is graph
        evaluator.evaluate(devices[None])
        assert requests[0].previous == expected
        of_graph = evaluator.measure(Placement(graph, cluster, devices, "priority"))
        assert evaluator.known(devices) is of_graph
        assert evaluator.measure(Placement(read, cluster, devices, "priority")) is not of_graph
    placed = placer.tf.apply(branches, Placement(graph, cluster, devices, "priority"), SQUARE)
    nodes = placed.graph_def.node
    for node, before in zip(nodes, expected, strict=True):
        if before >= 0:
            waits_for = {ref.lstrip("^").partition(":")[0] for ref in node.input}
            assert nodes[before].name in waits_for
    with pytest.raises(UsageError, match="but other figures or edges"):
        MeasuredEvaluator(branches, cluster, WIDE, graph=graph)
    with pytest.raises(UsageError, match="has other ops than the program 'chain_and_others'"):
        MeasuredEvaluator(chain_and_others, cluster, SQUARE, graph=graph)


def test_ops_are_in_the_order_of_where_they_run(requests) -> None:
    """An op that uses a variable runs beside it, wherever it was asked to."""
    variable = tf.Variable(tf.ones((4, 4)))

    def step(x):
        products = [tf.matmul(x, x, name=f"product_{i}") for i in range(3)]
        variable.assign_add(x)
        return tf.add_n(products)

    with MeasuredEvaluator(step, four_cpus(), SQUARE, order="priority") as evaluator:
        graph = evaluator.graph
        asked = np.zeros((1, graph.num_ops), np.int32)
        asked[0, graph.op_types.index("AssignAddVariableOp")] = 1
        assert evaluator.evaluate(asked).feasible.all()
        simulator = Simulator(graph, four_cpus(), order="priority")
        assert requests[0].devices == asked[0].tolist()
        assert requests[0].previous == previous_ops(simulator, np.zeros_like(asked[0]))
        assert requests[0].previous != previous_ops(simulator, asked[0])


_KINDS = ("tanh", "relu", "add", "subtract", "multiply", "matmul", "read", "assign_add")
_ANY = st.integers(0, 1000)
PLANS = st.lists(st.tuples(st.sampled_from(_KINDS), _ANY, _ANY), min_size=3, max_size=14)
"""Ops with what they read, modulo what there is."""


def _build(plan):
    """The function of a plan, and its variables."""
    variables = [tf.Variable(tf.fill((4, 4), 0.1 * (i + 1))) for i in range(2)]

    def function(x):
        tensors = [x]
        for kind, one, other in plan:
            first, second = tensors[one % len(tensors)], tensors[other % len(tensors)]
            variable = variables[other % len(variables)]
            if kind in ("tanh", "relu"):
                tensors.append(getattr(tf.nn, kind)(first))
            elif kind == "read":
                tensors.append(first + variable)
            elif kind == "assign_add":
                variable.assign_add(tf.tanh(first))
            elif kind == "matmul":
                tensors.append(tf.tanh(tf.matmul(first, second)))
            else:
                tensors.append(getattr(tf, kind)(first, second))
        return tf.tanh(tf.add_n(tensors))

    return function, variables


@settings(max_examples=25)
@given(PLANS, st.integers(0, 2**32 - 1), st.integers(1, NUM_DEVICES), st.integers(1, 2))
def test_any_order_of_any_program_ends_with_the_same_numbers(
    tmp_path_factory, plan, seed, num_devices, slots
) -> None:
    """Random programs, placements that tear variables from what uses them, random priorities.

    Two steps in a session, as the process that measures runs them, give what the function gives.
    """
    function, variables = _build(plan)
    traced = tf.function(function, autograph=False).get_concrete_function(SQUARE)
    flat = flatten_function(traced)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 4)).astype(np.float32)
    graph = placer.tf.read(traced)
    asked = rng.integers(0, num_devices, graph.num_ops).tolist()
    simulator = Simulator(
        graph, four_cpus(slots), order="priority", priorities=rng.permutation(graph.num_ops)
    )
    chosen, _ = beside_variables(graph.op_names, variables_of(flat), asked, CPUS)
    previous = previous_ops(simulator, chosen)

    folder = tmp_path_factory.mktemp("program")
    save_program(folder, flat.graph_def, values_of(flat, [x]), on_workers=False)
    runner = Runner(folder, step_of(flat, CPUS, warmup=0, steps=2))
    runner._config.operation_timeout_in_ms = 20_000
    with tf.Graph().as_default() as placed:
        _, writes, feeds = runner.build(runner.place(asked, previous))
        handles = {name: placed.get_tensor_by_name(f"{name}:0") for name in flat.variables}
        reads = {
            name: tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
            for name, handle in handles.items()
        }
    with runner.session(placed) as session:
        session.run(writes, feeds)
        targets = [placed.get_operation_by_name(name) for name in runner.step.targets]
        results = [session.run([flat.outputs[0], *targets])[0] for _ in range(2)]
        last = {name: session.run(read) for name, read in reads.items()}
    expected = [traced(tf.constant(x)).numpy() for _ in range(2)]
    np.testing.assert_allclose(results, expected, rtol=1e-5, atol=1e-6)
    now = {id(variable.handle): variable.numpy() for variable in variables}
    for name, handle in flat.variables.items():
        np.testing.assert_allclose(last[name], now[id(handle)], rtol=1e-5, atol=1e-6)


def test_branches_of_tensorflow_1_have_no_order() -> None:
    """What followed an op on the side that is not taken would not run; fifo needs no such edges."""
    with tf.Graph().as_default() as one:
        given = tf.compat.v1.placeholder(tf.float32, (4,))
        yes, no = tf.raw_ops.Switch(data=given, pred=tf.reduce_sum(given) > 0)
        tf.raw_ops.Merge(inputs=[tf.tanh(yes), -no])
    graph = placer.tf.read(one.as_graph_def())
    with pytest.raises(PlacementError, match=r"\(Switch\) is a branch in the form of TensorFlow 1"):
        placer.tf.apply_to_graph_def(
            one.as_graph_def(), random_placement(graph, 0, order="priority")
        )
    placer.tf.apply_to_graph_def(one.as_graph_def(), random_placement(graph, 0))


def test_what_cannot_run_in_any_order_says_so() -> None:
    """An op that uses variables of two devices is infeasible, as with TensorFlow's own order."""
    first, second = tf.Variable(tf.ones((4, 4))), tf.Variable(tf.ones((4, 4)))

    def step(x):
        tf.raw_ops.ResourceApplyMomentum(
            var=first.handle, accum=second.handle, lr=0.1, grad=x, momentum=0.9
        )
        return x + 1.0

    with MeasuredEvaluator(
        step, four_cpus(), SQUARE, order="priority", warmup=0, steps=1
    ) as evaluator:
        graph = evaluator.graph
        devices = np.zeros((1, graph.num_ops), np.int32)
        handles = [i for i, kind in enumerate(graph.op_types) if kind == "VarHandleOp"]
        devices[0, handles[1]] = 3
        (reason,) = evaluator.evaluate(devices).reasons
    assert "expected these on one device" in reason


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"order": "lifo"}, UsageError, "order is 'lifo'; expected 'fifo' or 'priority'"),
        ({"priorities": [1.0]}, PlacementError, "priorities are given, but the order is 'fifo'"),
        ({"order": "priority", "priorities": [1.0]}, PlacementError, r"have shape \(1,\)"),
        ({"order": "priority", "priorities": "abc"}, PlacementError, "priorities are no numbers"),
    ],
)
def test_bad_orders(options, error, match) -> None:
    """Refused before any process is started."""
    with pytest.raises(error, match=match):
        MeasuredEvaluator(branches, four_cpus(), SQUARE, **options)


def test_an_order_that_cannot_be_simulated(requests) -> None:
    """Of devices whose rates are not known; TensorFlow's own can be measured there."""
    names = ("cpu:0", "cpu:1")
    unknown = Cluster("unknown", tuple(Device(n, "cpu") for n in names), (Link(names, 1e9),))
    with pytest.raises(ClusterError, match="cpu:0"):
        MeasuredEvaluator(branches, unknown, SQUARE, order="priority")
    with MeasuredEvaluator(branches, unknown, SQUARE) as evaluator:
        graph = evaluator.graph
        zeros = np.zeros(graph.num_ops, np.int32)
        assert evaluator.evaluate(zeros[None]).feasible.all()
        with pytest.raises(PlacerError, match="cpu:0"):
            evaluator.measure(Placement(graph, unknown, zeros, "priority"))
        with pytest.raises(PlacementError, match="made for another graph"):
            other = placer.tf.read(chain_and_others, SQUARE)
            evaluator.measure(random_placement(other, 0, order="priority"))
