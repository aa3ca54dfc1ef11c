"""Choices drawn at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.problem import Problem


def draw_choices(problem: Problem, rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """Draws choices uniformly from those allowed, ``[count, num_groups]``."""
    num_allowed = problem.allowed.sum(axis=1)
    nth = rng.integers(num_allowed, size=(count, problem.num_groups))
    # the allowed devices of each group first, in order
    devices = np.argsort(~problem.allowed, axis=1, kind="stable")
    return devices[np.arange(problem.num_groups), nth].astype(np.int32)
