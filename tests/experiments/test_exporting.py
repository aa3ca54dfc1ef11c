"""Exports are what TensorFlow reads."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from google.protobuf import text_format

import placer.tf
from experiments.exporting import export
from placer.errors import PlacementError, UsageError
from placer.placement import Placement


@pytest.fixture
def graph_def(tmp_path):
    """The file of a GraphDef with two ops and an input."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 2), "x")
        tf.nn.relu(tf.matmul(x, x, name="product"), name="relu")
    (tmp_path / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    return tmp_path / "model.pb"


@pytest.fixture
def placement(graph_def) -> Placement:
    """The product on the GPU, the rest on the CPU."""
    graph = placer.tf.read(graph_def)
    cluster = placer.Cluster.load("cpu-gpu")
    gpu = cluster.device_index["gpu:0"]
    cpu = cluster.device_index["cpu:0"]
    return Placement(graph, cluster, [gpu if n == "product" else cpu for n in graph.op_names])


EXPECTED = {"x": "/device:CPU:0", "product": "/device:GPU:0", "relu": "/device:CPU:0"}


def test_a_map_of_devices(placement, tmp_path) -> None:
    """JSON: the name of TensorFlow's device by op."""
    export(placement, tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text()) == EXPECTED
    names = [f"/job:w/task:{i}/device:GPU:0" for i in range(placement.cluster.num_devices)]
    export(placement, tmp_path / "map.json", devices=names)
    assert set(json.loads((tmp_path / "map.json").read_text()).values()) == set(names)


@pytest.mark.parametrize("suffix", [".pb", ".pbtxt"])
def test_a_graph_def_with_devices(placement, graph_def, tmp_path, suffix) -> None:
    """Binary or text: the nodes, and where each runs."""
    path = tmp_path / f"placed{suffix}"
    export(placement, path, graph_def=graph_def)
    found = tf.compat.v1.GraphDef()
    if suffix == ".pb":
        found.ParseFromString(path.read_bytes())
    else:
        text_format.Parse(path.read_text(), found)
    assert {node.name: node.device for node in found.node} == EXPECTED


def test_exports_that_cannot_be_are_refused(placement, graph_def, tmp_path) -> None:
    """Nothing is written, and the message says what was expected."""
    with pytest.raises(UsageError, match=r"unknown suffix; expected .json, .pb, .pbtxt"):
        export(placement, tmp_path / "placed.txt")
    with pytest.raises(UsageError, match="expected --graph-def FILE"):
        export(placement, tmp_path / "placed.pb")
    with pytest.raises(UsageError, match="expected the names of 2 TensorFlow devices"):
        export(placement, tmp_path / "map.json", devices=["GPU:0"])
    with tf.Graph().as_default() as graph:
        tf.constant(1.0)
    other = tmp_path / "other.pb"
    other.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(PlacementError, match="made for another graph"):
        export(placement, tmp_path / "placed.pb", graph_def=other)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pb", "other.pb"}
