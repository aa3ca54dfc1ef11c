"""How much of this machine other processes take, from Linux's own accounts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_RESOLUTION_SECONDS = 0.02  # accounts are kept in ticks of 10 ms; one at either end


@dataclass(frozen=True)
class CpuTimes:
    """What processors have done since the machine started.

    Attributes:
        all_seconds: Seconds of all cores, idle or not.
        busy_seconds: Seconds in which they ran processes, or the host of a virtual machine did.
            Interrupts are left out: what workers send each other causes them too.
        own_seconds: Seconds in which they ran each of the processes asked about.
    """

    all_seconds: float
    busy_seconds: float
    own_seconds: Mapping[int, float]


def read_cpu_times(own: Iterable[int]) -> CpuTimes | None:
    """The times now; None where the system does not tell.

    Args:
        own: The processes that are not others; those that have ended are left out.
    """
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        line = (_PROC / "stat").read_text().partition("\n")[0].split()
        # guests, which come after these, are in user already
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(figure) / ticks for figure in line[1:9]
        )
        used = {pid: seconds for pid in own if (seconds := _seconds_of(pid, ticks)) is not None}
    except (OSError, ValueError):
        return None
    busy = user + nice + system + steal
    return CpuTimes(busy + idle + iowait + irq + softirq, busy, used)


def _seconds_of(pid: int, ticks: int) -> float | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:  # it has ended
        return None
    user, system = stat.rpartition(")")[2].split()[11:13]  # the name before may hold anything
    return (int(user) + int(system)) / ticks


def share_of_others(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """The share of all cores' time that other processes took; None where it is not known."""
    if before is None or after is None or after.all_seconds <= before.all_seconds:
        return None
    own = sum(
        seconds - before.own_seconds.get(pid, 0.0) for pid, seconds in after.own_seconds.items()
    )
    others = after.busy_seconds - before.busy_seconds - own - _RESOLUTION_SECONDS
    return max(0.0, others) / (after.all_seconds - before.all_seconds)
