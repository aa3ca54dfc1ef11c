"""OpGraph: its arrays, its file format and what it refuses."""

from __future__ import annotations

import copy
import gzip
import json
import pickle

import jsonschema
import networkx as nx
import numpy as np
import pytest

from placer.errors import FormatError, GraphError, PlacerError, UnknownNameError
from placer.graph import Op, OpGraph, Output, bundled_graphs
from placer.schemas import DOCUMENTS, schema

TINY = """{"format": "placer.graph/1", "name": "tiny", "ops": [
  {"name": "x", "type": "Placeholder", "outputs": [{"bytes": 4096, "shape": [32, 32], "dtype": "float32"}]},
  {"name": "w", "type": "VarHandleOp", "parameter_bytes": 4096, "outputs": [{"bytes": 4096}], "colocation_group": "w"},
  {"name": "y", "type": "MatMul", "inputs": ["x:0", "w:0", "^init"], "flops": 65536, "bytes_accessed": 12288,
   "temporary_bytes": 0, "outputs": [{"bytes": 4096}], "device_kinds": ["gpu", "cpu"], "seconds": {"p100": 1e-05, "cpu": 0.001}},
  {"name": "init", "type": "NoOp"}]}"""


def test_the_documented_example_is_read() -> None:
    """The example of the format gives the ops, tensors, edges and constraints that it says."""
    graph = OpGraph.from_json(TINY)
    assert graph.op_names == ("x", "w", "y", "init")
    assert graph.tensor_bytes.tolist() == [4096, 4096, 4096]
    assert graph.tensor_producer.tolist() == [0, 1, 2]
    assert graph.tensor_shapes == ((32, 32), None, None)
    assert graph.input_tensors.tolist() == [0, 1]
    assert graph.control_inputs.tolist() == [3]
    assert graph.colocation_group.tolist() == [-1, 0, -1, -1]
    assert graph.colocation_names == ("w",)
    assert graph.device_kinds[2] == ("gpu", "cpu")
    assert graph.seconds[2] == {"p100": 1e-5, "cpu": 1e-3}
    producers, consumers, tensors = graph.edges
    assert list(zip(producers, consumers, tensors, strict=True)) == [
        (0, 2, 0),
        (1, 2, 1),
        (3, 2, -1),
    ]


def test_the_topological_order_follows_the_users_order_among_ready_ops() -> None:
    """Producers come first; ties go by the user's order."""
    graph = OpGraph.from_json(TINY)
    assert graph.topological_order.tolist() == [0, 1, 3, 2]


def test_json_and_networkx_round_trip() -> None:
    """Both ways out and in again give an equal graph with the same fingerprint."""
    graph = OpGraph.from_json(TINY)
    assert OpGraph.from_json(graph.to_json()) == graph
    assert OpGraph.from_networkx(graph.to_networkx()) == graph
    assert OpGraph.from_json(graph.to_json()).fingerprint == graph.fingerprint


def test_copies_are_equal_and_read_only() -> None:
    """Copies and unpickled graphs are equal, and no array of them can be written."""
    graph = OpGraph.from_json(TINY)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):  # noqa: S301
        assert other == graph
        assert hash(other) == hash(graph)
        with pytest.raises(ValueError, match="read-only"):
            other.flops[0] = 1


@pytest.mark.parametrize("number", [int, float, np.float64, np.int64])
def test_figures_of_any_type_are_those_of_the_file(number: type) -> None:
    """The file can be written, and the graph read from it is equal."""
    op = Op("a", "Op", flops=number(2), seconds={"gpu": number(1)}, outputs=(Output(number(3)),))
    graph = OpGraph.from_ops("g", [op])
    assert OpGraph.from_json(graph.to_json()) == graph


