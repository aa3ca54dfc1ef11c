"""What ``placer.tf.read`` takes, what it gives, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import placer.tf
from placer import OpGraph
from placer.errors import ReadError

FEATURES = tf.TensorSpec((4, 8))
LABELS = tf.TensorSpec((4,), tf.int32)
SQUARE = tf.TensorSpec((4, 4))


def _inference(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    return tf.function(lambda x: model(x, training=False), autograph=False)


def _work(graph: OpGraph) -> tuple[float, float, float]:
    return graph.flops.sum(), graph.bytes_accessed.sum(), graph.parameter_bytes.sum()


def test_all_forms_of_a_model_give_the_same_graph(small_model, tmp_path) -> None:
    """tf.function, traced or not, ConcreteFunction and Keras model agree op by op.

    The SavedModel, loaded or not, has other names and the same work.
    """
    function = _inference(small_model)
    expected = placer.tf.read(function, FEATURES, name="g")
    concrete = function.get_concrete_function(FEATURES)
    for target, specs in ((function, ()), (concrete, ()), (small_model, (FEATURES,))):
        assert placer.tf.read(target, *specs, name="g") == expected
    small_model.export(tmp_path / "saved", verbose=False)
    for target in (str(tmp_path / "saved"), tf.saved_model.load(tmp_path / "saved")):
        saved = placer.tf.read(target, FEATURES, name="g")
        assert _work(saved) == _work(expected)
        assert not [t for t in saved.op_types if "Call" in t]


def test_a_graph_def_gives_the_work_of_the_function_it_was_made_from(small_model, tmp_path):
    """Frozen: the variables are constants, the work is the same; from a file too."""
    concrete = _inference(small_model).get_concrete_function(FEATURES)
    frozen = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
    (tmp_path / "frozen.pb").write_bytes(frozen.SerializeToString())
    expected = _work(placer.tf.read(concrete))
    graph = placer.tf.read(frozen)
    assert _work(graph) == (*expected[:2], 0.0)
    assert placer.tf.read(tmp_path / "frozen.pb") == OpGraph.from_ops("frozen", graph.ops())


def test_a_model_with_a_batch_size_needs_no_specs() -> None:
    """The model's own inputs say all; several of them too."""
    left, right = keras.Input((8,), batch_size=4), keras.Input((8,), batch_size=4)
    model = keras.Model([left, right], keras.layers.Dense(2)(left + right))
    graph = placer.tf.read(model)
    assert graph.op_types.count("Placeholder") == 2
    assert graph.flops.sum() == 2 * 4 * 8 * 2 + 4 * 2 + 4 * 8  # product, bias, sum


def test_the_training_step_has_forward_loss_backward_and_optimizer(compiled_model) -> None:
    """Each trainable variable is read, has a gradient and is updated with its two Adam moments."""
    graph = placer.tf.read(compiled_model, FEATURES, LABELS, training=True)
    types = graph.op_types
    trainable = len(compiled_model.trainable_variables)
    assert types.count("AssignSubVariableOp") == trainable
    assert any(name.startswith("gradient_tape/") for name in graph.op_names)
    assert "SparseSoftmaxCrossEntropyWithLogits" in types
    held = [v for v in compiled_model.variables if v.trainable]
    moments = 2 * sum(int(np.prod(v.shape)) for v in held) * 4
    in_graph = graph.parameter_bytes.sum()
    model_bytes = compiled_model.count_params() * 4
    scalars = in_graph - model_bytes - moments  # learning rate, step count, metrics
    assert 0 < scalars < 100


