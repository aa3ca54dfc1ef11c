"""Where the policy begins: logits that lean towards a placement that is known to be good."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def prior_logits(
    allowed: NDArray[np.bool_], start: NDArray[np.int32] | None, deviations: float
) -> NDArray[np.float32]:
    """Logits under which a sample deviates from `start` in so many op groups on average.

    Args:
        allowed: Where each op group may go, ``[num_groups, num_devices]``.
        start: Choices, ``[num_groups]``; None for logits of zero.
        deviations: How many deviations; at most half of the op groups, and 0 for logits of zero.

    Returns:
        ``[num_groups, num_devices]``.
    """
    logits = np.zeros(allowed.shape, np.float32)
    if start is None or deviations == 0:
        return logits
    others = allowed.sum(axis=1) - 1  # where else a group could go
    rate = min(deviations / max(int((others > 0).sum()), 1), 0.5)
    bias = np.log(np.maximum(others, 1) * (1 - rate) / rate)
    logits[np.arange(len(start)), start] = bias
    return logits
