"""A schedule as a Chrome trace, for Perfetto (ui.perfetto.dev) and chrome://tracing.

The format is the JSON object of the Trace Event Format,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Of its events,
these are used, each named by its phase ``ph``:

- ``M``, metadata: names and order of processes and threads. A trace has the processes devices,
  channels and memory; their threads are the rows. Thread ids are unique in the whole trace, and
  none is that of a process: Perfetto looks threads up by their id alone.
- ``X``, complete: an op or a transfer, a slice of a row. Slices of one row must not overlap, so
  whatever runs at once on a device of many slots, or between two devices without a channel, is
  dealt out to as many rows as it needs.
- ``C``, counter: bytes in use on a device, from that instant on.
- ``s`` and ``f``, flow start and finish: an arrow from the last nanosecond of one slice to the
  first of another. Each has an id of its own; ``bp`` is ``e``: the slice around that instant.

Times are whole nanoseconds here and microseconds there, so they are written with fractions.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from placer import files
from placer.cluster import Cluster
from placer.errors import UsageError
from placer.graph import OpGraph, split_input
from placer.placement import Schedule

FORMATS = (".json", ".json.gz")

_DEVICES, _CHANNELS, _MEMORY = 1, 2, 3  # process ids
_FIRST_ROW = 4

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Metadata(msgspec.Struct, tag_field="ph", tag="M"):
    """Name or order of a process or row."""

    name: str
    pid: int
    tid: int
    args: dict[str, str | int]


class OpArgs(msgspec.Struct):
    """What is shown of an op; bytes of parameters, temporaries and outputs are memory."""

    type: str
    device: str
    flops: float
    bytes_accessed: float
    parameter_bytes: float
    temporary_bytes: float
    output_bytes: float


class TransferArgs(msgspec.Struct):
    """What is shown of a transfer."""

    tensor: str
    source: str
    target: str
    bytes: float


class Slice(msgspec.Struct, tag_field="ph", tag="X"):
    """An op or a transfer."""

    name: str
    cat: Literal["op", "transfer"]
    ts: float
    dur: float
    pid: int
    tid: int
    args: OpArgs | TransferArgs


class Counter(msgspec.Struct, tag_field="ph", tag="C"):
    """Bytes in use from an instant on."""

    name: str
    ts: float
    pid: int
    args: dict[str, float]


class FlowStart(msgspec.Struct, tag_field="ph", tag="s"):
    """Where an arrow begins."""

    name: Literal["send", "receive"]
    cat: Literal["flow"]
    id: int
    ts: float
    pid: int
    tid: int


class FlowFinish(FlowStart, tag="f"):
    """Where an arrow ends."""

    bp: Literal["e"] = "e"


Event = Metadata | Slice | Counter | FlowStart | FlowFinish


def check_trace(path: str | os.PathLike[str]) -> None:
    """Checks that the name of a trace ends as one that Perfetto opens.

    Raises:
        UsageError: It does not.
    """
    if not os.fspath(path).endswith(FORMATS):
        raise UsageError(
            f"{path}: ends in {Path(path).suffix!r}; expected one of {', '.join(FORMATS)}"
        )


def write_trace(
    schedule: Schedule, graph: OpGraph, cluster: Cluster, path: str | os.PathLike[str]
) -> None:
    """Writes a schedule of a graph on a cluster as a Chrome trace, one event a line.

    Raises:
        UsageError: A name that does not end in ``.json`` or ``.json.gz``.
        PlacerError: The file cannot be written.
    """
    check_trace(path)
    encode = msgspec.json.Encoder().encode
    about = {
        "graph": graph.name,
        "cluster": cluster.name,
        "step_time_seconds": schedule.step_time_seconds,
        "infeasible_because": schedule.infeasible_because,
    }
    head = b'{"displayTimeUnit": "ns", "otherData": ' + encode(about) + b', "traceEvents": [\n'
    lines = b",\n".join(map(encode, trace_events(schedule, graph, cluster)))
    files.write_bytes(path, head + lines + b"\n]}\n")


def trace_events(schedule: Schedule, graph: OpGraph, cluster: Cluster) -> Iterator[Event]:
    """The events of a schedule of a graph on a cluster; slices come before what binds to them."""
    timeline = _Timeline.build(schedule, graph, cluster)
    for pid, name in ((_DEVICES, "devices"), (_CHANNELS, "channels"), (_MEMORY, "memory")):
        yield Metadata("process_name", pid, pid, {"name": name})
        yield Metadata("process_sort_index", pid, pid, {"sort_index": pid})

    device_rows = _Rows.build(
        cluster.device_names, timeline.device, timeline.start_ns, timeline.finish_ns, _FIRST_ROW
    )
    yield from device_rows.metadata(_DEVICES)
    channel_names, channel_of_transfer = _channels(timeline, cluster)
    channel_rows = _Rows.build(
        channel_names,
        channel_of_transfer,
        timeline.transfer_start_ns,
        timeline.transfer_finish_ns,
        device_rows.end,
    )
    yield from channel_rows.metadata(_CHANNELS)

    yield from _op_slices(timeline, device_rows.tids, graph, cluster)
    yield from _transfer_slices(timeline, channel_rows.tids, schedule, graph)
    yield from _counters(timeline, graph, cluster)
    yield from _flows(timeline, device_rows.tids, channel_rows.tids)


class _Timeline(NamedTuple):
    """A schedule in arrays, with the edges that each transfer serves."""

    device: Ints  # [num_ops]
    start_ns: Ints  # [num_ops]
    finish_ns: Ints  # [num_ops]
    tensor: Ints  # [num_transfers] -1 for the signal of a control edge
    producer: Ints  # [num_transfers]
    target: Ints  # [num_transfers]
    transfer_start_ns: Ints  # [num_transfers]
    transfer_finish_ns: Ints  # [num_transfers]
    received: Ints  # [num_receptions] transfer, once for each op that reads it
    reader: Ints  # [num_receptions] that op

    @classmethod
    def build(cls, schedule: Schedule, graph: OpGraph, cluster: Cluster) -> _Timeline:
        device = _ints(cluster.device_index[op.device] for op in schedule.ops)
        sent = [split_input(transfer.tensor) for transfer in schedule.transfers]
        producer = _ints(graph.op_index[name] for name, _ in sent)
        port = _ints(-1 if port is None else port for _, port in sent)
        tensor = np.where(port < 0, -1, graph.output_offsets[producer] + port)
        target = _ints(cluster.device_index[t.target] for t in schedule.transfers)

        def keys(producers: Ints, tensors: Ints, targets: Ints) -> Ints:
            """A number for each thing to send and device to send it to."""
            things = np.where(tensors < 0, graph.num_tensors + producers, tensors)
            return things * cluster.num_devices + targets

        producers, consumers, tensors = (array.astype(np.int64) for array in graph.edges)
        remote = device[producers] != device[consumers]
        key_of_edge = keys(producers, tensors, device[consumers])[remote]
        key_of_transfer = keys(producer, tensor, target)
        by_key = np.argsort(key_of_transfer)
        transfer_of_edge = by_key[np.searchsorted(key_of_transfer, key_of_edge, sorter=by_key)]
        # an op that reads a tensor twice receives it once
        pairs = np.unique(np.stack([transfer_of_edge, consumers[remote]]), axis=1)
        return cls(
            device=device,
            start_ns=_nanoseconds([op.start_seconds for op in schedule.ops]),
            finish_ns=_nanoseconds([op.finish_seconds for op in schedule.ops]),
            tensor=tensor,
            producer=producer,
            target=target,
            transfer_start_ns=_nanoseconds([t.start_seconds for t in schedule.transfers]),
            transfer_finish_ns=_nanoseconds([t.finish_seconds for t in schedule.transfers]),
            received=pairs[0],
            reader=pairs[1],
        )


class _Rows(NamedTuple):
    """Rows of a process, and the one that each slice is on."""

    names: list[str]
    first: int  # thread id of the first row
    tids: list[int]  # [num_slices]

    @property
    def end(self) -> int:
        """The first thread id that is free."""
        return self.first + len(self.names)

    @classmethod
    def build(
        cls, names: Sequence[str], owner: Ints, start_ns: Ints, finish_ns: Ints, first: int
    ) -> _Rows:
        """Deals slices out to rows so that none overlap.

        Args:
            names: Names of what owns the slices: devices or channels.
            owner: Index of the owner of each slice, ``[num_slices]``.
            start_ns: When each slice starts, ``[num_slices]``.
            finish_ns: When each slice finishes, ``[num_slices]``.
            first: Thread id of the first row.
        """
        lane = _lanes(owner, start_ns, finish_ns)
        num_lanes = np.ones(len(names), np.int64)  # a row also for what is never used
        np.maximum.at(num_lanes, owner, lane + 1)
        row_names = [
            name if count == 1 else f"{name} #{i + 1}"
            for name, count in zip(names, num_lanes.tolist(), strict=True)
            for i in range(count)
        ]
        tids = first + (np.cumsum(num_lanes) - num_lanes)[owner] + lane
        return cls(row_names, first, tids.tolist())

    def metadata(self, pid: int) -> Iterator[Metadata]:
        """Name and order of each row."""
        for tid, name in enumerate(self.names, self.first):
            yield Metadata("thread_name", pid, tid, {"name": name})
            yield Metadata("thread_sort_index", pid, tid, {"sort_index": tid})


def _lanes(owner: Ints, start_ns: Ints, finish_ns: Ints) -> Ints:
    """Numbers slices so that those of one owner that overlap differ; the least free number each."""
    lanes = np.zeros(len(owner), np.int64)
    busy: dict[int, list[tuple[int, int]]] = defaultdict(list)  # heaps of (free from, lane)
    idle: dict[int, list[int]] = defaultdict(list)  # heaps of lanes
    owners, starts, finishes = owner.tolist(), start_ns.tolist(), finish_ns.tolist()
    for i in np.argsort(start_ns, kind="stable").tolist():
        mine, free = busy[owners[i]], idle[owners[i]]
        while mine and mine[0][0] <= starts[i]:
            heapq.heappush(free, heapq.heappop(mine)[1])
        lanes[i] = lane = heapq.heappop(free) if free else len(mine)
        heapq.heappush(mine, (finishes[i], lane))
    return lanes


def _channels(timeline: _Timeline, cluster: Cluster) -> tuple[list[str], Ints]:
    """Names of all channels, then of the pairs without one that are used; the one of each transfer.

    The latter is ``[num_transfers]``.
    """
    source = timeline.device[timeline.producer]
    channel = cluster.channel_ids[source, timeline.target].astype(np.int64)
    has_none = channel < 0
    pairs, pair_of_transfer = np.unique(
        (source * cluster.num_devices + timeline.target)[has_none], return_inverse=True
    )
    channel[has_none] = len(cluster.channel_names) + pair_of_transfer
    names = cluster.device_names
    ends = (divmod(pair, cluster.num_devices) for pair in pairs.tolist())
    free_pairs = [f"{names[start]} -> {names[end]} (no channel)" for start, end in ends]
    return [*cluster.channel_names, *free_pairs], channel


def _op_slices(
    timeline: _Timeline, tids: list[int], graph: OpGraph, cluster: Cluster
) -> Iterator[Slice]:
    """A slice for each op, in the user's order."""
    output_bytes = np.bincount(graph.tensor_producer, graph.tensor_bytes, graph.num_ops)
    args = map(
        OpArgs,
        graph.op_types,
        (cluster.device_names[device] for device in timeline.device.tolist()),
        graph.flops.tolist(),
        graph.bytes_accessed.tolist(),
        graph.parameter_bytes.tolist(),
        graph.temporary_bytes.tolist(),
        output_bytes.tolist(),
    )
    starts = _microseconds(timeline.start_ns)
    durations = _microseconds(timeline.finish_ns - timeline.start_ns)
    for name, start, duration, tid, arg in zip(
        graph.op_names, starts, durations, tids, args, strict=True
    ):
        yield Slice(name, "op", start, duration, _DEVICES, tid, arg)


