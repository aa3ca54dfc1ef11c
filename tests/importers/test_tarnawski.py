"""Workloads of Tarnawski et al.: step times worked by hand, memory, and files that are wrong."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placer import Simulator, importers
from placer.errors import FormatError, GraphError, PlacerError, UsageError
from placer.importers import tarnawski
from placer.problem import Problem


def node(number: int, accelerator: float, **fields: object) -> dict[str, object]:
    """A node ten times as slow on a CPU, latencies in milliseconds."""
    return {
        "id": number,
        "supportedOnFpga": True,
        "cpuLatency": 10 * accelerator,
        "fpgaLatency": accelerator,
        "isBackwardNode": False,
        "size": 100.0,
        **fields,
    }


def edge(source: int, target: int, cost: float) -> dict[str, object]:
    return {"sourceId": source, "destId": target, "cost": cost, "size": 4096}


def workload(**changes: object) -> dict[str, object]:
    """A triangle: 1 -> 2 -> 3 and 1 -> 3, on two accelerators that hold two nodes each."""
    return {
        "maxSizePerFPGA": 200.0,
        "maxFPGAs": 2,
        "maxCPUs": 3,
        "nodes": [node(1, 2.0), node(2, 1.0, name="middle"), node(3, 2.0, isBackwardNode=1)],
        "edges": [edge(1, 2, 0.5), edge(1, 3, 0.5), edge(2, 3, 0.25)],
        **changes,
    }


def read(folder: Path, document: object, **options: object):
    path = folder / "triangle.json"
    path.write_text(json.dumps(document))
    return importers.read(path, "tarnawski", **options)


def milliseconds(problem, placement: list[int]) -> float:
    graph, cluster = problem
    return Simulator(graph, cluster).step_time(placement) * 1e3


def test_names_types_and_devices(tmp_path: Path) -> None:
    """Ops have the nodes' names or ids; devices are as many as the file says, or as asked."""
    graph, cluster = read(tmp_path, workload())
    assert graph.name == "triangle"
    assert graph.op_names == ("1", "middle", "3")
    assert graph.op_types == ("Forward", "Forward", "Backward")
    assert cluster.device_names == ("accelerator:0", "accelerator:1")
    _, cluster = read(tmp_path, workload(), num_devices=4, cpu=True)
    assert cluster.device_names == (*(f"accelerator:{i}" for i in range(4)), "cpu:0")
    assert cluster.devices[-1].slots == 3


def test_names_given_twice_give_way_to_ids(tmp_path: Path) -> None:
    nodes = [node(7, 1.0, name="a"), node(8, 1.0, name="a"), node(9, 1.0, name="b")]
    graph, _ = read(tmp_path, workload(nodes=nodes, edges=[]))
    assert graph.op_names == ("7", "8", "b")


def test_transfers_between_accelerators_cost_twice(tmp_path: Path) -> None:
    """1: 0-2. To the other: 2-3. 2: 3-4. Back: 4-4.5. 3: 4.5-6.5."""
    problem = read(tmp_path, workload())
    assert milliseconds(problem, [0, 1, 0]) == 6.5


def test_transfers_to_and_from_the_cpu_cost_once(tmp_path: Path) -> None:
    """1: 0-2. To the CPU: 2-2.5. 2: 2.5-12.5. Back: 12.5-12.75. 3: 12.75-14.75."""
    problem = read(tmp_path, workload(), cpu=True)
    assert milliseconds(problem, [0, 2, 0]) == 14.75
    assert milliseconds(problem, [0, 1, 0]) == 6.5


def test_transfers_never_wait(tmp_path: Path) -> None:
    """Three producers on one accelerator, of no time: all tensors of 1 ms arrive 2 ms later."""
    nodes = [node(i, 0.0, size=0.0) for i in range(3)] + [node(3, 1.0, size=0.0)]
    problem = read(tmp_path, workload(nodes=nodes, edges=[edge(i, 3, 1.0) for i in range(3)]))
    # the third starts 2 ns after the first, as nothing takes less than a nanosecond
    assert milliseconds(problem, [0, 0, 0, 1]) == pytest.approx(3.000003, abs=1e-12)


