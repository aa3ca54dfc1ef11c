"""Groups dealt to the accelerators in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._figures import accelerators
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def round_robin(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: groups in topological order, one to each accelerator in turn.

    As TensorFlow's ``replica_device_setter`` deals variables to parameter servers (Abadi et al.,
    *TensorFlow: a system for large-scale machine learning*, OSDI 2016, section 3.3): it knows
    neither work nor bytes.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    devices = accelerators(problem)
    return keep_to_limits(problem, devices[np.arange(problem.num_groups) % len(devices)])[None]
