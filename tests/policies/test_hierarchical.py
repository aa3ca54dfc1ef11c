"""The two-level policy: what it says, what it may do, that it learns, and from what."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from placer.cluster import Cluster, Device, Link
from placer.errors import InfeasibleError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups
from placer.placement import Evaluations
from placer.problem import Problem, Progress
from placer.simulator import Simulator
from policies import hierarchical, learner, lstm_network
from policies import hierarchical_network as network
from policies.hierarchical import HIERARCHICAL, HierarchicalConfig, expand, fastest_devices
from policies.hierarchical_network import HierarchyInputs
from policies.networks import score
from policies.prior import prior_logits
from tests.experiments.builders import cluster
from tests.toys import make_toy

NUM_GROUPS, NUM_SUPERGROUPS, NUM_DEVICES, HIDDEN = 3, 2, 3, 4
GROUPINGS = np.array(list(itertools.product(range(NUM_SUPERGROUPS), repeat=NUM_GROUPS)), np.int32)
PLACEMENTS = np.array(list(itertools.product(range(NUM_DEVICES), repeat=NUM_SUPERGROUPS)), np.int32)
ROWS = np.array([[*g, *p] for g in GROUPINGS for p in PLACEMENTS], np.int32)  # [72, 5]
ALLOWED = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
SMALL = dataclasses.replace(HIERARCHICAL, hidden=16)


def _inputs(prior: np.ndarray | None = None) -> HierarchyInputs:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(NUM_GROUPS + NUM_SUPERGROUPS, NUM_DEVICES))
    return HierarchyInputs(
        features=tf.constant(rng.random((NUM_GROUPS, 5))),
        neighbours=tf.constant(rng.random((NUM_GROUPS, 3))),
        traffic=tf.constant(rng.integers(0, 9, (NUM_GROUPS, NUM_GROUPS)).astype(float)),
        allowed=tf.constant(ALLOWED),
        prior_logits=tf.constant(logits if prior is None else prior),
    )


def _weights() -> dict[str, tf.Tensor]:
    """Weights of some size everywhere, as after training."""
    rng = np.random.default_rng(5)
    fresh = network.init_weights(rng, _inputs(), HIDDEN)
    return {name: tf.constant(rng.normal(0, 0.5, w.shape)) for name, w in fresh.items()}


@tf.function(autograph=False)
def _row_log_probs(weights: dict[str, tf.Tensor]) -> tf.Tensor:
    """Of every row there is, ``[72]``."""
    return tf.reduce_sum(score(network, weights, _inputs(), tf.constant(ROWS)).log_probs, axis=1)


@tf.function(autograph=False)
def _loss_and_gradient(
    weights: dict[str, tf.Tensor], rows: tf.Tensor, coefficients: tf.Tensor, entropy_coef: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    loss, _, _, gradient = learner.loss_and_gradient(
        network, weights, _inputs(), rows, coefficients, rows.shape[0], entropy_coef
    )
    return loss, gradient


def _problem(name: str, ops: list[Op], models: tuple[str, str] = ("a", "b")) -> Problem:
    """Two devices, a link of 1 GB/s, and an op group per op."""
    devices = tuple(
        Device(f"gpu:{i}", "gpu", model, memory_bytes=1e12) for i, model in enumerate(models)
    )
    link = Link(tuple(device.name for device in devices), bandwidth=1e9)
    graph, where = OpGraph.from_ops(name, ops), Cluster("pair", devices, (link,))
    groups = OpGroups(graph, np.arange(len(ops), dtype=np.int32), graph.op_names)
    return Problem(graph, where, groups, Simulator(graph, where))


LIKES = np.random.default_rng(0).integers(2, size=16)


def _choosy() -> Problem:
    """A chain whose ops take 1 ms on the device that they like and 3 ms on the other.

    Sending takes next to nothing; the optimum is the chain of 1 ms each.
    """
    return _problem(
        "choosy",
        [
            Op(
                f"op{i}",
                "Op",
                (f"op{i - 1}:0",) if i else (),
                outputs=(Output(1.0),),
                seconds={model: 1e-3 if like == j else 3e-3 for j, model in enumerate("ab")},
            )
            for i, like in enumerate(LIKES.tolist())
        ],
    )


def _two_chains() -> Problem:
    """Two chains of 8 ops of 1 ms, interleaved; sending within one takes 3 ms.

    The optimum is the 8 ms of a chain, with each on a device of its own.
    """
    return _problem(
        "chains",
        [
            Op(
                f"op{i}_{j}",
                "Op",
                (f"op{i - 1}_{j}:0",) if i else (),
                outputs=(Output(3e6),),
                seconds={"a": 1e-3},
            )
            for i in range(8)
            for j in range(2)
        ],
        ("a", "a"),
    )


TOY = _choosy()


# What it says


def test_probabilities_sum_to_one() -> None:
    """Over all groupings with all placements; those that may not be have none."""
    probs = np.exp(_row_log_probs(_weights()))
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    possible = [
        all(
            any(ALLOWED[i, row[3 + j]] for i in np.flatnonzero(row[:3] == j))
            if j in row[:3]
            else row[3 + j] == 0
            for j in range(NUM_SUPERGROUPS)
        )
        for row in ROWS
    ]
    assert np.array_equal(probs > 0, possible)
    assert np.ptp(probs[possible]) > 0.01


def test_each_level_says_what_it_says_alone() -> None:
    """The grouper a softmax per op group, the placer what it says of these supergroups."""
    weights, inputs = _weights(), _inputs()
    rows = ROWS[::13]
    found = network.decisions(weights, inputs, tf.constant(rows)).numpy()
    seen = np.concatenate([inputs.features, inputs.neighbours], axis=1)
    hidden = np.tanh(seen @ weights["grouper_hidden"] + weights["grouper_hidden_bias"])
    logits = hidden @ weights["grouper_output"] + 10 * weights["grouper_bias"]
    chances = np.exp(logits + inputs.prior_logits[:3, :2])
    chances = chances / chances.sum(axis=1, keepdims=True)
    for row, decisions in zip(rows, np.exp(found), strict=True):
        np.testing.assert_allclose(decisions[:3, :2], chances, atol=1e-12)
        assert not decisions[:3, 2].any()
        supergroups = network.placer_inputs(inputs, tf.constant(row[:3]))
        alone = lstm_network.decisions(weights, supergroups, tf.constant(row[None, 3:]))
        np.testing.assert_allclose(decisions[3:], np.exp(alone[0]), atol=1e-12)


def test_samples_come_as_often_as_their_probability_says() -> None:
    """Frequencies of rows in 3,000 samples, within five standard errors; and they say their own."""
    num_samples, weights, inputs = 3000, _weights(), _inputs()
    noise = np.random.default_rng(6).gumbel(size=(5, num_samples, 3))
    draw = tf.function(network.sample, jit_compile=True, autograph=False)
    samples = draw(weights, inputs, tf.constant(noise))
    number = {tuple(row): i for i, row in enumerate(ROWS.tolist())}
    which = np.array([number[tuple(row)] for row in samples.choices.numpy().tolist()])
    log_probs = _row_log_probs(weights).numpy()
    np.testing.assert_allclose(tf.reduce_sum(samples.log_probs, axis=1), log_probs[which])
    probs = np.exp(log_probs)
    errors = np.abs(np.bincount(which, minlength=len(ROWS)) / num_samples - probs)
    assert (errors <= 5 * np.sqrt(probs * (1 - probs) / num_samples) + 1e-12).all()


def test_an_untrained_policy_is_its_prior() -> None:
    """The grouper deviates from the grouping that it begins near as often as asked."""
    prior = np.zeros((5, 3), np.float32)
    prior[:3, :2] = prior_logits(np.ones((3, 2), bool), np.array([0, 1, 1], np.int32), 0.75)
    inputs = HierarchyInputs(*(np.asarray(array, np.float32) for array in _inputs(prior)))
    inputs = inputs._replace(allowed=tf.constant(ALLOWED))
    weights = network.init_weights(np.random.default_rng(0), inputs, HIDDEN)
    chances = np.exp(network.decisions(weights, inputs, tf.constant([[0, 1, 1, 0, 0]])))[0]
    expected = [[0.75, 0.25, 0], [0.25, 0.75, 0], [0.25, 0.75, 0]]
    np.testing.assert_allclose(chances[:3], expected, atol=1e-6)
    np.testing.assert_allclose(chances[3:], [[0.5, 0.5, 0], [1 / 3] * 3], atol=1e-6)


def test_a_supergroup_is_seen_as_the_sum_of_its_members() -> None:
    """Features over the mean size; traffic between supergroups, not within, over the most."""
    inputs = _inputs(np.zeros((6, 3)))._replace(
        features=tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], tf.float64),
        traffic=tf.constant([[0.0, 7.0, 3.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]], tf.float64),
    )
    seen = network.placer_inputs(inputs, tf.constant([0, 0, 2]))
    np.testing.assert_allclose(seen.features, [[1, 1], [0, 0], [1, 1]])
    np.testing.assert_allclose(seen.adjacency, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


# What it may do


def test_a_supergroup_goes_where_any_of_its_members_may_go() -> None:
    """One without members has no choice."""
    seen = network.placer_inputs(_inputs(np.zeros((6, 3))), tf.constant([0, 0, 2]))
    assert seen.allowed.numpy().tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]


def test_who_may_not_go_along_goes_to_its_fallback() -> None:
    """And all others go where their supergroup goes."""
    rows = np.array([[1, 1, 0, 2, 0], [1, 1, 0, 0, 1]], np.int32)
    assert expand(rows, ALLOWED, np.array([1, 1, 0])).tolist() == [[0, 1, 2], [1, 1, 0]]


def test_only_devices_that_are_allowed_are_ever_evaluated() -> None:
    """On a graph whose op groups may not all go to one device."""
    kinds: tuple[Any, ...] = (("cpu",), ("gpu",), None, ("gpu",), ("cpu", "gpu"))
    ops = [
        Op(f"op{i}", "MatMul", flops=1e9 * (i + 1), device_kinds=kind)
        for i, kind in enumerate(kinds)
    ]
    graph, where = OpGraph.from_ops("kinds", ops), cluster()
    groups = OpGroups(graph, np.arange(5, dtype=np.int32), graph.op_names)
    seen, problem = _watched(Problem(graph, where, groups, Simulator(graph, where)))
    assert fastest_devices(problem).tolist() == [0, 1, 1, 1, 1]
    config = dataclasses.replace(SMALL, num_supergroups=3, batch_size=80)
    hierarchical.search(problem, evaluations=80, seed=0, config=config)
    placements = np.concatenate(seen)
    assert len(placements) == 80
    assert problem.allowed[np.arange(5), placements].all()
    assert len(np.unique(placements, axis=0)) > 10


def _watched(problem: Problem) -> tuple[list[np.ndarray], Problem]:
    """The problem, and the placements that it will have evaluated."""
    seen: list[np.ndarray] = []

    class Watching:
        def evaluate(self, placements: np.ndarray) -> Evaluations:
            seen.append(placements.copy())
            return problem.evaluator.evaluate(placements)

    return seen, dataclasses.replace(problem, evaluator=Watching())


# What it learns from


def test_gradient_matches_finite_differences() -> None:
    """For every weight, along random directions, to 1e-4 relative in float64."""
    weights, rng, step = _weights(), np.random.default_rng(7), 1e-5
    possible = np.flatnonzero(np.exp(_row_log_probs(weights)) > 0)
    rows = tf.constant(ROWS[possible[[3, 11, 20, 29]]])
    coefficients = tf.constant(rng.normal(size=rows.shape))

    def loss(changed: dict[str, tf.Tensor]) -> Any:
        return _loss_and_gradient(changed, rows, coefficients, tf.constant(0.1, tf.float64))

    gradient = loss(weights)[1]
    for name, weight in weights.items():
        direction = rng.normal(size=weight.shape)
        up = loss({**weights, name: weight + step * direction})[0]
        down = loss({**weights, name: weight - step * direction})[0]
        exact = float(tf.reduce_sum(gradient[name] * direction))
        assert exact == pytest.approx(float(up - down) / (2 * step), rel=1e-4), name
        assert abs(exact) > 1e-6, f"{name} has no influence"


@pytest.mark.parametrize("baseline", [0.0, -1.5])
def test_the_gradient_estimate_is_unbiased(baseline: float) -> None:
    """Its expectation over all groupings with all placements is the gradient, for both levels."""
    weights = _weights()
    rewards = np.random.default_rng(8).normal(-1, 0.3, len(ROWS))
    with tf.GradientTape() as tape:
        tape.watch(weights)
        probs = tf.exp(_row_log_probs(weights))
        cost = -tf.reduce_sum(probs * rewards)
    exact = tape.gradient(cost, weights)
    # the loss is linear in the coefficients: with expected ones, its gradient is the expected one
    coefficients = np.repeat((probs * (rewards - baseline))[:, None], ROWS.shape[1], axis=1)
    _, estimate = _loss_and_gradient(
        weights, tf.constant(ROWS), tf.constant(coefficients), tf.constant(0.0, tf.float64)
    )
    for name in weights:
        np.testing.assert_allclose(estimate[name], exact[name], atol=1e-10, err_msg=name)
        assert np.abs(exact[name]).max() > 1e-6, name


def test_the_steps_are_on_the_rows_that_were_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its advantage in all columns, and the best so far besides."""
    taught: list[tuple[np.ndarray, np.ndarray]] = []
    update = learner.update

    def watch(*arguments: Any) -> Any:
        taught.append((arguments[3].copy(), arguments[4].copy()))
        return update(*arguments)

    monkeypatch.setattr(learner, "update", watch)
    seen, problem = _watched(TOY)
    hierarchical.search(problem, evaluations=48, seed=0, config=SMALL)
    assert len(taught) == 2  # the last batch teaches no one
    best_rows = np.zeros((0, 24), np.int32)
    for placements, (rows, coefficients) in zip(seen, taught, strict=False):
        assert rows.shape == (20, 24)
        anywhere, anything = np.ones((16, 2), bool), np.zeros(16, np.int32)
        assert np.array_equal(expand(rows[:16], anywhere, anything), placements)
        seconds = TOY.evaluate(placements).step_time_seconds
        rewards = -np.sqrt(seconds / TOY.reference_seconds)
        advantages = np.clip((rewards - rewards.mean()) / rewards.std(), -3, 3)
        expected = np.repeat(advantages[:, None] / 16, 24, axis=1)
        np.testing.assert_allclose(coefficients[:16], expected)
        best_rows = np.concatenate([best_rows, rows[:16]])
        times = TOY.evaluate(expand(best_rows, anywhere, anything)).step_time_seconds
        order = np.argsort(times, kind="stable")
        distinct = [
            i
            for n, i in enumerate(order)
            if not (best_rows[order[:n]] == best_rows[i]).all(1).any()
        ]
        assert np.array_equal(rows[16:], best_rows[distinct[:4]])
        assert (coefficients[16:] == 0.25).all()


