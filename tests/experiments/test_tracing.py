"""The Chrome trace says what the schedule says, in a form that Perfetto can show."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.tracing import write_trace
from placer import files
from placer.cluster import Cluster, Device, Link
from placer.errors import UsageError
from placer.graph import OpGraph, split_input
from placer.placement import Schedule
from placer.simulator import Simulator
from tests import strategies
from tests.simulator.builders import cluster, graph, op, random_graph

Event = dict[str, Any]


class Slice(NamedTuple):
    """A slice of the trace; times in nanoseconds."""

    row: str
    name: str
    start: int
    finish: int
    args: Event


class Trace(NamedTuple):
    """A trace as it was read; times in nanoseconds."""

    rows: dict[str, list[str]]  # names of the rows by process
    slices: list[Slice]
    arrows: list[tuple[Slice, Slice]]
    memory: dict[str, list[tuple[int, float]]]  # (instant, bytes) by device

    def owned_by(self, owner: str) -> list[Slice]:
        """The slices of a device or channel, on all of its rows."""
        return [s for s in self.slices if s.row == owner or s.row.startswith(f"{owner} #")]


def nanoseconds(microseconds: Decimal) -> int:
    """As Perfetto does: it takes the whole part, of the decimals or of the float."""
    assert microseconds >= 0
    assert int(microseconds * 1000) == int(float(microseconds) * 1000.0)
    return int(microseconds * 1000)


def read(path: Path) -> Trace:
    """Reads a trace with the rules of its format, and checks that it keeps to them."""
    document = json.loads(files.read_bytes(path), parse_float=Decimal)
    assert document["displayTimeUnit"] == "ns"
    events: dict[str, list[Event]] = defaultdict(list)
    for event in document["traceEvents"]:
        events[event["ph"]].append(event)
    assert set(events) <= {"M", "X", "C", "s", "f"}

    processes = {e["pid"]: e["args"]["name"] for e in events["M"] if e["name"] == "process_name"}
    threads = [e for e in events["M"] if e["name"] == "thread_name"]
    tids = [e["tid"] for e in threads]
    assert len({0, *tids, *processes}) == 1 + len(tids) + len(processes)  # all differ, none is 0
    row_of = {(e["pid"], e["tid"]): e["args"]["name"] for e in threads}
    orders = {
        (e["pid"], e["tid"]): e["args"]["sort_index"]
        for e in events["M"]
        if e["name"] == "thread_sort_index"
    }
    assert sorted(row_of, key=lambda row: orders[row]) == list(row_of)
    rows: dict[str, list[str]] = {name: [] for name in processes.values()}
    for (pid, _), name in row_of.items():
        rows[processes[pid]].append(name)
    assert all(len(set(names)) == len(names) for names in rows.values())

    on_row: dict[tuple[int, int], list[Slice]] = defaultdict(list)
    for e in events["X"]:
        start, duration = nanoseconds(e["ts"]), nanoseconds(e["dur"])
        assert duration >= 1
        row = e["pid"], e["tid"]
        assert processes[e["pid"]] == {"op": "devices", "transfer": "channels"}[e["cat"]]
        on_row[row].append(Slice(row_of[row], e["name"], start, start + duration, e["args"]))
    for slices in on_row.values():
        slices.sort(key=lambda s: s.start)
        assert all(a.finish <= b.start for a, b in itertools.pairwise(slices))

    def bound(event: Event) -> Slice:
        """The slice around a flow event."""
        instant = nanoseconds(event["ts"])
        slices = on_row[event["pid"], event["tid"]]
        (found,) = [s for s in slices if s.start <= instant < s.finish]
        return found

    starts = {(e["cat"], e["name"], e["id"]): e for e in events["s"]}
    ends = {(e["cat"], e["name"], e["id"]): e for e in events["f"]}
    assert len(starts) == len(events["s"]) == len(ends) == len(events["f"])
    assert starts.keys() == ends.keys()
    assert all(end["bp"] == "e" for end in ends.values())
    assert all(starts[key]["ts"] < ends[key]["ts"] for key in starts)

    memory: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for e in events["C"]:
        assert processes[e["pid"]] == "memory"
        samples = memory[e["name"].removesuffix(" memory")]
        samples.append((nanoseconds(e["ts"]), float(e["args"]["bytes"])))
    for samples in memory.values():
        assert samples[0][0] == 0
        assert all(a[0] < b[0] and a[1] != b[1] for a, b in itertools.pairwise(samples))
    arrows = [(bound(starts[key]), bound(ends[key])) for key in starts]
    return Trace(rows, list(itertools.chain(*on_row.values())), arrows, memory)


def trace(path: Path, graph: OpGraph, cluster: Cluster, placement: Any) -> Trace:
    """The trace of a placement, written and read."""
    write_trace(Simulator(graph, cluster).schedule(placement), graph, cluster, path)
    return read(path)


def check_slices(found: Trace, schedule: Schedule, graph: OpGraph, cluster: Cluster) -> None:
    """Each op is on its device and each transfer on its channel, for as long as scheduled."""
    ops = {op.name: op for op in graph.ops()}
    for scheduled in schedule.ops:
        (mine,) = [s for s in found.owned_by(scheduled.device) if s.name == scheduled.name]
        assert mine.start / 1e9 == scheduled.start_seconds
        assert mine.finish / 1e9 == scheduled.finish_seconds
        spec = ops[scheduled.name]
        assert mine.args == {
            "type": spec.type,
            "device": scheduled.device,
            "flops": spec.flops,
            "bytes_accessed": spec.bytes_accessed,
            "parameter_bytes": spec.parameter_bytes,
            "temporary_bytes": spec.temporary_bytes,
            "output_bytes": sum(output.bytes for output in spec.outputs),
        }
    for scheduled in schedule.transfers:
        pair = (cluster.device_index[scheduled.source], cluster.device_index[scheduled.target])
        channel = cluster.channel_ids[pair]
        own = f"{scheduled.source} -> {scheduled.target} (no channel)"
        owner = own if channel < 0 else cluster.channel_names[channel]
        assert any(
            (s.name, s.start / 1e9, s.finish / 1e9)
            == (scheduled.tensor, scheduled.start_seconds, scheduled.finish_seconds)
            and s.args
            == {
                "tensor": scheduled.tensor,
                "source": scheduled.source,
                "target": scheduled.target,
                "bytes": bytes_of(ops, scheduled.tensor),
            }
            for s in found.owned_by(owner)
        )
    assert len(found.slices) == graph.num_ops + schedule.num_transfers
    owners = {
        process: list(dict.fromkeys(row.rpartition(" #")[0] or row for row in rows))
        for process, rows in found.rows.items()
    }
    assert owners["devices"] == list(cluster.device_names)
    assert owners["channels"][: len(cluster.channel_names)] == list(cluster.channel_names)


def bytes_of(ops: dict[str, Any], tensor: str) -> float:
    """Bytes of a tensor, or of the signal of a control edge."""
    producer, port = split_input(tensor)
    return 0 if port is None else ops[producer].outputs[port].bytes


def check_arrows(found: Trace, schedule: Schedule, graph: OpGraph) -> None:
    """From each producer to its transfers, and from each transfer to its readers there."""
    device = {op.name: op.device for op in schedule.ops}
    expected: Counter[tuple[str, ...]] = Counter()
    for sent in schedule.transfers:
        expected[split_input(sent.tensor)[0], sent.tensor, sent.target] += 1
        for reader in graph.ops():
            if device[reader.name] == sent.target and any(
                split_input(ref) == split_input(sent.tensor) for ref in reader.inputs
            ):
                expected[sent.tensor, sent.target, reader.name] += 1
    arrows: Counter[tuple[str, ...]] = Counter()
    for start, end in found.arrows:
        if "tensor" in end.args:
            arrows[start.name, end.name, end.args["target"]] += 1
        else:
            arrows[start.name, start.args["target"], end.name] += 1
    assert arrows == expected


def check_memory(found: Trace, schedule: Schedule, graph: OpGraph) -> None:
    """At every instant the counters say what the rules say; their greatest values are the peaks."""
    scheduled = {op.name: op for op in schedule.ops}
    spans: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    tensors = {}
    for spec in graph.ops():
        mine = scheduled[spec.name]
        spans[mine.device].append((0, np.inf, spec.parameter_bytes))
        spans[mine.device].append((mine.start_seconds, mine.finish_seconds, spec.temporary_bytes))
        for port, output in enumerate(spec.outputs):
            tensors[f"{spec.name}:{port}"] = spec, output.bytes
    for name, (producer, num_bytes) in tensors.items():
        readers = [
            scheduled[reader.name]
            for reader in graph.ops()
            if any(split_input(ref) == split_input(name) for ref in reader.inputs)
        ]
        home = scheduled[producer.name]
        sent = [t for t in schedule.transfers if t.tensor == name]
        users = [home, *sent, *(r for r in readers if r.device == home.device)]
        last = max(user.finish_seconds for user in users)
        spans[home.device].append((home.start_seconds, last, num_bytes))
        for t in sent:
            last = max(r.finish_seconds for r in readers if r.device == t.target)
            spans[t.target].append((t.start_seconds, last, num_bytes))
    for device, peak in schedule.peak_memory_bytes.items():
        samples = found.memory[device]
        assert max(value for _, value in samples) == peak
        changes = {0.0, *(instant for span in spans[device] for instant in span[:2])} - {np.inf}
        for instant in changes:
            expected = sum(b for start, end, b in spans[device] if start <= instant < end)
            assert [v for ns, v in samples if ns / 1e9 <= instant][-1] == expected
        assert {ns / 1e9 for ns, _ in samples} <= changes
    assert found.memory.keys() == schedule.peak_memory_bytes.keys()


@given(
    data=st.data(),
    graph=strategies.graphs(),
    cluster=strategies.clusters(),
    suffix=st.sampled_from([".json", ".json.gz"]),
)
@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_traces_say_what_schedules_say(
    tmp_path: Path, data: st.DataObject, graph: OpGraph, cluster: Cluster, suffix: str
) -> None:
    """Slices, rows, arrows and memory, on random graphs, clusters, channels and slots."""
    placement = data.draw(strategies.placements(graph, cluster))
    schedule = Simulator(graph, cluster).schedule(placement)
    path = tmp_path / f"trace{suffix}"
    write_trace(schedule, graph, cluster, path)
    found = read(path)
    check_slices(found, schedule, graph, cluster)
    check_arrows(found, schedule, graph)
    check_memory(found, schedule, graph)


@pytest.mark.parametrize("channel", ["pair", "bus", "none"])
def test_traces_of_larger_graphs(tmp_path: Path, channel: str) -> None:
    """The same on 120 ops, many of which wait or run at once."""
    rng = np.random.default_rng(0)
    graph = random_graph(120, rng)
    placement = rng.integers(0, 4, graph.num_ops).astype(np.int32)
    several = cluster(4, channel, latency_ns=1, slots=2)
    schedule = Simulator(graph, several).schedule(placement)
    found = trace(tmp_path / "t.json", graph, several, placement)
    check_slices(found, schedule, graph, several)
    check_arrows(found, schedule, graph)
    check_memory(found, schedule, graph)
    assert found.rows["devices"] == [f"d{i} #{slot}" for i in range(4) for slot in (1, 2)]


def test_example(tmp_path: Path) -> None:
    """The diamond of docs/simulator.md, in all its rows, arrows and counters."""
    diamond = graph(
        op("a", 10, "", (4,)),
        op("b", 5, "a", (2,), temporary_bytes=3),
        op("c", 7, "a", (6,), parameter_bytes=50),
        op("d", 3, "b c"),
    )
    found = trace(tmp_path / "t.json", diamond, cluster(3, "bus", latency_ns=1), [0, 1, 2, 0])
    assert found.rows == {"devices": ["d0", "d1", "d2"], "channels": ["bus"], "memory": []}
    assert [(s.row, s.name, s.start, s.finish) for s in sorted(found.slices)] == [
        ("bus", "a:0", 10, 15),
        ("bus", "a:0", 15, 20),
        ("bus", "b:0", 20, 23),
        ("bus", "c:0", 27, 34),
        ("d0", "a", 0, 10),
        ("d0", "d", 34, 37),
        ("d1", "b", 15, 20),
        ("d2", "c", 20, 27),
    ]
    assert [(a.name, a.start, b.name, b.start) for a, b in found.arrows] == [
        ("a", 0, "a:0", 10),
        ("a", 0, "a:0", 15),
        ("b", 15, "b:0", 20),
        ("c", 20, "c:0", 27),
        ("a:0", 10, "b", 15),
        ("a:0", 15, "c", 20),
        ("b:0", 20, "d", 34),
        ("c:0", 27, "d", 34),
    ]
    assert found.memory == {
        "d0": [(0, 4), (20, 2), (27, 8), (37, 0)],
        "d1": [(0, 0), (10, 4), (15, 9), (20, 2), (23, 0)],
        "d2": [(0, 50), (15, 54), (20, 60), (27, 56), (34, 50)],
    }


def test_what_overlaps_has_rows_of_its_own(tmp_path: Path) -> None:
    """Ops of a device of three slots, and transfers that never wait, are on the least free row."""
    fan = graph(
        op("a", 4, "", (5, 2, 1)),
        op("b", 2),
        op("c", 9, "^b"),
        op("d", 1, "a:0 a:1"),
        op("e", 1, "a:2"),
    )
    found = trace(tmp_path / "t.json", fan, cluster(2, "none", slots=3), [0, 0, 0, 1, 1])
    pair = "d0 -> d1 (no channel)"
    assert found.rows["devices"] == ["d0 #1", "d0 #2", "d1"]
    assert found.rows["channels"] == [f"{pair} #1", f"{pair} #2", f"{pair} #3"]
    assert {s.name: s.row for s in found.slices} == {
        "a": "d0 #1",
        "b": "d0 #2",
        "c": "d0 #2",
        "d": "d1",
        "e": "d1",
        "a:0": f"{pair} #1",
        "a:1": f"{pair} #2",
        "a:2": f"{pair} #3",
    }


def test_what_is_idle_has_a_row(tmp_path: Path) -> None:
    """Devices and channels that nothing uses are there, in the order of the cluster."""
    names = ("gpu:2", "gpu:10", "cpu:0")
    devices = tuple(Device(name, "gpu", memory_bytes=1) for name in names)
    wide = Cluster("wide", devices, (Link(names, 1e9, channel="source"),))
    found = trace(tmp_path / "t.json", graph(op("a", 1)), wide, [1])
    assert found.rows["devices"] == list(names)
    assert found.rows["channels"] == [f"{name} -> *" for name in names]
    assert found.memory == {name: [(0, 0)] for name in names}


def test_times_are_exact(tmp_path: Path) -> None:
    """Also those that fall short of a whole nanosecond as a float of microseconds."""
    assert int(1001 / 1000 * 1000) == 1000  # so
    lengths = [1001, *range(1, 3000), 86_400_000_000_001]
    many = graph(*(op(f"op{i}", length) for i, length in enumerate(lengths)))
    found = trace(tmp_path / "t.json", many, cluster(1), np.zeros(len(lengths), int))
    assert {s.name: s.finish - s.start for s in found.slices} == {
        f"op{i}": length for i, length in enumerate(lengths)
    }


def test_only_names_that_perfetto_opens(tmp_path: Path) -> None:
    """Another name is an error, and nothing is written."""
    schedule = Simulator(graph(op("a", 1)), cluster(1)).schedule([0])
    path = tmp_path / "t.pftrace"
    with pytest.raises(UsageError, match=r"ends in '.pftrace'; expected one of .json, .json.gz"):
        write_trace(schedule, graph(op("a", 1)), cluster(1), path)
    assert not list(tmp_path.iterdir())
