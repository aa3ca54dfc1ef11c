"""The policy: a distribution over placements, the same when it samples and when it scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from policies import lstm_network as network
from policies.lstm_network import PolicyInputs
from policies.networks import Samples, Scores, score
from policies.prior import prior_logits

NUM_GROUPS, NUM_DEVICES, HIDDEN = 4, 3, 5
ALLOWED = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
ALL = np.array(list(itertools.product(range(NUM_DEVICES), repeat=NUM_GROUPS)), np.int32)


def _inputs(dtype: type = np.float64) -> PolicyInputs:
    rng = np.random.default_rng(1)
    return PolicyInputs(
        features=rng.normal(size=(NUM_GROUPS, 6)).astype(dtype),
        adjacency=rng.random((NUM_GROUPS, NUM_GROUPS)).astype(dtype),
        prior_logits=rng.normal(size=(NUM_GROUPS, NUM_DEVICES)).astype(dtype),
        allowed=ALLOWED,
    )


def _weights(dtype: type = np.float64) -> dict[str, np.ndarray]:
    """Weights of some size everywhere, as after training."""
    rng = np.random.default_rng(2)
    fresh = network.init_weights(rng, _inputs(), HIDDEN)
    return {name: rng.normal(0, 0.7, w.shape).astype(dtype) for name, w in fresh.items()}


def _tensors(inputs: PolicyInputs) -> PolicyInputs:
    return PolicyInputs(*map(tf.constant, inputs))


def _total(scores: Scores) -> np.ndarray:
    """Log-probability of each row of choices."""
    return np.asarray(scores.log_probs).sum(axis=1)


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Scores of every choice there is."""
    return score(network, _weights(), _tensors(_inputs()), tf.constant(ALL))


def test_probabilities_sum_to_one(scores: Scores) -> None:
    """Over all choices there are, the probabilities sum to 1."""
    assert np.exp(_total(scores)).sum() == pytest.approx(1, abs=1e-12)


def test_choices_that_are_not_allowed_have_no_probability(scores: Scores) -> None:
    """A choice with a masked device has probability 0, and only such a choice."""
    possible = ALLOWED[np.arange(NUM_GROUPS), ALL].all(axis=1)
    assert np.array_equal(np.exp(_total(scores)) > 0, possible)


def test_choices_depend_on_each_other(scores: Scores) -> None:
    """The decoder is autoregressive: the last group's distribution depends on the first's choice."""
    joint = np.exp(_total(scores)).reshape((NUM_DEVICES,) * NUM_GROUPS).sum(axis=(1, 2))
    first, last = joint.sum(axis=1), joint.sum(axis=0)
    assert np.abs(joint - np.outer(first, last)).max() > 1e-3


def test_entropy_is_that_of_the_distribution(scores: Scores) -> None:
    """The entropies along samples average to the joint entropy, by the chain rule."""
    probs = np.exp(_total(scores))
    joint_entropy = -np.sum(probs * np.where(probs > 0, _total(scores), 0))
    assert np.sum(probs[:, None] * scores.entropies) == pytest.approx(joint_entropy)


@pytest.fixture(scope="module")
def samples() -> Samples:
    noise = np.random.default_rng(3).gumbel(size=(NUM_GROUPS, 20_000, NUM_DEVICES))
    return network.sample(_weights(), _tensors(_inputs()), tf.constant(noise))


def test_sampling_says_the_log_probabilities_that_scoring_says(samples: Samples) -> None:
    """Log-probabilities of sampling equal those under teacher forcing."""
    scores = score(network, _weights(), _tensors(_inputs()), samples.choices)
    np.testing.assert_allclose(samples.log_probs, scores.log_probs, rtol=1e-9)


def test_samples_come_as_often_as_their_probability_says(samples: Samples, scores: Scores) -> None:
    """Frequencies in 20,000 samples are within five standard errors of the probabilities."""
    places = NUM_DEVICES ** np.arange(NUM_GROUPS)[::-1]
    counts = np.bincount(samples.choices.numpy() @ places, minlength=len(ALL))
    probs = np.exp(_total(scores))
    num_samples = counts.sum()
    errors = np.abs(counts / num_samples - probs)
    assert (errors <= 5 * np.sqrt(probs * (1 - probs) / num_samples) + 1e-12).all()


def test_masked_devices_are_never_sampled(samples: Samples) -> None:
    """No sample puts a group where it may not go."""
    assert ALLOWED[np.arange(NUM_GROUPS), samples.choices.numpy()].all()


def test_an_untrained_policy_is_its_prior() -> None:
    """With fresh weights each group is independent and its logits are the prior's."""
    inputs = _inputs(np.float32)
    fresh = network.init_weights(np.random.default_rng(0), inputs, HIDDEN)
    scores = score(network, fresh, _tensors(inputs), tf.constant(ALL))
    logits = np.where(ALLOWED, inputs.prior_logits, -np.inf)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = log_probs[np.arange(NUM_GROUPS), ALL].sum(axis=1)
    np.testing.assert_allclose(np.exp(_total(scores)), np.exp(expected), atol=1e-6)


@pytest.mark.parametrize("deviations", [0.5, 1.0, 1.5])
def test_the_prior_deviates_as_often_as_asked(deviations: float) -> None:
    """Under the prior a sample differs from the start in so many groups on average."""
    start = np.array([2, 0, 1, 1], np.int32)
    logits = np.where(ALLOWED, prior_logits(ALLOWED, start, deviations), -np.inf)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert (1 - probs[np.arange(NUM_GROUPS), start]).sum() == pytest.approx(deviations)


def test_without_a_start_or_deviations_there_is_no_prior() -> None:
    """The logits are then zero."""
    start = np.zeros(NUM_GROUPS, np.int32)
    assert not prior_logits(ALLOWED, None, 2.0).any()
    assert not prior_logits(ALLOWED, start, 0.0).any()
