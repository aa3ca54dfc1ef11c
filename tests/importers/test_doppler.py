"""Graphs of DOPPLER: step times worked by hand, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from placer import Simulator, importers
from placer.errors import FormatError, GraphError, UsageError

# costs in units of 1e-10 s: 2, 1, 1 and 2 microseconds; tensors 4, 3 and 3
DIAMOND = """6
0, 3,
0, 0, 1, 2,
1, 2, 3, 3,
20000,40000
10000,30000
10000,30000,formation
20000, 99999, einsummable
"""


def read(folder: Path, text: str, **options: object):
    path = folder / "diamond.txt"
    path.write_text(text)
    return importers.read(path, "doppler", **options)


def microseconds(problem, placement: list[int]) -> float:
    graph, cluster = problem
    return Simulator(graph, cluster).step_time(placement) * 1e6


def test_names_types_and_devices(tmp_path: Path) -> None:
    """Four devices without a limit of memory, or as many as asked for."""
    graph, cluster = read(tmp_path, DIAMOND)
    assert graph.op_names == ("0", "1", "2", "3")
    assert graph.op_types == ("Node", "Node", "formation", "einsummable")
    assert [device.memory_bytes for device in cluster.devices] == [float("inf")] * 4
    assert read(tmp_path, DIAMOND, num_devices=8)[1].num_devices == 8
    assert read(tmp_path, DIAMOND, num_devices=1)[1].links == ()


def test_step_times_by_hand(tmp_path: Path) -> None:
    """0: 0-2. To both others: 2-6, at once. 1 and 2: 6-7. Back: 7-10. 3: 10-12."""
    problem = read(tmp_path, DIAMOND)
    assert microseconds(problem, [0, 0, 0, 0]) == 6
    assert microseconds(problem, [0, 1, 2, 0]) == 12
    assert microseconds(problem, [0, 1, 0, 0]) == 12
    assert microseconds(problem, [0, 1, 1, 1]) == 6 + 1 + 1 + 2


def test_costs_are_rounded_half_to_even(tmp_path: Path) -> None:
    """15, 25 and 75 units are 2, 2 and 8 ns; 4 units are at least 1 ns."""
    text = "4\n\n0,1,2\n1,2,3\n15,0\n25,75\n4,35\n75,0\n"
    problem = read(tmp_path, text)
    assert microseconds(problem, [0, 0, 0, 0]) * 1e3 == pytest.approx(2 + 2 + 1 + 8)
    assert microseconds(problem, [0, 0, 1, 1]) * 1e3 == pytest.approx(2 + 2 + 8 + 1 + 8)
    assert microseconds(problem, [0, 0, 0, 1]) * 1e3 == pytest.approx(2 + 2 + 1 + 4 + 8)


def test_a_node_may_read_another_twice(tmp_path: Path) -> None:
    graph, _ = read(tmp_path, "2\n\n0, 0\n1, 1\n10,10\n10,10\n")
    assert graph.input_tensors.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "has 1 lines; expected 4 and then one for each node"),
        (DIAMOND.replace("6\n", "six\n", 1), "line 1: 'six'; expected whole numbers >= 0"),
        (DIAMOND.replace("6\n", "6, 6\n", 1), "line 1: expected one number"),
        (DIAMOND.replace("6\n", "7\n", 1), "4 lines describe nodes; expected 5: line 1 says 7"),
        (DIAMOND.replace("0, 3,", "-1, 3,"), "line 2: '-1'; expected whole numbers >= 0"),
        (DIAMOND.rsplit("20000", 1)[0], "3 lines describe nodes; expected 4"),
        (DIAMOND + "1,2\n", "5 lines describe nodes; expected 4"),
        (DIAMOND.replace("1, 2, 3, 3,", "1, 2, 3,"), "4 sources of edges and line 4 3 targets"),
        (DIAMOND.replace("1, 2, 3, 3,", "1, 2, 3, 4,"), "line 4: node 4; expected one from 0 to 3"),
        (DIAMOND.replace("1, 2, 3, 3,", "1, 2,, 3"), "line 4: ''; expected whole numbers"),
        (
            DIAMOND.replace("10000,30000\n", "10000\n", 1),
            "line 6: '10000'; expected a compute cost",
        ),
        (DIAMOND.replace("10000,30000\n", "-5,30000\n", 1), "line 6: '-5,30000'; expected"),
        (DIAMOND.replace("10000,30000\n", "1e4,30000\n", 1), "line 6: '1e4,30000'; expected"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, line: str) -> None:
    """The message has the file, the line, what is there and what was expected."""
    with pytest.raises(FormatError, match=rf"diamond\.txt: .*{line}"):
        read(tmp_path, text)


def test_cycles(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"diamond\.txt: the graph has a cycle: 0 -> 1 -> 0"):
        read(tmp_path, DIAMOND.replace("1, 2, 3, 3,", "1, 2, 0, 3,"))


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(FormatError, match=r"picture\.txt: not text"):
        importers.read(path, "doppler")


def test_no_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected no CPU"):
        read(tmp_path, DIAMOND, cpu=True)
