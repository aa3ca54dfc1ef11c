"""What several importers need."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from placer import files
from placer.cluster import Device, Link
from placer.errors import FormatError, GraphError, UsageError
from placer.graph import Op, OpGraph

ACCELERATOR = "accelerator"
"""The kind of the devices that the published problems call FPGA, GPU or just device."""

MOST_DEVICES = 4096
"""A cluster has a link for every ordered pair: these are 17 million."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns a file's text.

    Raises:
        FormatError: It is missing, unreadable or not text.
    """
    try:
        return files.read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not text ({error})") from None


def name_of(path: str | os.PathLike[str]) -> str:
    """What to call a graph: the name of its file without suffixes."""
    name = Path(path).name
    return name.removesuffix(".gz").rsplit(".", 1)[0] or name


def build_graph(path: str | os.PathLike[str], ops: Iterable[Op]) -> OpGraph:
    """The graph of a file's ops.

    Raises:
        GraphError: They make no graph; the message has the path.
    """
    try:
        return OpGraph.from_ops(name_of(path), ops)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def check_devices(num_devices: int, said_by: str = "the number of devices") -> None:
    """Refuses a number of accelerators that makes no cluster, or none that memory could hold.

    Args:
        num_devices: The number.
        said_by: What says it, for the message.

    Raises:
        UsageError: It is below 1 or too large.
    """
    if not 1 <= num_devices <= MOST_DEVICES:
        raise UsageError(
            f"{said_by} is {num_devices}; expected at least 1, at most {MOST_DEVICES:,}"
        )


def accelerators(num_devices: int, memory_bytes: float) -> tuple[Device, ...]:
    """Equal devices that know nothing but the seconds of ops."""
    return tuple(
        Device(f"{ACCELERATOR}:{i}", ACCELERATOR, memory_bytes=memory_bytes)
        for i in range(num_devices)
    )


def free_links(
    bandwidths: Iterable[tuple[tuple[Device, ...], float]],
) -> tuple[Link, ...]:
    """Links on which transfers never wait; none where there are fewer than two devices."""
    return tuple(
        Link(tuple(device.name for device in devices), bandwidth, channel="none")
        for devices, bandwidth in bandwidths
        if len(devices) > 1
    )
