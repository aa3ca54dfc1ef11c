"""Makes a policy that has made up its mind try other choices again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies import learner
from policies.networks import Network, Weights

_NUM_SAMPLES = 256
_NUM_HALVINGS = 16


def widen(
    network: Network, weights: Weights, inputs: Any, deviations: float, rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Divides the logits of a policy so that samples deviate from its likeliest choices.

    A temperature keeps the order of the devices of each decision, so what was learned. It is found
    by bisection, on samples of the policy.

    Args:
        network: Of the policy.
        weights: Of the policy.
        inputs: Of the problem.
        deviations: In how many op groups a sample is to deviate on average; at most half of them.
        rng: All randomness comes from it.

    Returns:
        The weights of the new policy; those that were given where it deviates as much already.
    """
    num_groups, num_devices = inputs.allowed.shape
    free = int((inputs.allowed.sum(axis=1) > 1).sum())
    wanted = min(deviations, free / 2)
    noise = rng.gumbel(size=(num_groups, _NUM_SAMPLES, num_devices)).astype(np.float32)
    likeliest = np.array(learner.sample(network, weights, inputs, np.zeros_like(noise)).choices)

    def deviates(factor: float) -> bool:
        sampled = learner.sample(network, _scaled(weights, inputs, factor), inputs, noise).choices
        return float((np.array(sampled) != likeliest).sum(axis=1).mean()) >= wanted

    factor, too_much = 0.0, 1.0
    if deviates(1.0):
        factor = 1.0
    else:
        for _ in range(_NUM_HALVINGS):
            middle = (factor + too_much) / 2
            if deviates(middle):
                factor = middle
            else:
                too_much = middle
    return _scaled(weights, inputs, factor)


def _scaled(weights: Weights, inputs: Any, factor: float) -> dict[str, NDArray[np.float32]]:
    """The weights of a policy whose logits, prior included, are `factor` times those of another."""
    scaled = {name: np.asarray(weight) for name, weight in weights.items()}
    for name in scaled.keys() & {"output", "output_bias", "group_bias"}:
        scaled[name] = np.asarray(factor * scaled[name], np.float32)
    # the prior itself is the problem's; what is to go of it goes into the bias beside it
    bias = np.float32(factor - 1) * inputs.prior_logits
    scaled["group_bias"] = scaled.get("group_bias", np.float32(0)) + bias
    return scaled
