"""Placement: where each op runs, with its file format; Schedule and Evaluations: how it goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from placer import files
from placer.cluster import Cluster
from placer.errors import FormatError, PlacementError, UnknownNameError
from placer.graph import OpGraph

Order = Literal["fifo", "priority"]
T = TypeVar("T", bound=np.generic)


class PlacementDocument(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A placement file: op name -> device name, and priorities where the order needs them."""

    FORMAT: ClassVar[str] = "placer.placement/1"

    format: Literal["placer.placement/1"]
    devices: dict[str, str]
    graph: str | None = None
    cluster: str | None = None
    order: Order = "fifo"
    priorities: dict[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each op of a graph runs.

    Attributes:
        graph: The graph.
        cluster: The cluster.
        devices: Device index of each op in the user's order, ``[num_ops]``, read-only.
        order: Which ready op a device starts first.
        priorities: Priority of each op, highest first, ``[num_ops]``; None for the default ones.
        step_time: Seconds for one step, if it was evaluated.
        speedup: Step time of the best feasible single device, or else of the best heuristic,
            over this one's, if both were evaluated.
        found_by: The method that found it, if any.

    Raises:
        PlacementError: Not one valid device index per op, or priorities that do not fit.
    """

    graph: OpGraph
    cluster: Cluster
    devices: NDArray[np.int32]
    order: Order = "fifo"
    priorities: NDArray[np.float64] | None = None
    step_time: float | None = None
    speedup: float | None = None
    found_by: str | None = None

    def __post_init__(self) -> None:
        devices = check_placements(self.devices, self.graph, self.cluster)
        if devices.ndim != 1:
            raise PlacementError(
                f"placement has shape {devices.shape}; expected ({self.graph.num_ops},)"
            )
        object.__setattr__(self, "devices", _read_only(devices))
        orders: dict[str, Order] = {"fifo": "fifo", "priority": "priority"}
        if self.order not in orders:
            raise PlacementError(f"order is {self.order!r}; expected 'fifo' or 'priority'")
        # msgspec leaves out a default only where it is the very same string
        object.__setattr__(self, "order", orders[self.order])
        if self.priorities is not None:
            object.__setattr__(self, "priorities", check_priorities(self.priorities, self.graph))
            if self.order != "priority":
                raise PlacementError("priorities are given, but the order is 'fifo'")

    def device_of(self, op_name: str) -> str:
        """Name of the device of an op.

        Raises:
            UnknownNameError: The graph has no op of this name.
        """
        op = self.graph.op_index.get(op_name)
        if op is None:
            raise UnknownNameError("op", op_name, self.graph.op_index)
        return self.cluster.device_names[int(self.devices[op])]

    def to_device_map(self) -> dict[str, str]:
        """Device name by op name."""
        names = self.cluster.device_names
        return dict(
            zip(self.graph.op_names, (names[d] for d in self.devices.tolist()), strict=True)
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Placement):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:  # so that copies stay read-only
        return Placement, tuple(getattr(self, field.name) for field in fields(self))

    def __repr__(self) -> str:
        ops_per_device = np.bincount(self.devices, minlength=self.cluster.num_devices)
        counts = ", ".join(
            f"{count} ops on {name}"
            for name, count in zip(self.cluster.device_names, ops_per_device, strict=True)
        )
        return f"Placement({self.graph.name!r}: {counts})"

    def to_json(self) -> bytes:
        """The placement in its file format."""
        priorities = None
        if self.priorities is not None:
            priorities = dict(zip(self.graph.op_names, self.priorities.tolist(), strict=True))
        document = PlacementDocument(
            format="placer.placement/1",
            graph=self.graph.fingerprint,
            cluster=self.cluster.fingerprint,
            order=self.order,
            devices=self.to_device_map(),
            priorities=priorities,
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"

    @classmethod
    def from_json(
        cls, content: bytes | str, graph: OpGraph, cluster: Cluster, where: str = "placement"
    ) -> Placement:
        """Reads the placement format.

        Raises:
            FormatError: Not the format; `where` and the path within are in the message.
            PlacementError: Made for another graph or cluster; the message says what differs.
        """
        content = content.encode() if isinstance(content, str) else content
        document = files.decode_json(content, PlacementDocument, where)
        _check_ops(document.devices, graph, where)
        if document.graph is not None and document.graph != graph.fingerprint:
            raise PlacementError(
                f"{where}: made for another graph: the ops of {graph.name!r} have the same names, "
                f"but other figures or edges ({document.graph[:15]}…, not "
                f"{graph.fingerprint[:15]}…)"
            )
        if document.cluster is not None and document.cluster != cluster.fingerprint:
            raise PlacementError(
                f"{where}: made for another cluster than {cluster.name!r}: "
                f"{_describe_devices(document.devices, cluster)}"
            )
        for op, device in document.devices.items():
            if device not in cluster.device_index:
                error = UnknownNameError("device", device, cluster.device_index)
                raise PlacementError(f"{where}: op {op!r}: {error}")
        priorities = None
        if document.priorities is not None:
            if document.order != "priority":
                raise FormatError(f"{where}: has priorities, but the order is 'fifo'")
            _check_ops(document.priorities, graph, f"{where}: priorities")
            priorities = np.array([document.priorities[name] for name in graph.op_names])
        devices = [cluster.device_index[document.devices[name]] for name in graph.op_names]
        return cls(graph, cluster, np.array(devices, np.int32), document.order, priorities)

    @classmethod
    def load(cls, path: str | os.PathLike[str], graph: OpGraph, cluster: Cluster) -> Placement:
        """Reads a placement file.

        Raises:
            FormatError, PlacementError: As :meth:`from_json`.
        """
        return cls.from_json(files.read_bytes(path), graph, cluster, os.fspath(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the placement file, zipped if the name ends in ``.gz``.

        Raises:
            PlacerError: The file cannot be written.
        """
        files.write_bytes(path, self.to_json())


@dataclass(frozen=True)
class ScheduledOp:
    """When and where an op runs."""

    name: str
    device: str
    start_seconds: float
    finish_seconds: float


@dataclass(frozen=True)
class ScheduledTransfer:
    """When a tensor goes from one device to another.

    ``tensor`` is ``"op:port"``, or ``"^op"`` for the signal of a control edge.
    """

    tensor: str
    source: str
    target: str
    start_seconds: float
    finish_seconds: float


@dataclass(frozen=True)
class Schedule:
    """Start and finish of every op and transfer under a placement.

    Attributes:
        step_time_seconds: When the last op finishes, also where memory would not suffice.
        feasible: Whether the placement keeps to every constraint.
        infeasible_because: The reason if not.
        ops: All ops in the user's order.
        transfers: All transfers by start; those that start together, as they entered their
            channels.
        peak_memory_bytes: Most memory in use at once by device name.
        busy_seconds: Sum of the op durations by device name.
        transfer_bytes: Sum over all transfers.
        num_transfers: How many transfers there are.
        first_overflow: By name of each device whose memory does not suffice, the op that first
            takes more than there is: by its start, or as its tensor is sent there.
    """

    step_time_seconds: float
    feasible: bool
    infeasible_because: str | None
    ops: tuple[ScheduledOp, ...]
    transfers: tuple[ScheduledTransfer, ...]
    peak_memory_bytes: Mapping[str, float]
    busy_seconds: Mapping[str, float]
    transfer_bytes: float
    num_transfers: int
    first_overflow: Mapping[str, str]


@dataclass(frozen=True)
class Evaluations:
    """What evaluating a batch of placements gave.

    Attributes:
        step_time_seconds: Step times, infinite where infeasible, ``[batch]``.
        feasible: Whether each placement keeps to every constraint, ``[batch]``.
        reasons: Why each infeasible one is, None for the others, ``[batch]``.
        excess_bytes: How much more memory than there is each one needs, summed over the devices,
            ``[batch]``; None if the evaluator does not know.
    """

    step_time_seconds: NDArray[np.float64]
    feasible: NDArray[np.bool_]
    reasons: Sequence[str | None]
    excess_bytes: NDArray[np.float64] | None = None


def check_placements(placements: ArrayLike, graph: OpGraph, cluster: Cluster) -> NDArray[np.int32]:
    """Returns one placement ``[num_ops]`` or a batch ``[batch, num_ops]`` as C-contiguous int32.

    Raises:
        PlacementError: Not whole numbers, another shape, or an index of no device.
    """
    try:
        array = np.asarray(placements)
    except ValueError as error:  # rows of unlike lengths
        raise PlacementError(f"placement is no array: {error}") from None
    expected = f"({graph.num_ops},) or (batch, {graph.num_ops})"
    if array.ndim not in (1, 2) or array.shape[-1] != graph.num_ops:
        raise PlacementError(
            f"placement of graph {graph.name!r} has shape {array.shape}; expected {expected}"
        )
    if array.dtype.kind not in "iu":
        raise PlacementError(f"placement has dtype {array.dtype}; expected integers")
    # in one pass: as unsigned numbers, negative ones are the greatest
    end = min(cluster.num_devices, int(np.iinfo(array.dtype).max) + 1)
    if array.size and array.view(array.dtype.str.replace("i", "u")).max() >= end:
        bad = (array < 0) | (array >= cluster.num_devices)
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise PlacementError(
            f"placement[{', '.join(map(str, where))}] (op {graph.op_names[where[-1]]!r}) is "
            f"{array[where]}; expected a device index from 0 to {cluster.num_devices - 1}"
        )
    return np.ascontiguousarray(array, np.int32)


def check_priorities(priorities: ArrayLike, graph: OpGraph) -> NDArray[np.float64]:
    """Returns priorities as a read-only float64 array ``[num_ops]``.

    Raises:
        PlacementError: Another shape, or a value that is not finite.
    """
    try:
        array = np.asarray(priorities, np.float64)
    except (TypeError, ValueError) as error:
        raise PlacementError(f"priorities are no numbers: {error}") from None
    if array.shape != (graph.num_ops,):
        raise PlacementError(f"priorities have shape {array.shape}; expected ({graph.num_ops},)")
    if not np.isfinite(array).all():
        op = int(np.flatnonzero(~np.isfinite(array))[0])
        raise PlacementError(f"priority of op {graph.op_names[op]!r} is {array[op]}; not finite")
    return _read_only(array)


def _read_only(array: NDArray[T]) -> NDArray[T]:
    array = array.copy()
    array.setflags(write=False)
    return array


def _check_ops(given: Mapping[str, object], graph: OpGraph, where: str) -> None:
    missing = [name for name in graph.op_names if name not in given]
    unknown = [name for name in given if name not in graph.op_index]
    differences = [
        f"{what} {_some(names)}"
        for what, names in (("it lacks", missing), ("the graph lacks", unknown))
        if names
    ]
    if differences:
        raise PlacementError(
            f"{where}: made for another graph than {graph.name!r}: {'; '.join(differences)}"
        )


def _describe_devices(devices: Mapping[str, str], cluster: Cluster) -> str:
    unknown = sorted(set(devices.values()) - set(cluster.device_index))
    if unknown:
        return f"the cluster has no {_some(unknown)}"
    return "devices of the same names, but other figures or links"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