def test_names_and_bytes_do_not_depend_on_the_process(tmp_path) -> None:
    """Two processes, one of which traced other things before, write the same file."""
    script = tmp_path / "trace.py"
    script.write_text(
        "import sys, tensorflow as tf, placer.tf\n"
        "for i in range(int(sys.argv[1])): tf.function(lambda: tf.constant(i))()\n"
        "table = tf.Variable(tf.zeros((10, 4)))\n"
        "@tf.function\n"
        "def step(ids):\n"
        "    inner = tf.function(lambda x: tf.nn.embedding_lookup(table, x))\n"
        "    table.assign_sub(tf.ones((10, 4)))\n"
        "    return tf.reduce_sum(inner(ids))\n"
        "placer.tf.read(step, tf.TensorSpec((3,), tf.int32)).save(sys.argv[2])\n"
    )
    root = Path(placer.__file__).parent.parent
    files = [tmp_path / "a.json.gz", tmp_path / "b.json.gz"]
    for count, file in zip(("0", "7"), files, strict=True):
        subprocess.run(
            [sys.executable, script, count, file],
            check=True,
            cwd=root,
            env={"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nested_functions_are_inlined() -> None:
    """Calls, also those that ask for XLA or for no inlining, leave the ops of their bodies."""
    inner = tf.function(lambda a: tf.nn.relu(a @ a), autograph=False)
    compiled = tf.function(lambda b: tf.nn.relu(b @ b), autograph=False, jit_compile=True)
    outer = tf.function(lambda x: inner(inner(x)) + compiled(x), autograph=False)
    graph = placer.tf.read(outer, SQUARE)
    assert graph.op_types.count("MatMul") == 3
    assert not [t for t in graph.op_types if "Call" in t]
    assert graph.flops.sum() == 3 * (2 * 4**3 + 16) + 16


def test_captures_become_handles_and_constants() -> None:
    """A captured variable is a handle with its bytes, a captured tensor a constant."""
    variable, tensor = tf.Variable(tf.ones((4, 4))), tf.ones((4, 4))
    graph = placer.tf.read(tf.function(lambda x: x @ variable @ tensor, autograph=False), SQUARE)
    assert graph.op_types.count("Placeholder") == 1
    handle = graph.op_types.index("VarHandleOp")
    assert graph.parameter_bytes[handle] == graph.parameter_bytes.sum() == 64
    assert "Const" in graph.op_types


def test_a_variable_is_read_once_between_writes() -> None:
    """Two reads before the write are one, the read after it is another."""
    variable = tf.Variable(tf.ones((4, 4)))

    def step(x):
        before = x @ variable + variable
        variable.assign_add(before)
        return before @ variable

    graph = placer.tf.read(tf.function(step, autograph=False), SQUARE)
    reads = [op for op in graph.ops() if op.type == "ReadVariableOp"]
    assert len(reads) == 2
    assert not [i for i in reads[0].inputs if i.startswith("^")]
    assert [i for i in reads[1].inputs if i.startswith("^")]


def test_what_nothing_needs_is_gone_and_side_effects_stay() -> None:
    """An op without use is pruned; an update that nothing reads is not."""
    variable = tf.Variable(0.0)

    def step(x):
        tf.nn.softmax(x)
        variable.assign_add(1.0)
        return x + 1.0

    graph = placer.tf.read(tf.function(step, autograph=False), SQUARE)
    assert "Softmax" not in graph.op_types
    assert "AssignAddVariableOp" in graph.op_types


def test_gradients_pass_no_common_barrier(compiled_model) -> None:
    """Keras's IdentityN over all gradients is not in the graph."""
    graph = placer.tf.read(compiled_model, FEATURES, LABELS, training=True)
    assert "IdentityN" not in graph.op_types


def test_names_of_results(small_model) -> None:
    """A graph is called as what it was read from, or as one says."""
    function = tf.function(lambda x: x + 1.0)
    concrete = tf.function(_named_step).get_concrete_function(SQUARE)
    assert placer.tf.read(concrete).name == "_named_step"
    assert placer.tf.read(small_model, FEATURES).name == "small"
    assert placer.tf.read(function, SQUARE, name="mine").name == "mine"


def _named_step(x):
    return x + 1.0


def test_strings_stay_on_the_cpu() -> None:
    """Ops on strings are restricted to CPUs, others are not; their size is a guess."""
    function = tf.function(lambda x: tf.strings.to_number(x) * 2.0, autograph=False)
    reading = placer.tf.read_report(function, tf.TensorSpec((4,), tf.string))
    graph = reading.graph
    for name, kinds in zip(graph.op_types, graph.device_kinds, strict=True):
        assert kinds == (("cpu",) if name in ("Placeholder", "StringToNumber") else None)
    assert reading.guessed_bytes == ("x",)
    assert [graph.op_types[graph.op_index[n]] for n in reading.unknown_flops] == ["StringToNumber"]


def test_a_plain_function_is_traced_too() -> None:
    """Any function with specs, also nested ones, can be read."""
    graph = placer.tf.read(lambda d: d["a"] @ d["b"], {"a": SQUARE, "b": SQUARE})
    assert graph.flops.sum() == 2 * 4**3


@pytest.mark.parametrize(
    ("target", "specs", "options", "message"),
    [
        (3, (), {}, "cannot read an object of type int; expected a tf.function"),
        (tf.function(lambda x: x), (), {}, "never traced; expected a spec"),
        (tf.function(lambda x: x), (tf.TensorSpec((None, 8)),), {}, r"'x' has shape \(None, 8\)"),
        (tf.function(lambda x: x), (tf.TensorSpec(None),), {}, "'x' has unknown rank"),
        (tf.function(lambda x: x @ x), (FEATURES,), {}, "cannot trace"),
        (tf.function(lambda x: x), (FEATURES,), {"training": True}, "expected a compiled Keras"),
        ("nothing/here", (), {}, "nothing/here: no such file or folder"),
        (tf.compat.v1.GraphDef(), (), {}, "no nodes"),
        (lambda x: 1 if tf.reduce_sum(x) > 0 else 2, (SQUARE,), {}, "cannot trace"),
    ],
)
def test_bad_input_is_refused_with_a_reason(target, specs, options, message) -> None:
    """Each message says what was given and what was expected."""
    with pytest.raises(ReadError, match=message):
        placer.tf.read(target, *specs, **options)


def test_bad_saved_models_are_refused(small_model, tmp_path) -> None:
    """An empty folder, a file that is none, an unknown signature, an open batch size."""
    small_model.export(tmp_path / "saved", verbose=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.pb").write_bytes(b"hello world")
    for path, options, message in (
        ("empty", {}, "the folder has no saved_model.pb"),
        ("junk.pb", {}, "not a GraphDef"),
        ("saved", {"signature": "other"}, "no signature 'other'; it has: serve, serving_default"),
        ("saved", {}, r"'features' has shape \(None, 8\)"),
    ):
        with pytest.raises(ReadError, match=message):
            placer.tf.read(tmp_path / path, **options)


def test_a_signature_of_several_inputs_takes_specs_by_name_or_in_order(tmp_path) -> None:
    """One dict, or specs in alphabetical order; anything else is refused."""
    module = tf.Module()
    shapes = {"right": tf.TensorSpec((None, 3)), "left": tf.TensorSpec((2, None))}
    module.product = tf.function(lambda left, right: {"out": left @ right}, autograph=False)
    signature = module.product.get_concrete_function(**shapes)
    tf.saved_model.save(module, tmp_path / "saved", {"serving_default": signature})
    left, right = tf.TensorSpec((2, 4)), tf.TensorSpec((4, 3))
    in_order = placer.tf.read(tmp_path / "saved", left, right)
    assert in_order == placer.tf.read(tmp_path / "saved", {"right": right, "left": left})
    assert in_order.flops.sum() == 2 * 2 * 4 * 3
    for specs in ((left,), ({"left": left},), (left, right, right)):
        with pytest.raises(ReadError, match="for the inputs left, right; expected one for each"):
            placer.tf.read(tmp_path / "saved", *specs)


def test_bad_keras_calls_are_refused(small_model, compiled_model) -> None:
    """A model that is not compiled, too few specs, an open batch size."""
    fresh = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ReadError, match="is not compiled"):
        placer.tf.read(fresh, FEATURES, LABELS, training=True)
    with pytest.raises(ReadError, match="does not say its inputs"):
        placer.tf.read(fresh)
    with pytest.raises(ReadError, match="1 specs for a training step"):
        placer.tf.read(compiled_model, FEATURES, training=True)
    with pytest.raises(ReadError, match=r"has shape \(None, 8\)"):
        placer.tf.read(compiled_model)


def test_a_model_takes_its_inputs_in_its_own_structure() -> None:
    """Named other than the tensors, in another order; with no spec as with one."""
    first, second = (keras.Input((8,), batch_size=4, name=name) for name in ("first", "second"))
    with pytest.warns(UserWarning, match="all keys in the dict must match"):
        model = keras.Model({"b": first, "a": second}, keras.layers.subtract([first, second]))
    specs = {"b": FEATURES, "a": FEATURES}
    assert _work(placer.tf.read(model)) == _work(placer.tf.read(model, specs))


def test_a_placeholder_that_says_no_shape_is_refused() -> None:
    """Its shape is unknown, not that of a scalar; the GraphDef stays as it was."""
    graph_def = tf.compat.v1.GraphDef()
    node = graph_def.node.add(name="x", op="Placeholder")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    before = type(graph_def).FromString(graph_def.SerializeToString())
    with pytest.raises(ReadError, match="input 'x' has unknown rank"):
        placer.tf.read(graph_def)
    assert graph_def == before


def test_variables_of_strings_have_bytes() -> None:
    """16 per element, as tensors of strings."""
    names = tf.Variable(["one", "two", "three"])
    graph = placer.tf.read(lambda: names.read_value())
    assert graph.parameter_bytes.sum() == 3 * 16


def test_resources_of_unknown_size_are_refused(small_model) -> None:
    """A captured table, and a GraphDef whose variables are placeholders."""
    values = tf.lookup.KeyValueTensorInitializer([1], [2])
    table = tf.lookup.StaticHashTable(values, 0)
    with pytest.raises(ReadError, match="neither a variable nor a constant but a table"):
        placer.tf.read(tf.function(lambda x: table.lookup(x)), LABELS)
    concrete = _inference(small_model).get_concrete_function(FEATURES)
    with pytest.raises(ReadError, match="is a resource of unknown size"):
        placer.tf.read(concrete.graph.as_graph_def())


def test_two_traces_need_a_choice() -> None:
    """A function traced twice does not say which trace is meant; specs do."""
    function = tf.function(lambda x: x + 1.0, autograph=False)
    for size in (4, 5):
        function.get_concrete_function(tf.TensorSpec((size,)))
    with pytest.raises(ReadError, match="has 2 traces"):
        placer.tf.read(function)
    assert placer.tf.read(function, tf.TensorSpec((5,))).flops.sum() == 5
