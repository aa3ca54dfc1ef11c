"""The flat GraphDef computes what the function computes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops as rvo

from placer.tf._flatten import FlatGraph
from placer.tf._trace import flatten


def _values(flat: FlatGraph) -> dict[str, np.ndarray]:
    """The present values of the variables, by the name of their handle."""
    return {
        name: rvo.read_variable_op(
            handle, rvo.get_eager_safe_handle_data(handle).shape_and_type[0].dtype
        ).numpy()
        for name, handle in flat.variables.items()
    }


def _run_flat(
    flat: FlatGraph, feeds: list[np.ndarray]
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Runs the flat graph once from the variables' present values."""
    values = _values(flat)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(flat.graph_def, name="")
        handles = {name: graph.get_tensor_by_name(f"{name}:0") for name in values}
        writes = [rvo.assign_variable_op(h, tf.constant(values[n])) for n, h in handles.items()]
        reads = {n: rvo.read_variable_op(h, values[n].dtype) for n, h in handles.items()}
        with tf.compat.v1.Session() as session:
            session.run(writes)
            feed = {f"{n}:0": value for n, value in zip(flat.inputs, feeds, strict=True)}
            outputs, _ = session.run([list(flat.outputs), list(flat.control_outputs)], feed)
            return outputs, session.run(reads)


def test_a_training_step_gives_the_same_numbers(compiled_model) -> None:
    """Outputs and all variables after a step are those of Keras's own step."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(4, 8)).astype(np.float32)
    labels = np.array([0, 1, 2, 1], np.int32)
    specs = tf.TensorSpec((4, 8)), tf.TensorSpec((4,), tf.int32)
    flat = flatten(compiled_model, specs, True, "")
    outputs, after = _run_flat(flat, [features, labels])
    step = tf.function(lambda *batch: compiled_model.train_step(batch), autograph=False)
    expected = tf.nest.flatten(step(tf.constant(features), tf.constant(labels)))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
    assert len(after) >= 3 * len(compiled_model.trainable_variables)
    for name, value in _values(flat).items():
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_writes_and_reads_keep_their_order() -> None:
    """Merged reads and dropped control edges do not let a read pass a write."""
    variable = tf.Variable(2.0)

    def step(x):
        first = variable * x + variable
        variable.assign_add(first)
        second = variable * 1.0 + variable
        variable.assign(second)
        return first, second, variable.read_value()

    function = tf.function(step, autograph=False)
    flat = flatten(function, [tf.TensorSpec(())], False, "")
    outputs, _ = _run_flat(flat, [np.float32(3.0)])
    assert [float(v) for v in outputs] == [8.0, 20.0, 20.0]
    edges = sum(ref.startswith("^") for node in flat.graph_def.node for ref in node.input)
    before = function.get_concrete_function(tf.TensorSpec(())).graph.as_graph_def()
    assert edges < sum(ref.startswith("^") for node in before.node for ref in node.input)


def test_the_order_of_nodes_is_topological() -> None:
    """Every node comes after all that it needs, so that one pass can read the graph."""
    model = keras.Sequential([keras.Input((8,), batch_size=4), keras.layers.Dense(2)])
    flat = flatten(model, (), False, "")
    seen: set[str] = set()
    for node in flat.graph_def.node:
        assert all(ref.lstrip("^").split(":")[0] in seen for ref in node.input)
        seen.add(node.name)
