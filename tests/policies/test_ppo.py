"""PPO: its loss, that a batch teaches several times, that it repeats itself, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from placer.errors import UsageError
from placer.placement import Evaluations
from policies import losses, lstm_network, reinforce
from policies.config import PPO
from policies.lstm_network import PolicyInputs
from policies.networks import score
from policies.reinforce import Trainer
from tests.toys import all_choices, make_toy

SMALL = dataclasses.replace(PPO, hidden=8, batch_size=4)
TOY = make_toy(12)


def _loss_and_gradient(
    log_probs: np.ndarray, old: np.ndarray, coefficients: np.ndarray, clip_ratio: float = 0.2
) -> tuple[float, np.ndarray]:
    with tf.GradientTape() as tape:
        now = tf.constant(log_probs)
        tape.watch(now)
        loss = losses.clipped_surrogate(
            now, tf.constant(old), tf.constant(coefficients), tf.constant(clip_ratio, tf.float64)
        )
    return float(loss), tape.gradient(loss, now).numpy()


def _draw(shape: tuple[int, ...] = (5, 7)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities, those of before, and coefficients."""
    rng = np.random.default_rng(0)
    old = rng.normal(-1, 0.5, shape)
    return old + rng.normal(0, 0.3, shape), old, rng.normal(size=shape)


# The loss


def test_where_nothing_has_changed_the_gradient_is_that_of_reinforce() -> None:
    """At ratio 1 minus the coefficient for each decision; and the loss is minus their sum."""
    _, old, coefficients = _draw()
    loss, gradient = _loss_and_gradient(old, old, coefficients)
    with tf.GradientTape() as tape:
        now = tf.constant(old)
        tape.watch(now)
        of_reinforce = losses.policy_loss(now, tf.constant(coefficients))
    np.testing.assert_allclose(gradient, tape.gradient(of_reinforce, now), rtol=1e-12)
    assert loss == pytest.approx(-coefficients.sum())


@pytest.mark.parametrize(
    ("ratio", "coefficient", "is_clipped"),
    [
        (1.3, 2.0, True),  # more likely, as it should be: enough
        (0.7, -2.0, True),  # less likely, as it should be: enough
        (1.3, -2.0, False),  # more likely, though it should be less
        (0.7, 2.0, False),  # less likely, though it should be more
        (1.1, 2.0, False),
        (0.9, -2.0, False),
    ],
)
def test_what_went_its_way_far_enough_is_clipped(
    ratio: float, coefficient: float, is_clipped: bool
) -> None:
    """Then the gradient is zero; else it is that of the ratio."""
    old, now = np.full((1, 1), -0.5), np.full((1, 1), -0.5 + np.log(ratio))
    loss, gradient = _loss_and_gradient(now, old, np.full((1, 1), coefficient))
    limit = np.clip(ratio, 0.8, 1.2)
    assert loss == pytest.approx(-coefficient * (limit if is_clipped else ratio))
    assert gradient[0, 0] == pytest.approx(0 if is_clipped else -coefficient * ratio)


def test_gradient_matches_finite_differences() -> None:
    """For every decision, clipped or not, in float64."""
    now, old, coefficients = _draw()
    _, gradient = _loss_and_gradient(now, old, coefficients)
    step = 1e-6
    for where in np.ndindex(now.shape):
        change = np.zeros(now.shape)
        change[where] = step
        up, down = (
            _loss_and_gradient(now + sign * change, old, coefficients)[0] for sign in (1, -1)
        )
        assert gradient[where] == pytest.approx((up - down) / (2 * step), abs=1e-7), where
    assert 0 < (gradient == 0).sum() < gradient.size


def test_ranks_are_checked() -> None:
    """A row's probability where those of its decisions belong is an error, not a broadcast."""
    now, old, coefficients = _draw()
    with pytest.raises(ValueError, match=r"old_log_probs have shape \(5, 1\)"):
        _loss_and_gradient(now, old.sum(axis=1, keepdims=True), coefficients)


# The trainer


