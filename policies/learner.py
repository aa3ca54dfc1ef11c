"""Weights and optimizer of a policy, and the two compiled functions that use and change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from policies import losses
from policies.networks import Network, Samples, Tensor, Weights, score


class LearnerState(NamedTuple):
    """What learning changes, all by name of the weight.

    Attributes:
        weights: Of the policy.
        first: Adam's running means of the gradients.
        second: Adam's running means of their squares.
        count: How many steps were taken, a scalar.
    """

    weights: Weights
    first: Weights
    second: Weights
    count: Tensor

    @classmethod
    def fresh(cls, weights: dict[str, NDArray[Any]]) -> LearnerState:
        """The state before the first step."""
        zeros = {name: np.zeros_like(weight) for name, weight in weights.items()}
        return cls(weights, zeros, zeros, np.zeros((), weights["output"].dtype))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as a flat dictionary of arrays."""
        arrays = {"count": np.asarray(self.count)}
        for kind in ("weights", "first", "second"):
            for name, value in getattr(self, kind).items():
                arrays[f"{kind}/{name}"] = np.asarray(value)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> LearnerState:
        """The inverse of :meth:`to_arrays`; other arrays are ignored."""
        kinds: dict[str, Weights] = {"weights": {}, "first": {}, "second": {}}
        for key, value in arrays.items():
            kind, slash, name = key.partition("/")
            if slash and kind in kinds:  # a checkpoint has an array "first" that is none of these
                kinds[kind][name] = value
        return cls(**kinds, count=arrays["count"])

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Checks that this is the state of weights of these names and shapes.

        Raises:
            ValueError: It is not; the message has the first misfit.
        """
        for kind in ("weights", "first", "second"):
            arrays = getattr(self, kind)
            for name in sorted(shapes.keys() | arrays.keys()):
                shape = np.shape(arrays[name]) if name in arrays else None
                if shape != shapes.get(name):
                    raise ValueError(f"{kind}/{name} is {shape}; expected {shapes.get(name)}")
        if np.shape(self.count):
            raise ValueError(f"count is {np.shape(self.count)}; expected ()")


class Hyperparameters(NamedTuple):
    """Scalars of one step, so named in :class:`policies.config.TrainingConfig`."""

    learning_rate: float
    group_bias_rate: float
    gradient_clip: float
    entropy_coef: float
    clip_ratio: float = 0.0


class Update(NamedTuple):
    """What one step did; scalars, but for the entropies.

    Attributes:
        loss: ``policy_loss - entropy_coef * entropy_bonus``.
        policy_loss: As :func:`policies.losses.policy_loss` or, where log-probabilities of before
            were given, :func:`policies.losses.clipped_surrogate`.
        entropy_bonus: Mean entropy of a decision, in nats.
        entropies: Of the decision of each op group, mean over the samples, ``[num_groups]``.
        gradient_norm: Before clipping.
        skipped: True if loss or gradient were not finite; then the state is as before.
    """

    loss: Tensor
    policy_loss: Tensor
    entropy_bonus: Tensor
    entropies: Tensor
    gradient_norm: Tensor
    skipped: Tensor


def loss_and_gradient(
    network: Network,
    weights: Weights,
    inputs: Any,
    choices: Tensor,
    coefficients: Tensor,
    num_sampled: int,
    entropy_coef: Tensor,
    old_log_probs: Tensor | None = None,
    clip_ratio: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Weights]:
    """The loss on given choices, and its gradient.

    Args:
        network: Of the policy.
        weights: Of the policy.
        inputs: Of the problem.
        choices: Device per op group, int32 ``[rows, num_groups]``.
        coefficients: As :func:`policies.losses.policy_loss`, ``[rows, num_groups]``.
        num_sampled: The first so many rows were sampled from the policy; the entropy is theirs.
        entropy_coef: Weight of the entropy bonus.
        old_log_probs: As :func:`policies.losses.clipped_surrogate`, ``[rows, num_groups]``; None
            for the loss of REINFORCE.
        clip_ratio: As :func:`policies.losses.clipped_surrogate`.

    Returns:
        Loss, policy loss, entropies by op group, gradient by weight.
    """
    with tf.GradientTape() as tape:
        tape.watch(weights)
        scores = score(network, weights, inputs, choices)
        if old_log_probs is None:
            policy_loss = losses.policy_loss(scores.log_probs, coefficients)
        else:
            policy_loss = losses.clipped_surrogate(
                scores.log_probs, old_log_probs, coefficients, clip_ratio
            )
        entropies = tf.reduce_mean(scores.entropies[:num_sampled], axis=0)
        loss = policy_loss - entropy_coef * tf.reduce_mean(entropies)
    return loss, policy_loss, entropies, tape.gradient(loss, weights)


def _update(
    network: Network,
    state: LearnerState,
    inputs: Any,
    choices: Tensor,
    coefficients: Tensor,
    num_sampled: int,
    hyperparameters: Hyperparameters,
    old_log_probs: Tensor | None,
) -> tuple[LearnerState, Update]:
    loss, policy_loss, entropies, gradients = loss_and_gradient(
        network,
        state.weights,
        inputs,
        choices,
        coefficients,
        num_sampled,
        hyperparameters.entropy_coef,
        old_log_probs,
        hyperparameters.clip_ratio,
    )
    gradients, norm = losses.clip_by_norm(gradients, hyperparameters.gradient_clip)
    good = tf.math.is_finite(loss) & tf.math.is_finite(norm)
    count = state.count + 1
    weights, first, second = {}, {}, {}
    for name, gradient in gradients.items():
        rate = hyperparameters.learning_rate
        if name == "group_bias":
            rate *= hyperparameters.group_bias_rate
        change, mean, square = losses.adam(
            gradient, state.first[name], state.second[name], count, rate
        )
        weights[name] = tf.where(good, state.weights[name] + change, state.weights[name])
        first[name] = tf.where(good, mean, state.first[name])
        second[name] = tf.where(good, square, state.second[name])
    new = LearnerState(weights, first, second, tf.where(good, count, state.count))
    return new, Update(loss, policy_loss, tf.reduce_mean(entropies), entropies, norm, ~good)


def _sample(network: Network, weights: Weights, inputs: Any, noise: Tensor) -> Samples:
    return network.sample(weights, inputs, noise)


def _decisions(network: Network, weights: Weights, inputs: Any, choices: Tensor) -> Tensor:
    return network.decisions(weights, inputs, choices)


# Compiled once per network and shape of problem, whatever the number of trainers.
_compiled_sample = tf.function(_sample, jit_compile=True, autograph=False)
_compiled_decisions = tf.function(_decisions, jit_compile=True, autograph=False)
_compiled_update = tf.function(_update, jit_compile=True, autograph=False)


def sample(
    network: Network, weights: Weights, inputs: Any, noise: NDArray[np.floating[Any]]
) -> Samples:
    """Draws choices, compiled, on the CPU; see :meth:`policies.networks.Network.sample`."""
    with tf.device("/CPU:0"):
        samples: Samples = _compiled_sample(network, weights, inputs, tf.constant(noise))
    return samples


def decisions(
    network: Network, weights: Weights, inputs: Any, choices: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Scores choices, compiled, on the CPU; see :meth:`policies.networks.Network.decisions`."""
    with tf.device("/CPU:0"):
        return np.asarray(_compiled_decisions(network, weights, inputs, tf.constant(choices)))


