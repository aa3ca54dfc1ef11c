"""The sequence-to-sequence policy of Mirhoseini et al. (2017, arXiv 1706.04972), section 3.2.

A bidirectional LSTM reads the op groups in topological order; an attentional LSTM decoder walks
them again and chooses one device per op group, fed with the embedding of the last device chosen.

Everything here is a pure function of its weights, a flat dictionary of arrays. A policy is thus
as easy to save, compare and differentiate as any other array, and a compiled function serves
every problem of the same shape. Two departures from the paper keep a step cheap: the score of
the attention is multiplicative (Luong et al. 2015, arXiv 1508.04025, "general") on the decoder's
output, so that under teacher forcing all steps attend at once; and the decoder is also fed the
encoding of the op group it is about to place, which the attention would otherwise have to find.

``group_bias`` is one addition: a bias to the logits that each op group has for itself. The paper's
policy has none, and has none here while its learning rate is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from envs.features import group_adjacency, group_features
from placer.problem import Problem
from policies.networks import MASKED_LOGIT, Samples, Tensor, Weights


class PolicyInputs(NamedTuple):
    """What the policy knows of a problem.

    Attributes:
        features: Feature vector per op group, ``[num_groups, num_features]``.
        adjacency: Traffic between op groups, ``[num_groups, num_groups]``.
        prior_logits: Added to the logits, ``[num_groups, num_devices]``.
        allowed: Where each op group may go, ``[num_groups, num_devices]``.
    """

    features: Tensor
    adjacency: Tensor
    prior_logits: Tensor
    allowed: Tensor


def make_inputs(problem: Problem, prior_logits: NDArray[np.float32]) -> PolicyInputs:
    """What the policy is told of a problem; prior logits are ``[num_groups, num_devices]``."""
    return PolicyInputs(
        features=group_features(problem),
        adjacency=group_adjacency(problem),
        prior_logits=prior_logits,
        allowed=problem.allowed,
    )


def init_weights(
    rng: np.random.Generator, inputs: PolicyInputs, hidden: int
) -> dict[str, NDArray[np.float32]]:
    """Fresh weights: Glorot-uniform, forget gates open, output layer zero.

    With a zero output layer the untrained policy is exactly its prior.

    Args:
        rng: All randomness comes from it.
        inputs: Of the problem; only the shapes count.
        hidden: Units of each LSTM and of each embedding.
    """
    num_groups, num_features = inputs.features.shape
    num_devices = inputs.allowed.shape[1]

    def glorot(*shape: int) -> NDArray[np.float32]:
        limit = np.sqrt(6.0 / (shape[-2] + shape[-1]))
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    gate_bias = np.zeros(4 * hidden, np.float32)
    gate_bias[hidden : 2 * hidden] = 1.0  # the forget gate
    return {
        "embed_features": glorot(num_features, hidden),
        "embed_adjacency": glorot(2 * num_groups, hidden),
        "embed_bias": np.zeros(hidden, np.float32),
        "encoder_inputs": glorot(2, hidden, 4 * hidden),
        "encoder_recurrent": glorot(2, hidden, 4 * hidden),
        "encoder_bias": np.tile(gate_bias, (2, 1, 1)),
        "device_embedding": glorot(num_devices + 1, hidden),  # the last row starts the decoder
        "decoder_devices": glorot(hidden, 4 * hidden),
        "decoder_encoding": glorot(2 * hidden, 4 * hidden),
        "decoder_recurrent": glorot(hidden, 4 * hidden),
        "decoder_bias": gate_bias,
        "attention_keys": glorot(2 * hidden, hidden),
        "attention_values": glorot(2 * hidden, hidden),
        "mix_state": glorot(hidden, hidden),
        "mix_context": glorot(hidden, hidden),
        "mix_bias": np.zeros(hidden, np.float32),
        "group_bias": np.zeros((num_groups, num_devices), np.float32),
        "output": np.zeros((hidden, num_devices), np.float32),
        "output_bias": np.zeros(num_devices, np.float32),
    }


def sample(weights: Weights, inputs: PolicyInputs, noise: Tensor) -> Samples:
    """Draws choices from the policy by the Gumbel-max trick.

    Args:
        weights: Of the policy.
        inputs: Of the problem.
        noise: Standard Gumbel noise, ``[num_groups, batch, num_devices]``; the choices are a pure
            function of it.
    """
    num_devices = noise.shape[-1]
    memory = _encode(weights, inputs)
    state = _initial_state(memory, noise.shape[1])
    start = tf.one_hot(tf.fill([noise.shape[1]], num_devices), num_devices + 1, dtype=noise.dtype)
    bias = _logit_bias(weights, inputs)

    def step(carry: tuple[Tensor, ...], now: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, cell, last, _, _ = carry
        step_inputs, step_bias, step_noise = now
        gates = step_inputs + last @ memory.device_inputs + hidden @ weights["decoder_recurrent"]
        hidden, cell = _lstm_cell(gates, cell)
        log_probs = tf.nn.log_softmax(_logits(weights, memory, hidden) + step_bias)
        choice = tf.argmax(log_probs + step_noise, axis=-1, output_type=tf.int32)
        last = tf.one_hot(choice, num_devices + 1, dtype=noise.dtype)
        log_prob = tf.reduce_sum(last[:, :num_devices] * log_probs, axis=-1)
        return hidden, cell, last, choice, log_prob

    initial = (*state, start, tf.zeros([noise.shape[1]], tf.int32), tf.zeros_like(noise[0, :, 0]))
    _, _, _, choices, log_probs = tf.scan(step, (memory.step_inputs, bias, noise), initial)
    return Samples(tf.transpose(choices), tf.transpose(log_probs))


def decisions(weights: Weights, inputs: PolicyInputs, choices: Tensor) -> Tensor:
    """What the policy would do at each decision on the way to given choices.

    Args:
        weights: Of the policy.
        inputs: Of the problem.
        choices: Device per op group, int32 ``[batch, num_groups]``.

    Returns:
        The log-probability of each device, ``[batch, num_groups, num_devices]``.
    """
    batch, num_groups = choices.shape
    num_devices = inputs.allowed.shape[1]
    dtype = inputs.features.dtype
    memory = _encode(weights, inputs)
    chosen = tf.one_hot(tf.transpose(choices[:, :-1]), num_devices + 1, dtype=dtype)
    start = tf.one_hot(tf.fill([1, batch], num_devices), num_devices + 1, dtype=dtype)
    last = tf.concat([start, chosen], axis=0)  # [num_groups, batch, num_devices + 1]
    hidden = _run_lstm(
        memory.step_inputs[:, None] + last @ memory.device_inputs,
        lambda state: state @ weights["decoder_recurrent"],
        _initial_state(memory, batch),
    )
    flat = _logits(weights, memory, tf.reshape(hidden, [num_groups * batch, hidden.shape[-1]]))
    logits = tf.reshape(flat, [num_groups, batch, num_devices])
    log_probs = tf.nn.log_softmax(logits + _logit_bias(weights, inputs)[:, None])
    return tf.transpose(log_probs, [1, 0, 2])


class _Memory(NamedTuple):
    """The encoded graph, as the decoder uses it."""

    state: Tensor  # [2, hidden]: last state and cell of the forward encoder
    step_inputs: Tensor  # [num_groups, 4 * hidden]: what the encoding adds to the gates
    device_inputs: Tensor  # [num_devices + 1, 4 * hidden]: what the last device adds to them
    keys: Tensor  # [num_groups, hidden]
    values: Tensor  # [num_groups, hidden]


def _encode(weights: Weights, inputs: PolicyInputs) -> _Memory:
    traffic = tf.concat([inputs.adjacency, tf.transpose(inputs.adjacency)], axis=1)
    embedded = tf.tanh(
        inputs.features @ weights["embed_features"]
        + traffic @ weights["embed_adjacency"]
        + weights["embed_bias"]
    )  # [num_groups, hidden]
    both = tf.stack([embedded, embedded[::-1]])  # [2, num_groups, hidden]: there and back
    gates = both @ weights["encoder_inputs"] + weights["encoder_bias"]
    zeros = tf.zeros_like(both[:, 0])
    hidden = _run_lstm(
        tf.transpose(gates, [1, 0, 2]),
        lambda state: tf.einsum("dh,dhk->dk", state, weights["encoder_recurrent"]),
        (zeros, zeros),
    )  # [num_groups, 2, hidden]
    encoding = tf.concat([hidden[:, 0], hidden[::-1, 1]], axis=1)  # [num_groups, 2 * hidden]
    return _Memory(
        state=tf.stack([hidden[-1, 0], hidden[-1, 1]]),
        step_inputs=encoding @ weights["decoder_encoding"] + weights["decoder_bias"],
        device_inputs=weights["device_embedding"] @ weights["decoder_devices"],
        keys=encoding @ weights["attention_keys"],
        values=encoding @ weights["attention_values"],
    )


def _initial_state(memory: _Memory, batch: int) -> tuple[Tensor, Tensor]:
    forward, backward = tf.unstack(memory.state)
    return tf.tile(forward[None], [batch, 1]), tf.tile(backward[None], [batch, 1])


def _logits(weights: Weights, memory: _Memory, hidden: Tensor) -> Tensor:
    """Attends from decoder states ``[batch, hidden]``; returns logits ``[batch, num_devices]``."""
    attention = tf.nn.softmax(tf.matmul(hidden, memory.keys, transpose_b=True))
    context = attention @ memory.values
    mixed = tf.tanh(
        hidden @ weights["mix_state"] + context @ weights["mix_context"] + weights["mix_bias"]
    )
    return mixed @ weights["output"] + weights["output_bias"]


def _logit_bias(weights: Weights, inputs: PolicyInputs) -> Tensor:
    """Prior and learned bias where a device is allowed, next to nothing elsewhere."""
    masked = tf.fill(inputs.allowed.shape, tf.cast(MASKED_LOGIT, inputs.prior_logits.dtype))
    bias = inputs.prior_logits
    if "group_bias" in weights:
        bias = bias + weights["group_bias"]
    return tf.where(inputs.allowed, bias, masked)


def _lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    take, keep, give, new = tf.split(gates, 4, axis=-1)
    cell = tf.sigmoid(keep) * cell + tf.sigmoid(take) * tf.tanh(new)
    return tf.sigmoid(give) * tf.tanh(cell), cell


def _run_lstm(
    inputs: Tensor, recurrent: Callable[[Tensor], Tensor], state: tuple[Tensor, Tensor]
) -> Tensor:
    """Runs an LSTM over gate inputs ``[steps, rows, 4 * hidden]``; returns its states."""

    def step(carry: tuple[Tensor, Tensor], gates: Tensor) -> tuple[Tensor, Tensor]:
        return _lstm_cell(gates + recurrent(carry[0]), carry[1])

    return tf.scan(step, inputs, state)[0]