def test_the_epochs_are_steps_on_the_batch_that_was_evaluated() -> None:
    """Recomputed here, one after the other, they lead to the same weights."""
    seen: list[np.ndarray] = []

    class Watching:
        def evaluate(self, placements: np.ndarray) -> Evaluations:
            seen.append(placements.copy())
            return TOY.evaluator.evaluate(placements)

    config = dataclasses.replace(SMALL, epochs=4, clip_ratio=0.005)
    problem = dataclasses.replace(TOY, evaluator=Watching())
    trainer = Trainer(problem, config, evaluations=8, seed=0)
    weights = {name: tf.constant(weight) for name, weight in trainer.state.weights.items()}
    means = {name: (tf.zeros_like(w), tf.zeros_like(w)) for name, w in weights.items()}
    inputs = PolicyInputs(*map(tf.constant, trainer.inputs))
    row = trainer.step()
    (choices,) = seen  # in this toy an op group is an op
    rewards = trainer.reward(TOY.evaluate(choices))
    advantages = ((rewards - rewards.mean()) / rewards.std())[:, None].astype(np.float32)
    old = score(lstm_network, weights, inputs, tf.constant(choices)).log_probs
    num_clipped = []
    for epoch in range(4):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            scores = score(lstm_network, weights, inputs, tf.constant(choices))
            ratios = tf.exp(scores.log_probs - old)
            gone = tf.where(advantages > 0, ratios - 1, 1 - ratios) > 0.005
            limits = tf.where(advantages > 0, 1.005, 0.995) * tf.ones_like(ratios)
            surrogate = tf.reduce_sum(tf.where(gone, limits, ratios) * advantages) / 4
            bonus = trainer._entropy_coef() * tf.reduce_mean(scores.entropies)
            loss = -surrogate - bonus
        num_clipped.append(int(tf.reduce_sum(tf.cast(gone, tf.int32))))
        gradients = tape.gradient(loss, weights)
        clipped, _ = tf.clip_by_global_norm(list(gradients.values()), 1.0)
        for name, gradient in zip(gradients, clipped, strict=True):
            rate = 0.03 if name == "group_bias" else 0.003
            count = tf.constant(epoch + 1.0)
            change, *after = losses.adam(gradient, *means[name], count, rate)
            means[name] = tuple(after)
            weights[name] += change
    assert row.policy_loss == pytest.approx(-float(surrogate), rel=1e-3)
    assert num_clipped[0] == 0 < num_clipped[-1] < choices.size
    assert int(trainer.state.count) == 4
    for name, weight in trainer.state.weights.items():
        np.testing.assert_allclose(weight, weights[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_resumed_run_gives_the_same_curve(tmp_path: Path, steps: int) -> None:
    """Stopped after any step and restored, the run ends as if it had never stopped."""
    path, start = tmp_path / "checkpoint.npz", np.zeros(12, np.int32)
    whole = Trainer(TOY, SMALL, evaluations=30, seed=3, start=start)
    expected = whole.run()
    stopped = Trainer(TOY, SMALL, evaluations=30, seed=3, start=start)
    for _ in range(steps):
        stopped.step()
    stopped.save(path)
    resumed = Trainer.restore(path, TOY)
    result = resumed.run()
    assert np.array_equal(result.choices, expected.choices)
    assert np.array_equal(result.best_so_far, expected.best_so_far)
    for name, weight in whole.state.to_arrays().items():
        assert np.array_equal(weight, resumed.state.to_arrays()[name]), name


def test_it_is_a_strategy() -> None:
    """Of its own name, with a start that is evaluated first."""
    start = np.array([0, 1] * 6, np.int32)
    result = reinforce.search_ppo(TOY, evaluations=20, seed=0, start=start)
    assert result.method == "ppo"
    assert result.evaluations == 20
    assert result.best_so_far[0] == TOY.evaluate(start[None]).step_time_seconds[0]


def test_bad_settings_are_named() -> None:
    """Epochs and clipping outside their range."""
    with pytest.raises(UsageError, match="epochs is 0; expected more than 0"):
        dataclasses.replace(PPO, epochs=0)
    with pytest.raises(UsageError, match="clip_ratio is 0; expected more than 0"):
        dataclasses.replace(PPO, clip_ratio=0)


def test_a_toy_is_solved() -> None:
    """The optimum of 12 ops on two devices within 2,000 evaluations, in most of 20 seeds."""
    optimum = TOY.evaluate(all_choices(TOY)).step_time_seconds.min()
    solved = 0
    for seed in range(20):
        trainer = Trainer(TOY, PPO, evaluations=2000, seed=seed)
        while not trainer.done and trainer.best_so_far.min() > optimum:
            trainer.step()
        solved += trainer.best_so_far.min() == optimum
    assert solved >= 15
