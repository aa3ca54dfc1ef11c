"""TensorFlow's cost graphs: by hand, as TensorFlow writes them, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from placer import Cluster, Simulator, importers
from placer.cluster import Device, Link
from placer.errors import FormatError, GraphError, UsageError

TEXT = """
node { name: "_SOURCE" id: 0 }
node { name: "x" id: 2 output_info { size: 8 } output_info { size: 2 } control_input: 0
       compute_cost: 3 persistent_memory_size: 100 }
node { name: "y" id: 5 input_info { preceding_node: 2 preceding_port: 1 } compute_cost: 4
       temporary_memory_size: 7 output_info { size: 1 } }
node { name: "z" id: 3 input_info { preceding_node: 5 } control_input: 2 compute_cost: 1 }
node { name: "_SINK" id: 1 control_input: 3 }
"""


def read(folder: Path, text: str):
    path = folder / "costs.pbtxt"
    path.write_text(text)
    return importers.read(path, "cost-graph")


def two(kind: str) -> Cluster:
    """Two devices, and a link of a byte per microsecond."""
    names = (f"{kind}:0", f"{kind}:1")
    return Cluster(
        "two", tuple(Device(name, kind, memory_bytes=1e3) for name in names), (Link(names, 1e6),)
    )


def test_fields(tmp_path: Path) -> None:
    """Ops, edges, tensors and memory are those of the file; there is no cluster."""
    graph, cluster = read(tmp_path, TEXT)
    assert cluster is None
    assert [(op.name, op.inputs) for op in graph.ops()] == [
        ("x", ()),
        ("y", ("x:1",)),
        ("z", ("y:0", "^x")),
    ]
    assert graph.tensor_bytes.tolist() == [8, 2, 1]
    assert graph.parameter_bytes.tolist() == [100, 0, 0]
    assert graph.temporary_bytes.tolist() == [0, 7, 0]


@pytest.mark.parametrize("kind", ["accelerator", "cpu", "gpu", "tpu"])
def test_step_times_by_hand(tmp_path: Path, kind: str) -> None:
    """x: 0-3 us. Its second tensor: 3-5. y: 5-9. Back: 9-10. z: 10-11."""
    graph, _ = read(tmp_path, TEXT)
    simulator = Simulator(graph, two(kind))
    assert simulator.step_time([0, 0, 0]) == 8e-6
    assert simulator.step_time([0, 1, 0]) == 11e-6


def test_names_given_twice_have_ids(tmp_path: Path) -> None:
    """Each partition of a graph may have a node of that name."""
    graph, _ = read(tmp_path, TEXT.replace('"y"', '"x"'))
    assert graph.op_names == ("x/2", "x/5", "z")


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("id: 5", "id: 2", r"node\[2\] \('y'\): id 2 is taken"),
        ("preceding_node: 2", "preceding_node: 9", r"node\[2\] \('y'\): reads from 9, which"),
        ("control_input: 2", "control_input: 8", r"node\[3\] \('z'\): reads from 8, which"),
        ("compute_cost: 4", "compute_cost: -4", r"node\[2\] \('y'\): compute_cost is -4; expected"),
        ("size: 8", "size: -1", r"node\[1\] \('x'\): output_info\[0\].size is -1; expected"),
        ("size: 7", "size: -7", r"node\[2\] \('y'\): temporary_memory_size is -7; expected"),
        ("port: 1", "port: -1", r"input_info\[0\].preceding_port is -1; expected"),
        (
            "compute_cost: 4",
            "compute_cots: 4",
            r"not a CostGraphDef in text form \(line 5:75 .*cots",
        ),
        ('_SINK" id: 1 control_input: 3 }', '_SINK" id: 1', r"not a CostGraphDef .*\(line 8:"),
    ],
)
def test_wrong_files(tmp_path: Path, before: str, after: str, line: str) -> None:
    """The message has the file, the node or line, what is there and what was expected."""
    assert before in TEXT
    with pytest.raises(FormatError, match=rf"costs\.pbtxt: .*{line}"):
        read(tmp_path, TEXT.replace(before, after, 1))


def test_wrong_graphs(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"costs\.pbtxt: .*cycle: "):
        read(tmp_path, TEXT.replace("control_input: 0", "control_input: 3"))
    with pytest.raises(GraphError, match=r"costs\.pbtxt: .*'x:2': op 'x' has 2 outputs"):
        read(tmp_path, TEXT.replace("port: 1", "port: 2"))
    with pytest.raises(GraphError, match=r"costs\.pbtxt: .*no ops"):
        read(tmp_path, "")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.pb"
    path.write_bytes(b"\n\x80\x81\xff")
    with pytest.raises(FormatError, match=r"binary\.pb: not text"):
        importers.read(path, "cost-graph")


def test_no_devices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cost graph says nothing of devices"):
        importers.read(tmp_path / "any", "cost-graph", num_devices=2)


def test_what_tensorflow_writes(tmp_path: Path) -> None:
    """A training step as TensorFlow's own cost model has it."""
    import tensorflow as tf
    from google.protobuf import text_format

    v1 = tf.compat.v1
    graph = v1.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [8, 4])
        weight = v1.get_variable("w", [4, 4], use_resource=True)
        loss = tf.reduce_mean(tf.nn.relu(x @ weight))
        update = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        config = v1.ConfigProto()
        config.graph_options.build_cost_model = 1
        with v1.Session(config=config) as session:
            session.run(v1.global_variables_initializer())
            metadata = v1.RunMetadata()
            options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
            feeds = {x: np.zeros((8, 4), np.float32)}
            session.run([loss, update], feeds, options=options, run_metadata=metadata)
    found, _ = read(tmp_path, text_format.MessageToString(metadata.cost_graph))
    nodes = metadata.cost_graph.node
    assert found.num_ops == len(nodes) - 2
    expected = sum(n.compute_cost for n in nodes if not n.name.startswith("_S")) * 1e-6
    step_time = Simulator(found, two("cpu")).step_time(np.zeros(found.num_ops, int))
    # an op of no cost takes a nanosecond
    assert expected <= step_time * (1 + 1e-12) <= expected + found.num_ops * 1e-9 + 1e-12