def test_cpu_cores_share_a_memory(tmp_path: Path) -> None:
    """Two nodes at once on two cores, without a transfer."""
    nodes = [node(1, 1.0), node(2, 1.0), node(3, 1.0)]
    edges = [edge(1, 3, 5.0), edge(2, 3, 5.0)]
    problem = read(tmp_path, workload(nodes=nodes, edges=edges, maxCPUs=2), cpu=True)
    assert milliseconds(problem, [2, 2, 2]) == 20.0


@given(st.decimals(0, 10**7, places=8, allow_nan=False) | st.decimals(0, 1, places=8))
def test_costs_are_exact_to_the_nanosecond(cost: Decimal) -> None:
    """The decimal number, alone and doubled, is rounded half to even; ties, too."""
    size = tarnawski._tensor_bytes(float(cost))
    for factor in (1, 2):
        seconds = size / (tarnawski._BANDWIDTH / factor)
        assert round(seconds * 1e9) == round(factor * Decimal(repr(float(cost))) * 10**6)


@pytest.mark.parametrize(
    ("cost", "alone", "doubled"), [(5e-7, 0, 1), (1.5e-6, 2, 3), (2.5e-6, 2, 5), (7.5e-6, 8, 15)]
)
def test_ties_by_hand(cost: float, alone: int, doubled: int) -> None:
    """Half nanoseconds: to the even one alone, exact when doubled."""
    seconds = tarnawski._tensor_bytes(cost) / tarnawski._BANDWIDTH
    assert (round(seconds * 1e9), round(2 * seconds * 1e9)) == (alone, doubled)


def test_memory_is_a_hard_limit_of_sizes_alone(tmp_path: Path) -> None:
    """Two of 100 bytes fill an accelerator to the last byte, whatever tensors they make."""
    graph, cluster = read(tmp_path, workload(), cpu=True)
    simulator = Simulator(graph, cluster)
    found = simulator.evaluate([[0, 1, 0], [0, 0, 0], [2, 2, 2]])
    assert found.feasible.tolist() == [True, False, True]
    assert "needs 300 bytes of memory, has 200: 100 too many" in str(found.reasons[1])
    tight, _ = read(tmp_path, workload(maxSizePerFPGA=199.0), cpu=True)
    assert tight == graph
    _, small = read(tmp_path, workload(maxSizePerFPGA=199.0), cpu=True)
    assert not Simulator(graph, small).evaluate([[0, 1, 0]]).feasible[0]


def test_colour_classes_share_a_device(tmp_path: Path) -> None:
    nodes = [node(1, 1.0, colorClass=5), node(2, 1.0), node(3, 1.0, colorClass=5)]
    graph, cluster = read(tmp_path, workload(nodes=nodes))
    assert Simulator(graph, cluster).evaluate([[0, 1, 0], [0, 0, 1]]).feasible.tolist() == [
        True,
        False,
    ]


