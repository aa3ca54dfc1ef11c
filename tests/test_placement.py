"""Placement: its file format, what it refuses, and what it says of other graphs."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from placer.cluster import Cluster, Device, Link
from placer.errors import FormatError, PlacementError, UnknownNameError
from placer.graph import Op, OpGraph, Output
from placer.placement import Placement, check_placements

GRAPH = OpGraph.from_ops("ab", [Op("a", "Op", outputs=(Output(4),)), Op("b", "Op", inputs=("a",))])
CLUSTER = Cluster(
    "two",
    (Device("cpu:0", "cpu", memory_bytes=9), Device("gpu:0", "gpu", memory_bytes=9)),
    (Link(("cpu:0", "gpu:0"), 1e9),),
)


def test_save_and_load(tmp_path) -> None:
    """A saved placement loads again, priorities included, and says where ops run."""
    placement = Placement(GRAPH, CLUSTER, np.array([0, 1]), "priority", np.array([2.0, 1.5]))
    placement.save(tmp_path / "p.json")
    loaded = Placement.load(tmp_path / "p.json", GRAPH, CLUSTER)
    assert loaded == placement
    assert loaded.device_of("b") == "gpu:0"
    assert loaded.to_device_map() == {"a": "cpu:0", "b": "gpu:0"}
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["graph"] == GRAPH.fingerprint
    assert document["cluster"] == CLUSTER.fingerprint


def test_fingerprints_may_be_left_out() -> None:
    """A placement written by hand needs only the format and the devices."""
    text = '{"format": "placer.placement/1", "devices": {"a": "gpu:0", "b": "cpu:0"}}'
    assert Placement.from_json(text, GRAPH, CLUSTER).devices.tolist() == [1, 0]


def test_devices_cannot_be_written() -> None:
    """The arrays are copies and read-only."""
    devices = np.array([0, 1])
    placement = Placement(GRAPH, CLUSTER, devices)
    devices[0] = 1
    assert placement.devices.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        placement.devices[0] = 1


def test_copies_are_equal_and_cannot_be_written() -> None:
    """Whichever string has the order."""
    for placement in (
        Placement(GRAPH, CLUSTER, np.array([0, 1]), step_time=1.5, found_by="expert"),
        Placement(GRAPH, CLUSTER, np.array([0, 1]), "priority", np.array([1.0, 2.0])),
    ):
        copied = pickle.loads(pickle.dumps(placement))  # noqa: S301
        assert copied == placement
        assert (copied.step_time, copied.found_by) == (placement.step_time, placement.found_by)
        assert not copied.devices.flags.writeable
        order: Any = "".join(placement.order)
        again = Placement(GRAPH, CLUSTER, placement.devices, order, placement.priorities)
        assert again == placement
        assert hash(again) == hash(placement)


def test_unknown_ops_are_suggested() -> None:
    """Asking for an op that is not there is an error with the known names."""
    with pytest.raises(UnknownNameError, match="unknown op 'c'; expected one of: a, b"):
        Placement(GRAPH, CLUSTER, np.array([0, 1])).device_of("c")


def _document(**changes: object) -> str:
    document = json.loads(Placement(GRAPH, CLUSTER, np.array([0, 1])).to_json())
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", FormatError, "p: not valid JSON"),
        (_document(format="placer.placement/9"), FormatError, "format 'placer.placement/9'"),
        (_document(order="lifo"), FormatError, "Invalid enum value 'lifo'"),
        (
            _document(devices={"a": "cpu:0"}),
            PlacementError,
            "another graph than 'ab': it lacks 'b'",
        ),
        (
            _document(devices={"a": "cpu:0", "b": "cpu:0", "c": "cpu:0"}),
            PlacementError,
            "another graph than 'ab': the graph lacks 'c'",
        ),
        (_document(graph="sha256:1"), PlacementError, "have the same names, but other figures"),
        (_document(cluster="sha256:1"), PlacementError, "another cluster than 'two': devices of"),
        (
            _document(devices={"a": "cpu:0", "b": "gpu:7"}),
            PlacementError,
            "op 'b': unknown device 'gpu:7'; did you mean 'gpu:0'",
        ),
        (_document(priorities={"a": 1.0, "b": 2.0}), FormatError, "has priorities, but the order"),
        (
            _document(order="priority", priorities={"a": 1.0}),
            PlacementError,
            "p: priorities: made for another graph than 'ab': it lacks 'b'",
        ),
    ],
)
def test_bad_documents_are_refused(content: str, error: type[Exception], message: str) -> None:
    """Each message says what differs, and where."""
    with pytest.raises(error, match=message):
        Placement.from_json(content, GRAPH, CLUSTER, "p")


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ([0], r"has shape \(1,\); expected \(2,\) or \(batch, 2\)"),
        ([[[0, 1]]], r"has shape \(1, 1, 2\)"),
        ([[0, 1], [0]], "placement is no array"),
        ([0.0, 1.0], "has dtype float64; expected integers"),
        ([0, 2], r"placement\[1\] \(op 'b'\) is 2; expected a device index from 0 to 1"),
        ([[0, 0], [-1, 0]], r"placement\[1, 0\] \(op 'a'\) is -1"),
    ],
)
def test_bad_arrays_are_refused(placements: list[object], message: str) -> None:
    """Shape, type and range are checked, and the message names the first offence."""
    with pytest.raises(PlacementError, match=message):
        check_placements(placements, GRAPH, CLUSTER)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, ">i4", np.uint64])
def test_range_is_that_of_the_cluster_in_any_type(dtype: str) -> None:
    """With 200 devices, too: -1 in 8 bits is not taken for device 255, nor -100 for 156."""
    devices = tuple(Device(f"gpu:{i}", "gpu", memory_bytes=1) for i in range(200))
    many = Cluster("many", devices, (Link(tuple(d.name for d in devices), 1.0),))
    most = min(199, np.iinfo(dtype).max)
    assert check_placements(np.array([0, most], dtype), GRAPH, many).tolist() == [0, most]
    bad = [-1, -100] if np.dtype(dtype).kind == "i" else [200, 255]
    for device in bad:
        with pytest.raises(PlacementError, match=f"op 'b'.* is {device}; expected .* 0 to 199"):
            check_placements(np.array([0, device], dtype), GRAPH, many)


def test_priorities_need_their_order() -> None:
    """Priorities with the fifo order would be ignored, so they are refused."""
    with pytest.raises(PlacementError, match="the order is 'fifo'"):
        Placement(GRAPH, CLUSTER, np.array([0, 1]), priorities=np.array([1.0, 2.0]))
    with pytest.raises(PlacementError, match="not finite"):
        Placement(GRAPH, CLUSTER, np.array([0, 1]), "priority", np.array([1.0, np.nan]))
