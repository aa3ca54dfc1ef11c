"""Devices drawn at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer._draw import draw_choices
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def random(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: each group on one of its allowed devices, all equally likely.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    return keep_to_limits(problem, draw_choices(problem, rng, 1)[0])[None]
