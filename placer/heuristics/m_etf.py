"""m-ETF: the op group that can start first, where it can."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.heuristics._figures import on_accelerators
from placer.heuristics._list_scheduling import Tasks, schedule_earliest
from placer.heuristics._memory import keep_to_limits
from placer.problem import Problem


def m_etf(problem: Problem, rng: np.random.Generator) -> NDArray[np.int32]:
    """One candidate: Earliest Task First with memory.

    Jeon et al., *Baechi: fast device placement of machine learning graphs*, SoCC 2020, there
    m-ETF, after Hwang, Chow, Anger and Lee, *Scheduling precedence graphs in systems with
    interprocessor communication times*, SIAM J. Comput. 18(2), 1989. A device without memory left
    for a group is no candidate for it. As there, a task is an op group, run as a whole, and the
    devices are equal ones: the accelerators, where the group may go there.

    Returns:
        Device per op group, ``[1, num_groups]``.
    """
    tasks = Tasks.of_groups(problem, on_accelerators(problem))
    return keep_to_limits(problem, schedule_earliest(tasks).device_of_group)[None]
