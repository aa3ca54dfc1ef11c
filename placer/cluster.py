"""Cluster: devices, the links between them, and the channels on which transfers queue."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer import files
from placer.errors import ClusterError, UnknownNameError

S = TypeVar("S", bound=msgspec.Struct)

_PRESETS = Path(__file__).parent / "clusters"


class Efficiency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much of a device's peaks some ops reach.

    Attributes:
        ops: Their type, such as ``"Conv2D"``, or family, such as ``"matmul"``; the type goes
            first. The families are those of :mod:`placer.costs`.
        flops: Fraction of the peak FLOP/s.
        memory_bandwidth: Fraction of the peak bytes per second.
    """

    ops: str
    flops: float = 1
    memory_bandwidth: float = 1


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A processor.

    Attributes:
        name: Unique name, such as ``"gpu:0"``.
        kind: ``"cpu"``, ``"gpu"``, ``"tpu"`` or any word of the user's.
        model: Model, by which ops may know their seconds, such as ``"p100"``.
        memory_bytes: Memory; ``inf`` for no limit.
        flops: Peak floating-point operations per second.
        memory_bandwidth: Peak bytes read and written per second.
        op_overhead_seconds: Added to each op that does work.
        slots: How many ops run at once.
        efficiency: Fractions of the peaks by type or family of op; 1 for all others.
        address: Where the worker listens that it stands for, as ``"host:port"``, if it stands for
            one; no figure, so no part of the fingerprint.
    """

    name: str
    kind: str
    model: str = ""
    memory_bytes: float = 0
    flops: float = 0
    memory_bandwidth: float = 0
    op_overhead_seconds: float = 0
    slots: int = 1
    efficiency: tuple[Efficiency, ...] = ()
    address: str = ""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Equal links between every ordered pair of some devices.

    Attributes:
        devices: Names of two or more devices.
        bandwidth: Bytes per second.
        latency_seconds: Added to each transfer.
        channel: What transfers queue on: ``"pair"`` (each ordered pair its own), ``"unordered"``
            (each unordered pair its own), ``"source"`` (one for all that a device sends),
            ``"none"`` (no contention); any other word is one channel for all links that say it.
    """

    devices: tuple[str, ...]
    bandwidth: float
    latency_seconds: float = 0
    channel: str = "pair"


class ClusterDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A cluster file. Sizes are in bytes, rates per second, durations in seconds."""

    FORMAT: ClassVar[str] = "placer.cluster/1"

    format: Literal["placer.cluster/1"]
    name: str
    devices: tuple[Device, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Devices and links.

    Attributes:
        name: What to call the cluster.
        devices: The devices, ``[num_devices]``; their order is their index.
        links: Links that cover every ordered pair of devices exactly once.

    Raises:
        ClusterError: No devices, a name given twice, an impossible figure, or a pair of devices
            with no link or with two.
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        object.__setattr__(self, "links", tuple(self.links))
        if not self.devices:
            raise ClusterError(f"cluster {self.name!r} has no devices; expected at least one")
        for device in self.devices:
            _check_device(device)
        if len(self.device_index) < self.num_devices:
            names = self.device_names
            twice = next(name for name in names if names.count(name) > 1)
            raise ClusterError(f"device name {twice!r} is given twice")
        for link in self.links:
            _check_link(link, self.device_index)
        object.__setattr__(self, "devices", tuple(map(_plain, self.devices)))
        object.__setattr__(self, "links", tuple(map(_plain, self.links)))
        self._pair_links  # noqa: B018  (checks that every pair has one link)

    @property
    def num_devices(self) -> int:
        """How many devices there are."""
        return len(self.devices)

    def num_slots(self, num_ops: int) -> NDArray[np.int32]:
        """How many of so many ops each device can run at once, ``[num_devices]``."""
        return np.array([min(device.slots, num_ops) for device in self.devices], np.int32)

    @property
    def device_names(self) -> tuple[str, ...]:
        """Names of the devices, by index."""
        return tuple(device.name for device in self.devices)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the workers of the devices listen, by index; empty where none says.

        Raises:
            ClusterError: Some say and others do not.
        """
        silent = [device.name for device in self.devices if not device.address]
        if len(silent) == self.num_devices:
            return ()
        if silent:
            raise ClusterError(
                f"cluster {self.name!r}: device {silent[0]!r} has no address but others have one; "
                "expected one for each"
            )
        return tuple(device.address for device in self.devices)

    @functools.cached_property
    def device_index(self) -> Mapping[str, int]:
        """Index of each device by its name."""
        return {device.name: i for i, device in enumerate(self.devices)}

    @functools.cached_property
    def _pair_links(self) -> dict[tuple[int, int], Link]:
        """The link of every ordered pair of devices."""
        pairs: dict[tuple[int, int], Link] = {}
        for link in self.links:
            members = [self.device_index[name] for name in link.devices]
            for source in members:
                for target in members:
                    if source == target:
                        continue
                    if (source, target) in pairs:
                        names = self.devices[source].name, self.devices[target].name
                        raise ClusterError(f"devices {names[0]!r} and {names[1]!r} have two links")
                    pairs[source, target] = link
        for source in range(self.num_devices):
            for target in range(self.num_devices):
                if source != target and (source, target) not in pairs:
                    names = self.devices[source].name, self.devices[target].name
                    raise ClusterError(
                        f"no link from {names[0]!r} to {names[1]!r}; every ordered pair of "
                        "devices needs one"
                    )
        return pairs

    @functools.cached_property
    def bandwidth(self) -> NDArray[np.float64]:
        """Bytes per second, ``[num_devices, num_devices]``; infinite on the diagonal."""
        return self._matrix(lambda link: link.bandwidth, np.inf)

    @functools.cached_property
    def latency_seconds(self) -> NDArray[np.float64]:
        """Seconds added to each transfer, ``[num_devices, num_devices]``; 0 on the diagonal."""
        return self._matrix(lambda link: link.latency_seconds, 0.0)

    def _matrix(self, figure: object, diagonal: float) -> NDArray[np.float64]:
        matrix = np.full((self.num_devices, self.num_devices), diagonal)
        for pair, link in self._pair_links.items():
            matrix[pair] = figure(link)  # type: ignore[operator]
        matrix.setflags(write=False)
        return matrix

    @functools.cached_property
    def channel_names(self) -> tuple[str, ...]:
        """Name of each channel; see :attr:`channel_ids`."""
        return tuple(_channel_name(key) for key in self._channel_index)

    @functools.cached_property
    def _channels(self) -> dict[tuple[int, int], tuple[str, ...] | None]:
        """Channel of every ordered pair, None where transfers never queue."""
        return {
            pair: _channel_key(link.channel, *(self.devices[i].name for i in pair))
            for pair, link in sorted(self._pair_links.items())
        }

    @functools.cached_property
    def _channel_index(self) -> dict[tuple[str, ...], int]:
        """Index of each channel."""
        keys = dict.fromkeys(key for key in self._channels.values() if key is not None)
        return {key: i for i, key in enumerate(keys)}

    @functools.cached_property
    def channel_ids(self) -> NDArray[np.int32]:
        """Channel of each ordered pair, ``[num_devices, num_devices]``; -1 for no contention."""
        matrix = np.full((self.num_devices, self.num_devices), -1, np.int32)
        for pair, key in self._channels.items():
            matrix[pair] = -1 if key is None else self._channel_index[key]
        matrix.setflags(write=False)
        return matrix

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the devices and of what each ordered pair has between it."""
        # names tell channels apart, unless a word of the user's or a device is called like one
        are_unlike = len(set(self.channel_names)) == len(self.channel_names)
        links = []
        for pair, key in self._channels.items():
            link = self._pair_links[pair]
            channel = _channel_name(key) if key is not None and are_unlike else key
            links.append((*pair, link.bandwidth, link.latency_seconds, channel))
        # repr, as JSON has no word for an infinite memory
        content = repr(([_figures(device) for device in self.devices], links))
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def from_toml(cls, content: bytes | str, where: str = "cluster") -> Cluster:
        """Reads the cluster format.

        Raises:
            FormatError: Not the format; `where` and the path within are in the message.
            ClusterError: As the constructor, with `where`.
        """
        content = content.encode() if isinstance(content, str) else content
        document = files.decode_toml(content, ClusterDocument, where)
        try:
            return cls(document.name, document.devices, document.links)
        except ClusterError as error:
            raise ClusterError(f"{where}: {error}") from None

    @classmethod
    def from_tensorflow(
        cls,
        *,
        devices: Sequence[str] | None = None,
        workers: int | Sequence[str] | None = None,
        name: str = "tensorflow",
    ) -> Cluster:
        """Describes and measures the devices that TensorFlow has, which takes some seconds.

        A device is called as TensorFlow does in short, ``"gpu:0"``, so that placements map to it;
        a worker's CPU is ``"worker:0"``. Peaks are those of a large matrix product and of a copy,
        the overhead is that of a tiny op, links are timed. Logical CPUs and workers share the
        machine's memory evenly; memory that is not known is ``inf``.

        Args:
            devices: Names of TensorFlow devices. By default all CPUs, GPUs and TPUs of this
                process or, with workers, the CPU of each.
            workers: As ``placer.tf.MeasuredEvaluator`` takes them: how many processes to start, or
                where TensorFlow servers are.
            name: What to call the cluster.

        Raises:
            UsageError: An argument outside its range, or a device that TensorFlow does not have.
            PlacerError: A process does not start, there is no server, or a step fails.
        """
        # upstairs, where TensorFlow is
        described: Cluster = importlib.import_module("placer.tf.calibrate").describe_machine(
            devices=devices, workers=workers, name=name
        )
        return described

    def to_toml(self) -> bytes:
        """The cluster in its file format."""
        return msgspec.toml.encode(
            ClusterDocument("placer.cluster/1", self.name, self.devices, self.links)
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Cluster:
        """Reads a cluster file or, by its bare name, a preset.

        Raises:
            FormatError, ClusterError: As :meth:`from_toml`.
            UnknownNameError: Neither a file nor the name of a preset.
        """
        return cls.from_toml(*files.read_named("cluster", path, preset_clusters()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the cluster file.

        Raises:
            PlacerError: The file cannot be written.
        """
        files.write_bytes(path, self.to_toml())

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {', '.join(self.device_names)})"