def update(
    network: Network,
    state: LearnerState,
    inputs: Any,
    choices: NDArray[np.int32],
    coefficients: NDArray[np.floating[Any]],
    num_sampled: int,
    hyperparameters: Hyperparameters,
    old_log_probs: NDArray[np.floating[Any]] | None = None,
) -> tuple[LearnerState, Update]:
    """Takes one step of gradient descent on the loss, compiled, on the CPU.

    Args:
        network: Of the policy.
        state: Before the step.
        inputs: Of the problem.
        choices: As :func:`loss_and_gradient`.
        coefficients: As :func:`loss_and_gradient`.
        num_sampled: As :func:`loss_and_gradient`.
        hyperparameters: Of this step.
        old_log_probs: As :func:`loss_and_gradient`.

    Returns:
        The state after the step, and what the step did.
    """
    dtype = state.count.dtype
    with tf.device("/CPU:0"):
        result: tuple[LearnerState, Update] = _compiled_update(
            network,
            state,
            inputs,
            tf.constant(choices, tf.int32),
            tf.constant(coefficients, dtype),
            num_sampled,
            Hyperparameters(*(tf.constant(value, dtype) for value in hyperparameters)),
            None if old_log_probs is None else tf.constant(old_log_probs, dtype),
        )
    return result
