"""The graph policy: one distribution, whatever the size of the problem and the names of devices."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.problem import Problem
from placer.simulator import Simulator
from policies import graph_network
from policies.config import MODERN
from policies.generating import generate_cluster, generate_graph
from policies.graph_inputs import GraphInputs, graph_inputs, padded
from policies.reinforce import Trainer
from tests.toys import all_choices, make_toy

HIDDEN = 6
NUM_GROUPS, NUM_DEVICES = 4, 3
ALL = np.array(list(itertools.product(range(NUM_DEVICES), repeat=NUM_GROUPS)), np.int32)


def _as(dtype: type, inputs: GraphInputs) -> GraphInputs:
    return GraphInputs(
        *(
            tf.constant(array.astype(dtype) if array.dtype == np.float32 else array)
            for array in inputs
        )
    )


def _inputs(problem: Problem, seed: int = 0) -> GraphInputs:
    """Inputs with some prior."""
    shape = problem.num_groups, problem.num_devices
    prior = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return graph_inputs(problem, prior)


def _weights(inputs: GraphInputs, dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Weights of some size everywhere, as after training."""
    rng = np.random.default_rng(2)
    fresh = graph_network.init_weights(rng, inputs, HIDDEN)
    return {name: rng.normal(0, 0.4, w.shape).astype(dtype) for name, w in fresh.items()}


def _generated(seed: int, num_blocks: int = 14) -> Problem:
    rng = np.random.default_rng(seed)
    graph, groups = generate_graph(rng, num_blocks)
    cluster = generate_cluster(rng, graph)
    return Problem(graph, cluster, groups, Simulator(graph, cluster))


@pytest.fixture(scope="module")
def toy() -> GraphInputs:
    """Of a toy in which some groups may not go everywhere."""
    inputs = _inputs(make_toy(NUM_GROUPS, NUM_DEVICES))
    allowed = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
    return _as(np.float64, inputs._replace(allowed=allowed))


@pytest.fixture(scope="module")
def log_probs(toy: GraphInputs) -> np.ndarray:
    """Of every choice there is, ``[num_choices]``."""
    return _of_chosen(toy, ALL)


def _of_chosen(inputs: GraphInputs, choices: np.ndarray) -> np.ndarray:
    every = graph_network.decisions(_weights(inputs), inputs, tf.constant(choices)).numpy()
    return np.take_along_axis(every, choices[..., None], axis=2)[..., 0].sum(axis=1)


def test_probabilities_sum_to_one(log_probs: np.ndarray) -> None:
    """Over all choices there are, the probabilities sum to 1."""
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-12)


def test_choices_that_are_not_allowed_have_no_probability(
    toy: GraphInputs, log_probs: np.ndarray
) -> None:
    """A choice with a masked device has probability 0, and only such a choice."""
    possible = toy.allowed.numpy()[np.arange(NUM_GROUPS), ALL].all(axis=1)
    assert np.array_equal(np.exp(log_probs) > 0, possible)


def test_choices_depend_on_each_other(toy: GraphInputs, log_probs: np.ndarray) -> None:
    """The last decision depends on the first choice."""
    first, last = toy.order.numpy()[[0, -1]]
    joint = np.zeros((NUM_DEVICES, NUM_DEVICES))
    np.add.at(joint, (ALL[:, first], ALL[:, last]), np.exp(log_probs))
    assert np.abs(joint - np.outer(joint.sum(axis=1), joint.sum(axis=0))).max() > 1e-3