def preset_clusters() -> dict[str, Path]:
    """The presets: name -> file."""
    return {p.stem: p for p in sorted(_PRESETS.glob("*.toml"))}


def _channel_key(channel: str, source: str, target: str) -> tuple[str, ...] | None:
    """What tells the channel from all others, None for no contention."""
    match channel:
        case "none":
            return None
        case "pair":
            return channel, source, target
        case "unordered":
            return channel, *sorted((source, target))
        case "source":
            return channel, source
        case _:
            return (channel,)


def _channel_name(key: tuple[str, ...]) -> str:
    match key:
        case "pair", source, target:
            return f"{source} -> {target}"
        case "unordered", first, second:
            return f"{first} -- {second}"
        case "source", source:
            return f"{source} -> *"
        case _:
            return key[0]


def _plain(described: S) -> S:
    """The same with numbers as a file gives them, so that they are written and digested alike."""
    changes: dict[str, object] = {}
    for name, kind, default in _numbers_of(type(described)):
        value = getattr(described, name)
        changes[name] = default if value == default else kind(value)
    if isinstance(described, Device):
        changes["efficiency"] = tuple(map(_plain, described.efficiency))
    return msgspec.structs.replace(described, **changes)


@functools.cache
def _numbers_of(kind: type[msgspec.Struct]) -> tuple[tuple[str, type, object], ...]:
    """Name, type and default of each field that is a number."""
    return tuple(
        (field.name, field.type, field.default)
        for field in msgspec.structs.fields(kind)
        if field.type in (int, float)
    )


def _figures(device: Device) -> tuple[object, ...]:
    """All that a device says; nothing of efficiency where it says nothing of it."""
    *figures, efficiency, _ = msgspec.structs.astuple(device)
    said = tuple(msgspec.structs.astuple(entry) for entry in efficiency)
    return (*figures, said) if said else tuple(figures)


def _check_device(device: Device) -> None:
    where = f"device {device.name!r}"
    if not device.name or not device.kind:
        raise ClusterError(f"{where}: kind is {device.kind!r}; expected a name and a kind")
    for field in ("memory_bytes", "flops", "memory_bandwidth"):
        value = getattr(device, field)
        if not value >= 0:
            raise ClusterError(f"{where}: {field} is {value}; expected a number >= 0")
    if not 0 <= device.op_overhead_seconds < float("inf"):
        raise ClusterError(
            f"{where}: op_overhead_seconds is {device.op_overhead_seconds}; "
            "expected a finite number >= 0"
        )
    if not isinstance(device.slots, int | np.integer) or device.slots < 1:
        raise ClusterError(f"{where}: slots is {device.slots}; expected a whole number >= 1")
    _check_efficiency(device.efficiency, where)


def _check_efficiency(efficiency: Sequence[Efficiency], where: str) -> None:
    named = [entry.ops for entry in efficiency]
    for entry in efficiency:
        if not entry.ops or named.count(entry.ops) > 1:
            raise ClusterError(
                f"{where}: efficiency of ops {entry.ops!r}; "
                "expected one entry for each type or family of ops"
            )
        for field in ("flops", "memory_bandwidth"):
            value = getattr(entry, field)
            if not 0 < value < float("inf"):
                raise ClusterError(
                    f"{where}: efficiency of ops {entry.ops!r} has {field} {value}; "
                    "expected a finite number > 0"
                )


def _check_link(link: Link, devices: Mapping[str, int]) -> None:
    where = f"link between {_join(link.devices)}"
    for name in link.devices:
        if name not in devices:
            raise ClusterError(f"{where}: {UnknownNameError('device', name, devices)}")
    if len(set(link.devices)) < 2 or len(set(link.devices)) < len(link.devices):
        raise ClusterError(f"{where}: expected two or more different devices")
    if not link.bandwidth > 0:
        raise ClusterError(f"{where}: bandwidth is {link.bandwidth}; expected a number > 0")
    if not 0 <= link.latency_seconds < float("inf"):
        raise ClusterError(
            f"{where}: latency_seconds is {link.latency_seconds}; expected a finite number >= 0"
        )
    if not link.channel:
        raise ClusterError(f"{where}: channel is empty; leave it out for 'pair'")


def _join(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no devices"
