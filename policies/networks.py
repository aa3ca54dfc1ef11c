"""What every network of a policy can do, and what follows from that for all of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from placer.errors import UnknownNameError
from placer.problem import Problem

NETWORKS: Mapping[str, str] = MappingProxyType(
    {"lstm": "policies.lstm_network", "graph": "policies.graph_network"}
)
"""The modules of networks by name."""

Tensor: TypeAlias = tf.Tensor
Weights: TypeAlias = dict[str, Tensor]

MASKED_LOGIT = -1e9
"""Of a device that is not allowed; finite, so that 0 * log 0 in the entropy is 0 and not nan."""


class Samples(NamedTuple):
    """Choices drawn from a policy.

    Attributes:
        choices: Device per op group, int32 ``[batch, num_groups]``.
        log_probs: Log-probability of each decision, ``[batch, num_groups]``.
    """

    choices: Tensor
    log_probs: Tensor


class Scores(NamedTuple):
    """What a policy says of given choices.

    Attributes:
        log_probs: Log-probability of each decision, ``[batch, num_groups]``.
        entropies: Of each decision, in nats, ``[batch, num_groups]``.
    """

    log_probs: Tensor
    entropies: Tensor


class Network(Protocol):
    """A network is a module of pure functions of weights, which are a flat dictionary of arrays.

    Its inputs are a named tuple with ``prior_logits`` and ``allowed``
    ``[num_groups, num_devices]`` and whatever else the network wants to know.
    """

    def make_inputs(self, problem: Problem, prior_logits: NDArray[np.float32]) -> Any:
        """What the policy is told of a problem; prior logits ``[num_groups, num_devices]``."""
        ...

    def init_weights(
        self, rng: np.random.Generator, inputs: Any, hidden: int
    ) -> dict[str, NDArray[np.float32]]:
        """Fresh weights, under which the policy is exactly its prior."""
        ...

    def sample(self, weights: Weights, inputs: Any, noise: Tensor) -> Samples:
        """Draws choices, given Gumbel noise ``[num_groups, batch, num_devices]``."""
        ...

    def decisions(self, weights: Weights, inputs: Any, choices: Tensor) -> Tensor:
        """Log-probabilities ``[batch, num_groups, num_devices]`` on the way to given choices."""
        ...


def load_network(name: str) -> Network:
    """The network of this name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network", name, NETWORKS)
    return cast(Network, importlib.import_module(NETWORKS[name]))


def score(network: Network, weights: Weights, inputs: Any, choices: Tensor) -> Scores:
    """Log-probabilities and entropies of given choices, under teacher forcing.

    Args:
        network: The network.
        weights: Of the policy.
        inputs: Of the problem.
        choices: Device per op group, int32 ``[batch, num_groups]``.
    """
    log_probs = network.decisions(weights, inputs, choices)
    chosen = tf.one_hot(choices, log_probs.shape[-1], dtype=log_probs.dtype)
    entropies = -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=2)
    return Scores(tf.reduce_sum(chosen * log_probs, axis=2), entropies)
