"""m-TOPO: topological order, device by device, each filled to an equal share of the memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._figures import accelerators
from placer.heuristics._memory import keep_to_limits, kept_bytes, memory_bytes
from placer.problem import Problem


def m_topo(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: accelerators filled one after the other in topological order.

    Jeon et al., *Baechi: fast device placement of machine learning graphs*, SoCC 2020, there
    m-TOPO. A device is full when the next group would exceed its memory or the cap: the memory of
    all groups over the number of devices, plus that of the largest group. It balances memory, not
    time.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    devices = accelerators(problem)
    kept = kept_bytes(problem)
    caps = np.minimum(kept.sum() / len(devices) + kept.max(), memory_bytes(problem)[devices])
    choices = np.empty(problem.num_groups, np.int32)
    nth, held = 0, 0.0
    for group, size in enumerate(kept.tolist()):
        if held + size > caps[nth] and nth + 1 < len(devices):
            nth, held = nth + 1, 0.0
        choices[group] = devices[nth]
        held += size
    return keep_to_limits(problem, choices)[None]