# What it costs, and that it repeats itself


@pytest.mark.parametrize("evaluations", [1, 16, 40])
def test_the_budget_is_kept_to_the_evaluation(evaluations: int) -> None:
    """Exactly so many placements are evaluated, and the result is the best of them."""
    told: list[Progress] = []
    seen, problem = _watched(TOY)
    result = hierarchical.search(
        problem, evaluations=evaluations, seed=0, on_progress=told.append, config=SMALL
    )
    assert result.method == "hierarchical"
    placements = np.concatenate(seen)
    assert len(placements) == result.evaluations == evaluations == len(result.best_so_far)
    best = TOY.evaluate(placements).step_time_seconds.min()
    assert result.best_so_far[-1] == result.step_time_seconds == best
    assert TOY.evaluate(result.choices[None]).step_time_seconds[0] == best
    assert (told[-1].evaluations, told[-1].best_seconds) == (evaluations, best)


def test_the_same_seed_finds_the_same() -> None:
    """To the bit; and another seed another history."""
    first, second, other = (
        hierarchical.search(TOY, evaluations=96, seed=seed, config=SMALL) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.best_so_far, second.best_so_far)
    assert np.array_equal(first.choices, second.choices)
    assert not np.array_equal(first.best_so_far, other.best_so_far)


def test_no_batch_begins_after_the_seconds() -> None:
    """The first is always evaluated."""
    result = hierarchical.search(TOY, evaluations=10_000, seed=0, seconds=1e-9, config=SMALL)
    assert result.evaluations == 16


