"""Pictures of an environment's state, in text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from placer.errors import UsageError
from placer.problem import Problem


def check_render_mode(render_mode: str | None) -> None:
    """Checks a render mode.

    Raises:
        UsageError: One for anything but text.
    """
    if render_mode not in (None, "ansi"):
        raise UsageError(f"render_mode is {render_mode!r}; expected 'ansi' or None")


def device_table(problem: Problem, choices: NDArray[np.int32]) -> str:
    """A line per device: its op groups, their seconds there, and their parameter bytes.

    Args:
        problem: The task.
        choices: Device of each op group placed so far, the first ones, ``[num_placed]``.
    """
    placed = len(choices)
    lines = [
        f"{placed} of {problem.num_groups} op groups placed",
        f"{'device':<12} {'groups':>6} {'compute':>12} {'parameters':>12}",
    ]
    device_of_op = np.full(problem.num_groups, -1)
    device_of_op[:placed] = choices
    device_of_op = device_of_op[problem.groups.group_of_op]
    for device, name in enumerate(problem.cluster.device_names):
        here = device_of_op == device
        seconds = problem.op_seconds[here, device].sum()
        megabytes = problem.graph.parameter_bytes[here].sum() / 1e6
        count = int((choices == device).sum())
        lines.append(f"{name:<12} {count:>6} {seconds:>10.4g} s {megabytes:>9.4g} MB")
    return "\n".join(lines) + "\n"