def test_samples_are_scored_as_they_were_drawn(toy: GraphInputs, log_probs: np.ndarray) -> None:
    """Sampling and teacher forcing agree; frequencies are within five standard errors."""
    noise = np.random.default_rng(3).gumbel(size=(NUM_GROUPS, 20_000, NUM_DEVICES))
    samples = graph_network.sample(_weights(toy), toy, tf.constant(noise))
    choices = samples.choices.numpy()
    every = graph_network.decisions(_weights(toy), toy, samples.choices).numpy()
    chosen = np.take_along_axis(every, choices[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(samples.log_probs, chosen, rtol=1e-9)
    counts = np.bincount(choices @ NUM_DEVICES ** np.arange(NUM_GROUPS)[::-1], minlength=len(ALL))
    probs = np.exp(log_probs)
    errors = np.abs(counts / counts.sum() - probs)
    assert (errors <= 5 * np.sqrt(probs * (1 - probs) / counts.sum()) + 1e-12).all()


def test_inputs_that_are_numpy_arrays_stay_as_they_are() -> None:
    """Called as it is, not compiled, it is a pure function, too."""
    inputs = _inputs(make_toy(NUM_GROUPS, NUM_DEVICES))
    before = GraphInputs(*map(np.copy, inputs))
    weights = _weights(inputs, np.float32)
    first = graph_network.decisions(weights, inputs, ALL[:2])
    np.testing.assert_array_equal(graph_network.decisions(weights, inputs, ALL[:2]), first)
    graph_network.sample(weights, inputs, tf.zeros([NUM_GROUPS, 1, NUM_DEVICES]))
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_untrained_policy_is_its_prior() -> None:
    """With fresh weights each group is independent and its logits are the prior's."""
    inputs = _inputs(make_toy(NUM_GROUPS, NUM_DEVICES))
    fresh = graph_network.init_weights(np.random.default_rng(0), inputs, HIDDEN)
    found = graph_network.decisions(fresh, _as(np.float32, inputs), tf.constant(ALL[:5]))
    expected = tf.nn.log_softmax(inputs.prior_logits).numpy()
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Of a weighted sum of all log-probabilities, along random directions, for every weight."""
    inputs = _as(np.float64, _inputs(_generated(1, 9)))
    weights = {name: tf.constant(w) for name, w in _weights(inputs).items()}
    rng = np.random.default_rng(1)
    num_groups, num_devices = inputs.allowed.shape
    allowed = inputs.allowed.numpy()
    choices = tf.constant(
        np.array([[rng.choice(np.flatnonzero(row)) for row in allowed] for _ in range(3)], np.int32)
    )
    factors = np.where(allowed, rng.normal(size=(3, num_groups, num_devices)), 0.0)

    @tf.function(autograph=False)
    def objective(at: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_sum(factors * graph_network.decisions(at, inputs, choices))

    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = objective(weights)
    gradients = tape.gradient(value, weights)
    for name, weight in weights.items():
        direction = rng.normal(size=weight.shape)
        step = 1e-6
        up = objective({**weights, name: weight + step * direction})
        down = objective({**weights, name: weight - step * direction})
        expected = float(tf.reduce_sum(gradients[name] * direction))
        assert float(up - down) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def _renamed(cluster: Cluster, order: list[int]) -> Cluster:
    """The same cluster with its devices in another order."""
    return dataclasses.replace(cluster, devices=tuple(cluster.devices[i] for i in order))


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_devices_may_be_numbered_in_any_order(seed: int) -> None:
    """Devices in another order: the same probabilities in that order."""
    problem = _generated(seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(problem.num_devices).tolist()
    cluster = _renamed(problem.cluster, order)
    renamed = dataclasses.replace(
        problem, cluster=cluster, evaluator=Simulator(problem.graph, cluster)
    )
    no_prior = np.zeros((problem.num_groups, problem.num_devices), np.float32)
    inputs = _as(np.float64, graph_inputs(problem, no_prior))
    other = _as(np.float64, graph_inputs(renamed, no_prior))
    weights = _weights(inputs) | {"group_bias": no_prior.astype(float)}
    choices = rng.integers(0, problem.num_devices, (4, problem.num_groups)).astype(np.int32)
    mapped = np.argsort(order).astype(np.int32)[choices]
    found = graph_network.decisions(weights, inputs, tf.constant(choices)).numpy()
    again = graph_network.decisions(weights, other, tf.constant(mapped)).numpy()
    np.testing.assert_allclose(again, found[..., order], rtol=1e-4, atol=1e-4)


def test_one_set_of_weights_serves_all_sizes() -> None:
    """Shapes do not depend on the problem, but for the bias, which may be left out."""
    shapes = []
    for seed, num_blocks in ((1, 9), (2, 40)):
        problem = _generated(seed, num_blocks)
        inputs = _inputs(problem)
        weights = _weights(inputs, np.float32)
        shape = problem.num_groups, problem.num_devices
        assert weights.pop("group_bias").shape == shape
        shapes.append({name: weight.shape for name, weight in weights.items()})
        noise = np.random.default_rng(0).gumbel(size=(shape[0], 5, shape[1]))
        samples = graph_network.sample(
            weights, _as(np.float32, inputs), tf.constant(noise, tf.float32)
        )
        assert samples.choices.shape == (5, problem.num_groups)
        assert problem.allowed[np.arange(shape[0]), samples.choices.numpy()].all()
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("seed", range(4))
def test_padding_changes_nothing(seed: int) -> None:
    """Groups and devices that are added take no part."""
    problem = _generated(seed)
    inputs = _inputs(problem)
    weights = _weights(inputs)
    del weights["group_bias"]
    wide = padded(inputs, problem.num_groups + 5, problem.num_devices + 2)
    rng = np.random.default_rng(seed)
    choices = np.array([rng.choice(np.flatnonzero(row), 3) for row in problem.allowed]).T
    choices = choices.astype(np.int32)
    found = graph_network.decisions(weights, _as(np.float64, inputs), tf.constant(choices))
    again = graph_network.decisions(
        weights, _as(np.float64, wide), tf.constant(np.pad(choices, [(0, 0), (0, 5)]))
    ).numpy()
    real = again[:, : problem.num_groups, : problem.num_devices]
    np.testing.assert_allclose(real, found, rtol=1e-4, atol=1e-4)
    assert (again[:, problem.num_groups :, 0] == 0).all()


def test_the_list_schedule_is_right() -> None:
    """Start, arrival and finish on two devices, worked out by hand."""
    sent = (Output(4e6), Output(4e6))
    ops = [
        Op("x", "MatMul", outputs=sent, seconds={"a": 2e-3, "b": 6e-3}),
        Op("y", "MatMul", ("x:0",), seconds={"a": 2e-3, "b": 4e-3}),
        Op("z", "MatMul", ("x:1",), seconds={"a": 2e-3, "b": 2e-3}),
        Op("u", "MatMul", ("x:0",), seconds={"a": 2e-3, "b": 2e-3}),
    ]
    graph = OpGraph.from_ops("fork", ops)
    devices = tuple(
        Device(f"gpu:{i}", "gpu", model, memory_bytes=1e9) for i, model in enumerate("ab")
    )
    link = Link(("gpu:0", "gpu:1"), 4e9, latency_seconds=1e-3, channel="source")
    cluster = Cluster("two", devices, (link,))
    groups = OpGroups(graph, np.arange(4, dtype=np.int32), ("x", "y", "z", "u"))
    problem = Problem(graph, cluster, groups, Simulator(graph, cluster))
    inputs = _as(np.float64, graph_inputs(problem, np.zeros((4, 2), np.float32)))
    assert inputs.order.numpy().tolist() == [0, 1, 2, 3]
    shape = [2, len(graph_network.STATE_FEATURES)]
    _, states = graph_network._walk(
        inputs,
        1,
        lambda step, state: (tf.constant([[0], [1], [1], [1]])[step], state),
        (tf.int32, []),
        (tf.float64, shape),
    )
    seen = [
        dict(zip(graph_network.STATE_FEATURES, np.expm1(state.T), strict=True))
        for state in states.numpy()[:, 0]
    ]

    def check(group: int, **expected: list[float]) -> None:
        for name, values in expected.items():
            np.testing.assert_allclose(seen[group][name], values, rtol=1e-5, err_msg=name)

    # times are in units of 2 ms, the mean of the fastest; x runs there until 1
    check(0, finish=[0, 2], arrival=[0, 0])
    # y on the other device: there at 1 + (1 ms + 1 ms) / 2 ms = 2, done at 2 + 2 = 4, not at 2
    check(1, arrival=[0, 1], finish=[0, 2], extends=[1, 3], idle=[0, 2], transfers=[0, 1])
    # z on the other device: its input queues behind that of y until 2, is there at 3; y ends at 4
    check(2, arrival=[0, 2], free=[0, 3], finish=[0, 3], transfers=[0, 1])
    # u on the other device: its input is that of y, there since 2; z ends at 5
    check(3, arrival=[0, 1], free=[0, 4], finish=[0, 4], transfers=[0, 0])


def test_a_toy_is_solved() -> None:
    """The optimum of 12 ops within 2,000 evaluations, in most of 4 seeds, by shared weights alone."""
    toy = make_toy(12)
    optimum = toy.evaluate(all_choices(toy)).step_time_seconds.min()
    config = dataclasses.replace(MODERN, network="graph", hidden=16, group_bias_rate=0.0)
    solved = 0
    for seed in range(4):
        trainer = Trainer(toy, config, evaluations=2000, seed=seed)
        while not trainer.done and trainer.best_so_far.min() > optimum:
            trainer.step()
        assert "group_bias" not in trainer.state.weights
        solved += trainer.best_so_far.min() == optimum
    assert solved >= 3