def test_nodes_for_the_cpu_alone(tmp_path: Path) -> None:
    nodes = [node(1, 1.0, supportedOnFpga=0), node(2, 1.0), node(3, 1.0)]
    graph, cluster = read(tmp_path, workload(nodes=nodes), cpu=True)
    assert Problem.build(graph, cluster).allowed.sum() == 1 + 3 + 3
    with pytest.raises(UsageError, match=r"nodes\[0\]: node 1 runs on the CPU alone"):
        read(tmp_path, workload(nodes=nodes))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"maxSizePerFPGA": 0}, "maxSizePerFPGA is 0.0; expected a number > 0"),
        ({"maxFPGAs": -1}, "maxFPGAs is -1; expected a whole number >= 0"),
        ({"maxFPGAs": "two"}, r"Expected `int`, got `str` - at `\$.maxFPGAs`"),
        ({"nodes": [{"id": 1}]}, r"missing required field `supportedOnFpga` - at `\$.nodes\[0\]`"),
        (
            {"nodes": [node(1, -2.0)]},
            r"nodes\[0\]: cpuLatency is -20.0; expected a number from 0 to 1e\+290",
        ),
        (
            {"nodes": [node(1, 1, fpgaLatency=1e305)]},
            r"nodes\[0\]: fpgaLatency is 1e\+305; expected",
        ),
        ({"nodes": [node(1, 2.0, size=-1)]}, r"nodes\[0\]: size is -1.0; expected"),
        ({"nodes": [node(1, 2.0), node(1, 3.0)]}, r"nodes\[1\]: id 1 is that of nodes\[0\], too"),
        (
            {"edges": [edge(1, 2, -0.5)]},
            r"edges\[0\]: cost is -0.5; expected a number from 0 to 1e\+290",
        ),
        ({"edges": [edge(1, 2, 1e305)]}, r"edges\[0\]: cost is 1e\+305; expected a number from 0"),
        ({"edges": [edge(1, 4, 0.5)]}, r"edges\[0\]: destId 4 is the id of no node"),
        (
            {"edges": [edge(1, 2, 0.5), edge(1, 2, 0.5)]},
            r"edges\[1\]: leads from 1 to 2 as edges\[0\] does",
        ),
        (
            {"edges": [edge(1, 2, 0.5), edge(1, 3, 0.7)]},
            r"edges\[1\]: cost is 0.7; expected 0.5 as in edges\[0\] from the same node 1",
        ),
    ],
)
def test_wrong_files(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    """The message has the file, the place in it, what is there and what was expected."""
    with pytest.raises(FormatError, match=rf"triangle\.json: .*{line}"):
        read(tmp_path, workload(**changes))


def test_keys_given_twice(tmp_path: Path) -> None:
    """Of a file, of a node, and of what is not read; numbers that are not read may be any."""
    path = tmp_path / "twice.json"
    text = json.dumps(workload(note={"a": 0})).replace('"a": 0', f'"a": {"1" * 5000}')
    path.write_text(text)
    importers.read(path, "tarnawski")
    for key in ("maxSizePerFPGA", "fpgaLatency", "a"):
        path.write_text(text.replace(f'"{key}"', f'"{key}": 1, "{key}"', 1))
        with pytest.raises(FormatError, match=f"twice.json: key '{key}' is given twice in one ob"):
            importers.read(path, "tarnawski")


def test_cycles(tmp_path: Path) -> None:
    edges = [edge(1, 2, 0.5), edge(2, 3, 0.5), edge(3, 1, 0.5)]
    with pytest.raises(GraphError, match=r"triangle\.json: the graph has a cycle: .*middle"):
        read(tmp_path, workload(edges=edges))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"nodes": [1'])
def test_no_workload_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"broken\.json: "):
        importers.read(path, "tarnawski")


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    text = json.dumps(workload())
    for end in range(0, len(text), 7):
        path.write_text(text[:end])
        with pytest.raises(PlacerError, match=r"cut\.json: "):
            importers.read(path, "tarnawski")


@pytest.mark.parametrize("number", [0, 10**9])
def test_numbers_of_devices_that_make_no_cluster(tmp_path: Path, number: int) -> None:
    with pytest.raises(
        UsageError, match=rf"\.json: maxFPGAs is {number}; expected at least 1, at most 4,096"
    ):
        read(tmp_path, workload(maxFPGAs=number))
    with pytest.raises(UsageError, match=f"devices is {number}; expected at least 1, at most"):
        read(tmp_path, workload(), num_devices=number)


@pytest.mark.parametrize("number", [0, -1])
def test_no_devices(tmp_path: Path, number: int) -> None:
    with pytest.raises(UsageError, match=f"devices is {number}; expected at least 1"):
        read(tmp_path, workload(), num_devices=number)


def test_no_cores(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a CPU is asked for, but maxCPUs is 0"):
        read(tmp_path, workload(maxCPUs=0), cpu=True)
