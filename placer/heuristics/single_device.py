"""Everything on one device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.costs import allowed_devices
from placer.problem import Problem


def single_device(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate per device, with all groups there that it can run.

    Groups of other device kinds go to the first device that can run them, as TensorFlow's soft
    placement does. Memory is not looked at: a device that is too small is reported as that.

    Returns:
        Device per op group, ``[num_devices, num_groups]``.
    """
    runs = np.ones((problem.num_groups, problem.num_devices), bool)
    by_op = allowed_devices(problem.graph, problem.cluster)
    np.logical_and.at(runs, problem.groups.group_of_op, by_op)
    devices = np.arange(problem.num_devices)[:, None]
    return np.where(runs.T, devices, runs.argmax(axis=1)).astype(np.int32)