def test_a_start_is_evaluated_first_and_no_supergroup_begins_on_two_of_its_devices() -> None:
    """Whatever the grouping by METIS is."""
    for start in (LIKES.astype(np.int32), np.zeros(16, np.int32)):
        seen, problem = _watched(TOY)
        result = hierarchical.search(problem, evaluations=16, seed=0, start=start, config=SMALL)
        assert np.array_equal(seen[0][0], start)
        assert result.best_so_far[0] == TOY.evaluate(start[None]).step_time_seconds[0]
        first, prior = hierarchical._beginning(problem, start, SMALL)
        assert np.array_equal(prior[:16].argmax(axis=1), first[:16])
        devices = [np.unique(start[first[:16] == i]).tolist() for i in range(len(first) - 16)]
        assert devices == [[device] for device in first[16:]]
        assert len(devices) >= 8


# What it survives


@pytest.mark.parametrize("num_devices", [1, 2])
def test_one_op_group_goes_to_its_best_device(num_devices: int) -> None:
    """On one device and on two."""
    toy = make_toy(1, num_devices)
    result = hierarchical.search(toy, evaluations=16, seed=0, config=SMALL)
    assert result.step_time_seconds == toy.op_seconds.min()


def test_it_learns_to_fit_and_says_why_where_nothing_fits() -> None:
    """16 MB of variables on devices of 14 MB; and of 7 MB, with failures alone to learn from."""
    toy = make_toy(16, memory_bytes=14e6)
    start = np.zeros(16, np.int32)
    result = hierarchical.search(toy, evaluations=400, seed=0, start=start, config=SMALL)
    assert np.isinf(result.best_so_far[0])
    assert toy.evaluate(result.choices[None]).feasible[0]
    toy = make_toy(16, memory_bytes=7e6)
    with pytest.raises(InfeasibleError, match="none of 40 placements tried by hierarchical"):
        hierarchical.search(toy, evaluations=40, seed=0, config=SMALL)


