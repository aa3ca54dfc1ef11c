"""The mathematics of training, as pure functions that check the ranks of what they are given."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Tensor: TypeAlias = tf.Tensor

_ADVANTAGE_LIMIT = 3.0


def moving_average(average: float, rewards: Floats, decay: float) -> float:
    """The moving average after a batch; the batch is compared with the one *before* it.

    Mirhoseini et al. (2017), section 3.1, equation 3: the baseline B.

    Args:
        average: Before the batch.
        rewards: Of the batch, ``[batch]``.
        decay: Weight of the past.
    """
    _check_ranks(rewards)
    return decay * average + (1 - decay) * float(rewards.mean())


def normalised_advantages(rewards: Floats, typical: NDArray[np.bool_]) -> Floats:
    """Rewards less their mean over their standard deviation, clipped; zero where all are equal.

    Args:
        rewards: ``[batch]``.
        typical: Whose mean and deviation count, ``[batch]``; with fewer than two, all count. So a
            few failing rewards, far below the rest, do not hide how the rest differ.

    Returns:
        ``[batch]``.
    """
    _check_ranks(rewards)
    counted = rewards[typical] if typical.sum() > 1 else rewards
    centred = rewards - counted.mean()
    deviation = (counted - counted.mean()).std()
    if deviation < 1e-8:
        return np.zeros_like(rewards)
    advantages: Floats = np.clip(centred / deviation, -_ADVANTAGE_LIMIT, _ADVANTAGE_LIMIT)
    return advantages


def policy_loss(log_probs: Tensor, coefficients: Tensor) -> Tensor:
    """The loss whose gradient is the policy gradient of REINFORCE.

    Williams (1992), and Mirhoseini et al. (2017), equation 3: with coefficients
    ``advantage / batch`` in all columns, minus its gradient is an unbiased estimate of the gradient
    of the expected reward, provided that the rows were sampled from the policy and that the
    baseline does not depend on them. The normalised advantages, the imitated rows and the moves of
    the preset ``modern`` give that up for speed.

    Args:
        log_probs: Log-probability of each decision, ``[rows, num_groups]``.
        coefficients: Credit of each decision over the number of samples, ``[rows, num_groups]``;
            constants.
    """
    _check_shapes(log_probs=log_probs, coefficients=coefficients)
    return -tf.reduce_sum(tf.stop_gradient(coefficients) * log_probs)


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, coefficients: Tensor, clip_ratio: Tensor
) -> Tensor:
    """The loss of PPO, by which a batch can teach more than once.

    Schulman et al. (2017, arXiv 1707.06347), equation 7, with a ratio for each decision. While the
    policy is the one that sampled, the gradient is that of :func:`policy_loss`. A decision whose
    probability went the way its coefficient points until the ratio of new to old is beyond
    ``1 ± clip_ratio`` has no gradient any more.

    Args:
        log_probs: Log-probability of each decision, ``[rows, num_groups]``.
        old_log_probs: The same when the batch was sampled, ``[rows, num_groups]``; constants.
        coefficients: As :func:`policy_loss`, ``[rows, num_groups]``.
        clip_ratio: How far a ratio of probabilities may go from 1.
    """
    _check_shapes(log_probs=log_probs, old_log_probs=old_log_probs, coefficients=coefficients)
    coefficients = tf.stop_gradient(coefficients)
    ratios = tf.exp(log_probs - tf.stop_gradient(old_log_probs))
    clipped = tf.clip_by_value(ratios, 1 - clip_ratio, 1 + clip_ratio)
    return -tf.reduce_sum(tf.minimum(ratios * coefficients, clipped * coefficients))


def clip_by_norm(gradients: dict[str, Tensor], limit: float) -> tuple[dict[str, Tensor], Tensor]:
    """Scales gradients so that their joint norm is at most `limit`; also returns the norm before.

    Pascanu et al. (2013), algorithm 1.
    """
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradients[k])) for k in sorted(gradients)]))
    scale = limit / tf.maximum(norm, limit)
    return {name: gradient * scale for name, gradient in gradients.items()}, norm


def adam(
    gradient: Tensor, first: Tensor, second: Tensor, count: Tensor, learning_rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam.

    Kingma and Ba (2015, arXiv 1412.6980), algorithm 1, in the form at the end of section 2.

    Args:
        gradient: Of a weight.
        first: Running mean of the gradient.
        second: Running mean of its square.
        count: Number of this step, from 1.
        learning_rate: Step size.

    Returns:
        What to add to the weight, and the new means.
    """
    decay_first, decay_second, epsilon = 0.9, 0.999, 1e-7
    first += (1 - decay_first) * (gradient - first)
    second += (1 - decay_second) * (tf.square(gradient) - second)
    rate = learning_rate * tf.sqrt(1 - decay_second**count) / (1 - decay_first**count)
    return -rate * first / (tf.sqrt(second) + epsilon), first, second


def _check_ranks(*vectors: Floats) -> None:
    for vector in vectors:
        if len(vector.shape) != 1:
            raise ValueError(f"expected a vector, got shape {tuple(vector.shape)}")


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("; ".join(f"{name} have shape {shape}" for name, shape in shapes.items()))