def test_any_networkx_graph_is_read() -> None:
    """Plain edges with bytes become tensors, and missing attributes take their defaults."""
    plain = nx.DiGraph()
    plain.add_edge("a", "b", bytes=8)
    plain.add_edge("a", "c", bytes=8)
    plain.add_node("b", flops=3.0, type="MatMul")
    graph = OpGraph.from_networkx(plain, "plain")
    assert graph.op_names == ("a", "b", "c")
    assert graph.tensor_bytes.tolist() == [8]
    assert graph.flops.tolist() == [0, 3, 0]
    with pytest.raises(GraphError, match="'b' has unknown attribute 'color'"):
        plain.add_node("b", color="red")
        OpGraph.from_networkx(plain)


def test_numpy_numbers_are_read() -> None:
    """On nodes, within their attributes and on edges."""
    plain = nx.DiGraph()
    plain.add_node("a", flops=np.float64(3), seconds={"cpu": np.float32(0.5)})
    plain.add_edge("a", "b", bytes=np.int64(8), port=np.int32(1), input=np.uint8(0))
    graph = OpGraph.from_networkx(plain)
    assert graph.flops.tolist() == [3, 0]
    assert graph.tensor_bytes.tolist() == [0, 8]
    assert graph.seconds[0] == {"cpu": 0.5}
    with pytest.raises(
        GraphError, match=r"node 'a': array\(\[3\]\) is a ndarray; expected a plain"
    ):
        plain.add_node("a", flops=np.array([3]))
        OpGraph.from_networkx(plain)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"bytes": -5}, "bytes is -5; expected a finite number >= 0"),
        ({"bytes": float("nan")}, "bytes is nan; expected"),
        ({"bytes": 10**400}, "bytes is 10+; expected"),
        ({"bytes": "x"}, "bytes is 'x'; expected"),
        ({"bytes": None}, "bytes is None; expected"),
        ({"port": "0"}, "port is '0'; expected None or a whole number >= 0"),
        ({"port": 1.0}, "port is 1.0; expected"),
        ({"port": -1}, "port is -1; expected"),
        ({"input": None}, "input is None; expected a whole number >= 0"),
        ({"input": "first"}, "input is 'first'; expected"),
    ],
)
def test_wrong_networkx_edges(attributes: dict[str, object], message: str) -> None:
    """The message has the edge, what it says and what was expected."""
    plain = nx.DiGraph([("a", "c")])
    plain.add_edge("b", "c", **attributes)
    with pytest.raises(GraphError, match=f"^edge 'b' -> 'c': {message}"):
        OpGraph.from_networkx(plain)


def test_undirected_graphs_are_refused() -> None:
    with pytest.raises(GraphError, match="undirected Graph; expected one with a direction"):
        OpGraph.from_networkx(nx.Graph([("a", "b")]))


def test_saved_files_are_the_same_bytes_each_time(tmp_path) -> None:
    """Zipped files depend on the content alone, and load again."""
    graph = OpGraph.from_json(TINY)
    for name in ("a.json", "a.json.gz", "b.json.gz"):
        graph.save(tmp_path / name)
        assert OpGraph.load(tmp_path / name) == graph
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == graph.to_json()


def _ops(**changes: object) -> str:
    document = json.loads(TINY)
    document["ops"][2].update(changes)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", FormatError, "g: not valid JSON"),
        ("[]", FormatError, "g: no format; expected 'placer.graph/1'"),
        ("[" * 200_000, FormatError, "g: nested too deeply"),
        (TINY.replace("65536", "1e999"), FormatError, "g: not valid JSON .*out of range"),
        (
            TINY.replace("graph/1", "graph/2"),
            FormatError,
            "g: format 'placer.graph/2'; expected 'placer.graph/1'",
        ),
        (
            TINY.replace('"flops": 65536', '"flops": 65536, "flops": 1'),
            FormatError,
            "g: key 'flops' is given twice in one object",
        ),
        (_ops(colour="red"), FormatError, r"unknown field `colour` - at `\$.ops\[2\]`"),
        (_ops(flops="many"), FormatError, r"Expected `float`, got `str` - at `\$.ops\[2\].flops`"),
        (_ops(flops=-1), GraphError, "op 'y': flops is -1.0; expected a finite number >= 0"),
        (
            _ops(outputs=[{"bytes": -4}]),
            GraphError,
            r"op 'y': outputs\[0\].bytes is -4.0; expected a finite number >= 0",
        ),
        (_ops(seconds={"cpu": -1}), GraphError, r"op 'y': seconds\['cpu'\] is -1.0"),
        (_ops(inputs=["z:0"]), GraphError, "g: op 'y': input 'z:0' names no op of the graph"),
        (_ops(inputs=["x:1"]), GraphError, "op 'y': input 'x:1': op 'x' has 1 outputs"),
        (_ops(inputs=["^y"]), GraphError, "the graph has a cycle: y -> y"),
        (_ops(name="x"), GraphError, r"op name 'x' is given twice: ops\[0\] and \[2\]"),
        (_ops(name=""), GraphError, r"ops\[2\] has name ''"),
        (_ops(device_kinds=[]), GraphError, "op 'y': device_kinds is empty"),
        (
            '{"format": "placer.graph/1", "name": "none", "ops": []}',
            GraphError,
            "g: graph 'none' has no ops; expected at least one",
        ),
    ],
)
def test_bad_documents_are_refused(content: str, error: type[PlacerError], message: str) -> None:
    """Each message names what was given, what was expected and where."""
    with pytest.raises(error, match=message):
        OpGraph.from_json(content, "g")