def test_step_times_that_are_no_numbers_do_not_end_it() -> None:
    """As where a measurement says nan: they count as infeasible, and the others teach."""

    class Faulty:
        def evaluate(self, placements: np.ndarray) -> Evaluations:
            found = TOY.evaluator.evaluate(placements)
            seconds = np.where(placements[:, 0] == LIKES[0], np.nan, found.step_time_seconds)
            return dataclasses.replace(found, step_time_seconds=seconds)

    problem = dataclasses.replace(TOY, evaluator=Faulty())
    result = hierarchical.search(problem, evaluations=160, seed=0, config=SMALL)
    assert result.choices[0] != LIKES[0]
    assert np.isfinite(result.step_time_seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 0}, "evaluations is 0; expected a whole number from 1"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"seconds": 0.0}, "seconds is 0.0; expected a number above 0"),
        ({"start": np.zeros(3, np.int32)}, r"shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    """Budgets, seed and start outside their range."""
    with pytest.raises(UsageError, match=message):
        hierarchical.search(TOY, **{"evaluations": 5, "seed": 0} | arguments)


def test_bad_settings_are_named() -> None:
    """Of the policy and of the steps."""
    with pytest.raises(UsageError, match="num_supergroups is 0; expected more than 0"):
        HierarchicalConfig(num_supergroups=0)
    with pytest.raises(UsageError, match="num_elites is -1; expected at least 0"):
        HierarchicalConfig(num_elites=-1)


# That it learns


@pytest.mark.parametrize(
    ("problem", "optimum", "best", "least"),
    [(TOY, 16e-3, LIKES, 4), (_two_chains(), 8e-3, np.array([0, 1] * 8), 3)],
    ids=["choosy", "two chains"],
)
def test_a_toy_is_solved(problem: Problem, optimum: float, best: np.ndarray, least: int) -> None:
    """The optimum, one or two of 65,536 placements, within 1,500 evaluations, in most of 5 seeds.

    Half of the supergroups that METIS makes of the first toy join ops that should be apart; in the
    second, moving one op takes longer than leaving it. Random draws find neither.
    """
    known = problem.evaluate(best[None]).step_time_seconds[0]
    assert known == pytest.approx(optimum, rel=1e-4)
    draws = np.random.default_rng(1).integers(2, size=(1500, 16))
    assert problem.evaluate(draws).step_time_seconds.min() > 1.1 * known
    found = [
        hierarchical.search(problem, evaluations=1500, seed=seed, config=SMALL).step_time_seconds
        for seed in range(5)
    ]
    assert sum(seconds == known for seconds in found) >= least