def _transfer_slices(
    timeline: _Timeline, tids: list[int], schedule: Schedule, graph: OpGraph
) -> Iterator[Slice]:
    """A slice for each transfer, by start."""
    starts = _microseconds(timeline.transfer_start_ns)
    durations = _microseconds(timeline.transfer_finish_ns - timeline.transfer_start_ns)
    for transfer, num_bytes, start, duration, tid in zip(
        schedule.transfers,
        _transfer_bytes(timeline, graph).tolist(),
        starts,
        durations,
        tids,
        strict=True,
    ):
        args = TransferArgs(transfer.tensor, transfer.source, transfer.target, num_bytes)
        yield Slice(transfer.tensor, "transfer", start, duration, _CHANNELS, tid, args)


def _counters(timeline: _Timeline, graph: OpGraph, cluster: Cluster) -> Iterator[Counter]:
    """Bytes in use on each device whenever they change."""
    for name, (instants_ns, in_use) in zip(
        cluster.device_names, _memory(timeline, graph, cluster), strict=True
    ):
        for instant, num_bytes in zip(_microseconds(instants_ns), in_use.tolist(), strict=True):
            yield Counter(f"{name} memory", instant, _MEMORY, {"bytes": num_bytes})


def _memory(timeline: _Timeline, graph: OpGraph, cluster: Cluster) -> Iterator[tuple[Ints, Floats]]:
    """Instants in nanoseconds and the bytes in use from each on, by device.

    The rules are those of ``docs/simulator.md``. Frees come before allocations at one instant, so
    what is in use after an instant is also the most that is in use at it.
    """
    finish, home = timeline.finish_ns, timeline.device[graph.tensor_producer]
    freed = finish[graph.tensor_producer]
    producers, consumers, tensors = graph.edges
    local = (timeline.device[producers] == timeline.device[consumers]) & (tensors >= 0)
    np.maximum.at(freed, tensors[local], finish[consumers[local]])
    is_data = timeline.tensor >= 0
    np.maximum.at(freed, timeline.tensor[is_data], timeline.transfer_finish_ns[is_data])
    copy_freed = np.zeros(len(timeline.tensor), np.int64)
    np.maximum.at(copy_freed, timeline.received, finish[timeline.reader])

    num_devices = cluster.num_devices
    parameters = np.zeros(num_devices)
    np.add.at(parameters, timeline.device, graph.parameter_bytes)
    copies = _transfer_bytes(timeline, graph)
    changes: list[tuple[Ints, Ints, Floats]] = [  # (device, instant, bytes)
        (np.arange(num_devices), np.zeros(num_devices, np.int64), parameters),
        (timeline.device, timeline.start_ns, graph.temporary_bytes),
        (timeline.device, finish, -graph.temporary_bytes),
        (home, timeline.start_ns[graph.tensor_producer], graph.tensor_bytes),
        (home, freed, -graph.tensor_bytes),
        (timeline.target, timeline.transfer_start_ns, copies),
        (timeline.target, copy_freed, -copies),
    ]
    device, instant, num_bytes = map(np.concatenate, zip(*changes, strict=True))
    by_device = np.argsort(device, kind="stable")
    bounds = np.searchsorted(device[by_device], np.arange(1, num_devices))
    for mine in np.split(by_device, bounds):
        instants, which = np.unique(instant[mine], return_inverse=True)
        change = np.bincount(which, num_bytes[mine])
        kept = change != 0
        kept[0] = True  # the counter begins with the trace
        yield instants[kept], np.cumsum(change[kept])


