"""``placer export`` writes what TensorFlow reads, or says why not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tensorflow as tf

import placer as library
from placer.placement import Placement


@pytest.fixture(autouse=True)
def _placed_model(folder) -> None:
    """``m.pb``, its graph ``m.json`` and a placement ``p.json`` of it on the preset cpu-gpu."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 2), "x")
        tf.nn.relu(tf.matmul(x, x, name="product"), name="relu")
    (folder / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    read = library.tf.read(folder / "m.pb")
    read.save("m.json")
    Placement(read, library.Cluster.load("cpu-gpu"), [0, 1, 0]).save("p.json")


FROM_GRAPH = ("export", "--cluster", "cpu-gpu", "--placement", "p.json", "--graph", "m.json")
FROM_GRAPH_DEF = (*FROM_GRAPH[:5], "--graph-def", "m.pb")


def test_exports(placer, folder) -> None:
    """A map from the graph file; a GraphDef from the GraphDef; stdout is the path."""
    result = placer(*FROM_GRAPH, "--out", "map.json")
    assert (result.exit_code, result.stdout) == (0, "map.json\n")
    assert json.loads((folder / "map.json").read_text())["product"] == "/device:GPU:0"
    devices = "CPU:0,/job:worker/task:1/device:GPU:0"
    assert placer(*FROM_GRAPH_DEF, "--devices", devices, "--out", "m2.pb").exit_code == 0
    found = tf.compat.v1.GraphDef.FromString((folder / "m2.pb").read_bytes())
    assert {node.device for node in found.node} == {
        "/device:CPU:0",
        "/job:worker/task:1/device:GPU:0",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*FROM_GRAPH, "--out", "o.pb"), "expected --graph-def FILE"),
        ((*FROM_GRAPH, "--out", "o.txt"), "unknown suffix; expected .json, .pb, .pbtxt"),
        ((*FROM_GRAPH, "--graph-def", "m.pb", "--out", "o.pb"), "give no --graph or --workload"),
        ((*FROM_GRAPH, "--devices", "a,b", "--out", "o.json"), "'a' is no name of a TensorFlow"),
        ((*FROM_GRAPH_DEF[:-1], "no.pb", "--out", "o.pb"), "no.pb: cannot be read"),
    ],
)
def test_bad_exports(placer, folder, arguments, message) -> None:
    """One line, exit code 2, and no file."""
    result = placer(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(folder.glob("o.*"))


def test_stderr_has_no_notes_of_tensorflow(folder) -> None:
    """They are for those who build it, and errors are one line."""
    command = "from experiments.cli import main; main()"
    arguments = [*FROM_GRAPH, "--out", "o.json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, check=True
    )
    assert done.stderr == b""
