"""The mathematics of training, on literal numbers and against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from policies import learner, losses
from policies import lstm_network as network
from policies.learner import Hyperparameters, LearnerState
from policies.lstm_network import PolicyInputs
from policies.networks import score

NUM_GROUPS, NUM_DEVICES, HIDDEN = 3, 2, 4
ALL = np.array(list(itertools.product(range(NUM_DEVICES), repeat=NUM_GROUPS)), np.int32)
REWARDS = np.random.default_rng(5).normal(-1, 0.3, len(ALL))


def _policy() -> tuple[dict[str, tf.Tensor], PolicyInputs]:
    rng = np.random.default_rng(4)
    inputs = PolicyInputs(
        features=tf.constant(rng.normal(size=(NUM_GROUPS, 5))),
        adjacency=tf.constant(rng.random((NUM_GROUPS, NUM_GROUPS))),
        prior_logits=tf.constant(rng.normal(size=(NUM_GROUPS, NUM_DEVICES))),
        allowed=tf.constant(np.ones((NUM_GROUPS, NUM_DEVICES), bool)),
    )
    fresh = network.init_weights(rng, inputs, HIDDEN)
    weights = {name: tf.constant(rng.normal(0, 0.5, w.shape)) for name, w in fresh.items()}
    return weights, inputs


def _columns(advantages: list[float]) -> tf.Tensor:
    """The same credit for every decision of a row."""
    return tf.repeat(tf.constant(advantages, tf.float64)[:, None], NUM_GROUPS, axis=1)


def test_moving_average_on_numbers() -> None:
    """0.9 of the past and 0.1 of the batch's mean."""
    assert losses.moving_average(-10.0, np.array([-1.0, -3.0]), 0.9) == pytest.approx(-9.2)


def test_normalised_advantages_on_numbers() -> None:
    """Less the mean over the standard deviation; an outlier counts three deviations at most."""
    np.testing.assert_allclose(
        losses.normalised_advantages(np.array([1.0, 2.0, 3.0]), np.full(3, True)),
        [-(1.5**0.5), 0, 1.5**0.5],
    )
    assert losses.normalised_advantages(np.array([0.0] * 99 + [1.0]), np.full(100, True)).max() == 3
    assert not losses.normalised_advantages(np.array([-2.0, -2.0]), np.full(2, True)).any()


def test_failing_rewards_do_not_hide_how_the_others_differ() -> None:
    """Those that are feasible are normalised among themselves; the others get the least."""
    rewards, feasible = np.array([-1.0, -10.0, -3.0]), np.array([True, False, True])
    assert losses.normalised_advantages(rewards, feasible).tolist() == [1, -3, -1]
    nothing_feasible = losses.normalised_advantages(np.array([-9.0, -11.0]), np.full(2, False))
    assert nothing_feasible.tolist() == [1, -1]


def test_ranks_are_checked() -> None:
    """A column where a vector belongs is an error, not a broadcast."""
    with pytest.raises(ValueError, match=r"shape \(3, 2\); coefficients have shape \(3, 1\)"):
        losses.policy_loss(tf.zeros([3, 2]), tf.zeros([3, 1]))
    with pytest.raises(ValueError, match="expected a vector"):
        losses.moving_average(0.0, np.zeros((2, 2)), 0.9)


def test_clipping_scales_the_joint_norm_down_only() -> None:
    """A gradient of norm 5 comes out with norm 1; one of norm 0.5 as it was."""
    clipped, norm = losses.clip_by_norm({"a": tf.constant([3.0]), "b": tf.constant([4.0])}, 1.0)
    assert float(norm) == pytest.approx(5)
    np.testing.assert_allclose([clipped["a"][0], clipped["b"][0]], [0.6, 0.8], rtol=1e-6)
    kept, _ = losses.clip_by_norm({"a": tf.constant([0.3, 0.4])}, 1.0)
    np.testing.assert_allclose(kept["a"], [0.3, 0.4], rtol=1e-6)


def test_adam_is_that_of_keras() -> None:
    """Ten steps on one vector end where Keras's optimizer ends."""
    import keras

    rng = np.random.default_rng(0)
    variable = keras.Variable(np.ones(6, np.float32))
    optimizer = keras.optimizers.Adam(learning_rate=0.01)
    weight, first, second = tf.ones(6), tf.zeros(6), tf.zeros(6)
    for count in range(1, 11):
        gradient = tf.constant(rng.normal(size=6).astype(np.float32))
        optimizer.apply([gradient], [variable])
        change, first, second = losses.adam(
            gradient, first, second, tf.constant(float(count)), 0.01
        )
        weight += change
    np.testing.assert_allclose(weight, variable.numpy(), rtol=1e-5)


def test_gradient_matches_finite_differences() -> None:
    """For every weight, along random directions, to 1e-4 relative in float64."""
    weights, inputs = _policy()
    choices, coefficients = tf.constant(ALL[:5]), _columns([0.3, -0.2, 0.5, 0.0, -0.4])

    def loss(changed: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return learner.loss_and_gradient(
            network, changed, inputs, choices, coefficients, 3, tf.constant(0.7, tf.float64)
        )

    gradient = loss(weights)[-1]
    rng, step = np.random.default_rng(6), 1e-5
    for name, weight in weights.items():
        direction = rng.normal(size=weight.shape)
        up = loss({**weights, name: weight + step * direction})[0]
        down = loss({**weights, name: weight - step * direction})[0]
        numeric = float(up - down) / (2 * step)
        exact = float(tf.reduce_sum(gradient[name] * direction))
        assert exact == pytest.approx(numeric, rel=1e-4), name
        assert abs(exact) > 1e-6, f"{name} has no influence"


@pytest.mark.parametrize("baseline", [0.0, -1.0, -10.0])
def test_the_gradient_estimate_is_unbiased(baseline: float) -> None:
    """Its expectation over all samples is the exact policy gradient, whatever the baseline."""
    weights, inputs = _policy()
    with tf.GradientTape() as tape:
        tape.watch(weights)
        log_probs = score(network, weights, inputs, tf.constant(ALL)).log_probs
        probs = tf.exp(tf.reduce_sum(log_probs, axis=1))
        expected_cost = -tf.reduce_sum(probs * REWARDS)
    exact = tape.gradient(expected_cost, weights)
    estimate = {name: np.zeros(weight.shape) for name, weight in weights.items()}
    for probability, row, reward in zip(probs.numpy(), ALL, REWARDS, strict=True):
        *_, gradient = learner.loss_and_gradient(
            network,
            weights,
            inputs,
            tf.constant(row[None]),
            _columns([reward - baseline]),
            1,
            tf.constant(0.0, tf.float64),
        )
        for name in estimate:
            estimate[name] += probability * gradient[name].numpy()
    for name in estimate:
        np.testing.assert_allclose(estimate[name], exact[name], atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped(bad: float) -> None:
    """The update says so and leaves weights, means and count as they were."""
    weights, inputs = _policy()
    arrays = {name: weight.numpy() for name, weight in weights.items()}
    state = LearnerState.fresh(arrays)
    scalars = Hyperparameters(0.01, 10.0, 1.0, 0.0)
    state, update = learner.update(
        network, state, inputs, ALL[:2], np.array([[0.5] * 3, [-0.5] * 3]), 2, scalars
    )
    assert not update.skipped
    after, update = learner.update(
        network, state, inputs, ALL[:2], np.array([[bad] * 3, [0.5] * 3]), 2, scalars
    )
    assert update.skipped
    before = state.to_arrays()
    for name, array in after.to_arrays().items():
        assert np.array_equal(array, before[name]), name