def _flows(timeline: _Timeline, op_tids: list[int], transfer_tids: list[int]) -> Iterator[Event]:
    """Arrows from each producer to its transfers, and from each transfer to its readers."""
    ids = itertools.count(1)
    finishes = _microseconds(timeline.finish_ns - 1)
    starts = _microseconds(timeline.start_ns)
    transfer_finishes = _microseconds(timeline.transfer_finish_ns - 1)
    transfer_starts = _microseconds(timeline.transfer_start_ns)
    for transfer, op in enumerate(timeline.producer.tolist()):
        i, tid = next(ids), transfer_tids[transfer]
        yield FlowStart("send", "flow", i, finishes[op], _DEVICES, op_tids[op])
        yield FlowFinish("send", "flow", i, transfer_starts[transfer], _CHANNELS, tid)
    for transfer, op in zip(timeline.received.tolist(), timeline.reader.tolist(), strict=True):
        i, tid = next(ids), transfer_tids[transfer]
        yield FlowStart("receive", "flow", i, transfer_finishes[transfer], _CHANNELS, tid)
        yield FlowFinish("receive", "flow", i, starts[op], _DEVICES, op_tids[op])


def _transfer_bytes(timeline: _Timeline, graph: OpGraph) -> Floats:
    """Bytes of each transfer, ``[num_transfers]``."""
    num_bytes = np.zeros(len(timeline.tensor))
    is_data = timeline.tensor >= 0
    num_bytes[is_data] = graph.tensor_bytes[timeline.tensor[is_data]]
    return num_bytes


def _ints(values: Any) -> Ints:
    return np.fromiter(values, np.int64)


def _nanoseconds(seconds: Sequence[float]) -> Ints:
    """The whole nanoseconds that seconds were made from."""
    return np.rint(np.array(seconds, np.float64) * 1e9).astype(np.int64)


def _microseconds(nanoseconds: Ints) -> list[float]:
    """Microseconds that are whole nanoseconds also where a reader rounds down, as Perfetto does."""
    microseconds = nanoseconds / 1000
    short = (microseconds * 1000).astype(np.int64) < nanoseconds
    microseconds[short] = np.nextafter(microseconds[short], np.inf)
    result: list[float] = microseconds.tolist()
    return result