def test_a_cycle_is_shown() -> None:
    """The message lists the ops of one cycle in the direction of the edges."""
    ops = [
        Op("a", "Op", inputs=("c:0",), outputs=(Output(1),)),
        Op("b", "Op", inputs=("a:0",), outputs=(Output(1),)),
        Op("c", "Op", inputs=("b:0",), outputs=(Output(1),)),
        Op("after", "Op", inputs=("c:0",)),
    ]
    with pytest.raises(GraphError, match="cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b)"):
        OpGraph.from_ops("loop", ops)


def test_missing_and_unreadable_files(tmp_path) -> None:
    """Files that are missing, folders, or not gzip give one clear line; bare names a suggestion."""
    with pytest.raises(FormatError, match="nothing.json: no such file"):
        OpGraph.load(tmp_path / "nothing.json")
    with pytest.raises(FormatError, match="cannot be read"):
        OpGraph.load(tmp_path)
    (tmp_path / "g.json.gz").write_bytes(b"plain")
    with pytest.raises(FormatError, match="expected gzip data"):
        OpGraph.load(tmp_path / "g.json.gz")
    with pytest.raises(UnknownNameError, match="unknown workload 'rnnlmm'; did you mean 'rnnlm'"):
        OpGraph.load("rnnlmm")


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    """What was there stays whole, and nothing is left beside it."""
    target = tmp_path / "folder.json"
    target.mkdir()
    (target / "kept").write_text("kept")
    with pytest.raises(PlacerError, match="cannot be written"):
        OpGraph.from_json(TINY).save(target)
    assert (target / "kept").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["folder.json"]


@pytest.mark.parametrize("name", sorted(bundled_graphs()))
def test_bundled_graphs_load_and_follow_the_schema(name: str) -> None:
    """Every bundled graph is valid by our reader and by another library's."""
    graph = OpGraph.load(name)
    assert graph.name == name
    assert graph.num_ops > 1000
    document = json.loads(graph.to_json())
    document["ops"] = document["ops"][:200]  # jsonschema is slow
    jsonschema.validate(document, json.loads(schema("graph")))


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_schemas_are_those_of_the_structs(name: str) -> None:
    """The schema files say what the readers read; `python -m placer.schemas` writes them."""
    from importlib.resources import files

    assert (files("placer.schemas") / f"{name}.schema.json").read_bytes() == schema(name)


def test_a_hundred_thousand_ops_build_and_keep_their_figures() -> None:
    """Size alone breaks nothing."""
    ops = [Op("0", "Op", outputs=(Output(4),))] + [
        Op(str(i), "Op", inputs=(f"{i - 1}:0",), flops=i, outputs=(Output(4),))
        for i in range(1, 100_000)
    ]
    graph = OpGraph.from_ops("chain", ops)
    assert graph.flops.sum() == 99_999 * 50_000
    assert np.array_equal(graph.topological_order, np.arange(100_000))
