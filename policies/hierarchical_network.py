"""The two-level policy of *A Hierarchical Model for Device Placement*, section 3.

Mirhoseini, Goldie, Pham, Steiner, Le and Dean (ICLR 2018). A grouper, a feed-forward network, puts
each op group of the problem into a supergroup; a placer, the sequence-to-sequence policy of
:mod:`policies.lstm_network`, reads the supergroups that come of it and chooses a device for each.

To the learner this is one network with more decisions: its choices are rows of a supergroup per op
group and then a device per supergroup, int32 ``[batch, num_groups + num_supergroups]``, and its
options are as many as the larger of the two has, the rest masked.

Where it departs from the paper: its ops are our op groups, whose features are those of the other
policies; each op group has a bias of its own in the grouper, as in the placer of the preset
``modern``; and the placer's logits are not squashed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from envs.features import group_features, group_traffic, heaviest_neighbours
from placer.problem import Problem
from policies import lstm_network
from policies.lstm_network import PolicyInputs
from policies.networks import MASKED_LOGIT, Samples, Tensor, Weights

_BIAS_SCALE = 10.0  # how much faster than the rest the grouper's bias per op group learns


class HierarchyInputs(NamedTuple):
    """What grouper and placer know of a problem.

    Attributes:
        features: Feature vector per op group, ``[num_groups, num_features]``.
        neighbours: The op groups that it has most traffic with, ``[num_groups, num_neighbours]``.
        traffic: Bytes that each op group sends each other, ``[num_groups, num_groups]``.
        allowed: Where each op group may go, ``[num_groups, num_devices]``.
        prior_logits: Added to the logits of the grouper, then of the placer,
            ``[num_groups + num_supergroups, num_options]``.
    """

    features: Tensor
    neighbours: Tensor
    traffic: Tensor
    allowed: Tensor
    prior_logits: Tensor

    @property
    def num_supergroups(self) -> int:
        """How many supergroups there may be."""
        return int(self.prior_logits.shape[0] - self.allowed.shape[0])


def make_inputs(problem: Problem, prior_logits: NDArray[np.float32]) -> HierarchyInputs:
    """What the policy is told of a problem; prior logits as in :class:`HierarchyInputs`."""
    return HierarchyInputs(
        features=group_features(problem),
        neighbours=heaviest_neighbours(problem),
        traffic=group_traffic(problem).astype(np.float32),
        allowed=problem.allowed,
        prior_logits=prior_logits,
    )


def init_weights(
    rng: np.random.Generator, inputs: HierarchyInputs, hidden: int
) -> dict[str, NDArray[np.float32]]:
    """Fresh weights of both; output layers are zero, so that the untrained policy is its prior.

    Args:
        rng: All randomness comes from it.
        inputs: Of the problem; only the shapes count.
        hidden: Units of the grouper's layer, and of each LSTM and embedding of the placer.
    """
    num_groups, num_devices = inputs.allowed.shape
    num_supergroups, num_features = inputs.num_supergroups, inputs.features.shape[1]
    num_seen = num_features + inputs.neighbours.shape[1]
    limit = np.sqrt(6.0 / (num_seen + hidden))
    of_placer = PolicyInputs(
        features=np.zeros((num_supergroups, num_features)),
        adjacency=np.zeros((num_supergroups, num_supergroups)),
        prior_logits=np.zeros((num_supergroups, num_devices)),
        allowed=np.ones((num_supergroups, num_devices), bool),
    )
    return {
        "grouper_hidden": rng.uniform(-limit, limit, (num_seen, hidden)).astype(np.float32),
        "grouper_hidden_bias": np.zeros(hidden, np.float32),
        "grouper_output": np.zeros((hidden, num_supergroups), np.float32),
        "grouper_bias": np.zeros((num_groups, num_supergroups), np.float32),
        **lstm_network.init_weights(rng, of_placer, hidden),
    }


def sample(weights: Weights, inputs: HierarchyInputs, noise: Tensor) -> Samples:
    """Draws groupings, and for each a placement of its supergroups, by the Gumbel-max trick.

    Args:
        weights: Of both.
        inputs: Of the problem.
        noise: Standard Gumbel noise, ``[num_groups + num_supergroups, batch, num_options]``.

    Returns:
        Rows of both levels' choices, and the log-probability of each.
    """
    num_groups, num_devices = inputs.allowed.shape
    by_row = tf.transpose(noise, [1, 0, 2])
    of_grouper, of_placer = by_row[:, :num_groups], by_row[:, num_groups:, :num_devices]
    log_probs = _grouper_log_probs(weights, inputs)
    num_supergroups = log_probs.shape[1]
    noisy = log_probs + of_grouper[:, :, :num_supergroups]
    groupings = tf.argmax(noisy, axis=2, output_type=tf.int32)

    def place(given: tuple[Tensor, Tensor]) -> Samples:
        grouping, row_noise = given
        return lstm_network.sample(weights, placer_inputs(inputs, grouping), row_noise[:, None])

    like = Samples(tf.int32, log_probs.dtype)
    placed = tf.map_fn(place, (groupings, of_placer), fn_output_signature=like)
    chosen = tf.one_hot(groupings, num_supergroups, dtype=log_probs.dtype)
    grouped = tf.reduce_sum(chosen * log_probs, axis=2)
    return Samples(
        tf.concat([groupings, placed.choices[:, 0]], axis=1),
        tf.concat([grouped, placed.log_probs[:, 0]], axis=1),
    )


def decisions(weights: Weights, inputs: HierarchyInputs, choices: Tensor) -> Tensor:
    """What the policy would do at each decision on the way to given choices.

    Args:
        weights: Of both.
        inputs: Of the problem.
        choices: Rows of both levels' choices.

    Returns:
        The log-probability of each option, ``[batch, num_groups + num_supergroups, num_options]``.
    """
    num_groups = inputs.allowed.shape[0]
    num_options = inputs.prior_logits.shape[1]
    log_probs = _grouper_log_probs(weights, inputs)

    def place(given: tuple[Tensor, Tensor]) -> Tensor:
        grouping, placement = given
        return lstm_network.decisions(weights, placer_inputs(inputs, grouping), placement[None])[0]

    placed = tf.map_fn(
        place,
        (choices[:, :num_groups], choices[:, num_groups:]),
        fn_output_signature=log_probs.dtype,
    )
    grouped = tf.tile(log_probs[None], [choices.shape[0], 1, 1])
    return tf.concat([_padded(grouped, num_options), _padded(placed, num_options)], axis=1)


def placer_inputs(inputs: HierarchyInputs, grouping: Tensor) -> PolicyInputs:
    """What the placer sees of the supergroups that a grouping makes.

    Section 3 of the paper: their members' features summed up, here over the mean size of a
    supergroup, and who exchanges tensors with whom, here how much on a log scale.

    A supergroup may go where any of its members may go; those who may not go along are placed by
    themselves (:func:`policies.hierarchical.expand`). Were it to go only where all may go, one
    member that runs on the CPU alone would take all others there. A supergroup without members has
    one choice, the first device, of probability 1 and without effect.

    Args:
        inputs: Of the problem.
        grouping: Supergroup per op group, int32 ``[num_groups]``.
    """
    dtype = inputs.features.dtype
    num_groups, num_devices = inputs.allowed.shape
    num_supergroups = inputs.num_supergroups
    members = tf.one_hot(grouping, num_supergroups, axis=0, dtype=dtype)
    is_empty = tf.reduce_sum(members, axis=1, keepdims=True) == 0  # [num_supergroups, 1]
    may_go = members @ tf.cast(inputs.allowed, dtype) > 0
    traffic = members @ tf.matmul(inputs.traffic, members, transpose_b=True)
    logs = tf.math.log1p(tf.linalg.set_diag(traffic, tf.zeros_like(traffic[0])))
    return PolicyInputs(
        features=members @ inputs.features * (num_supergroups / num_groups),
        adjacency=logs / tf.maximum(tf.reduce_max(logs), 1.0),
        prior_logits=inputs.prior_logits[num_groups:, :num_devices],
        allowed=tf.where(is_empty, tf.range(num_devices)[None] == 0, may_go),
    )


def _grouper_log_probs(weights: Weights, inputs: HierarchyInputs) -> Tensor:
    """Log-probabilities of supergroups by op group, ``[num_groups, num_supergroups]``.

    Section 3 of the paper: one hidden layer and a softmax, over what an op does, what it puts out
    and its neighbours.
    """
    seen = tf.concat([inputs.features, inputs.neighbours], axis=1)
    hidden = tf.tanh(seen @ weights["grouper_hidden"] + weights["grouper_hidden_bias"])
    logits = hidden @ weights["grouper_output"] + _BIAS_SCALE * weights["grouper_bias"]
    num_groups, num_supergroups = logits.shape
    return tf.nn.log_softmax(logits + inputs.prior_logits[:num_groups, :num_supergroups])


def _padded(log_probs: Tensor, num_options: int) -> Tensor:
    """Adds options that are masked to ``[batch, num_decisions, options]``."""
    widths = [[0, 0], [0, 0], [0, num_options - log_probs.shape[2]]]
    return tf.pad(log_probs, widths, constant_values=MASKED_LOGIT)
