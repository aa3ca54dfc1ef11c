"""Ops of one variable share a device."""

from __future__ import annotations

from collections import defaultdict

import keras
import pytest
import tensorflow as tf

import placer.tf
from placer import OpGraph

FEATURES = tf.TensorSpec((4, 8))
TARGETS = tf.TensorSpec((4, 3))


def _members(graph: OpGraph) -> dict[str, list[str]]:
    members = defaultdict(list)
    for name, group in zip(graph.op_names, graph.colocation_group, strict=True):
        if group >= 0:
            members[graph.colocation_names[group]].append(name)
    return members


def _group_of(graph: OpGraph) -> dict[str, str | None]:
    return {
        name: graph.colocation_names[g] if g >= 0 else None
        for name, g in zip(graph.op_names, graph.colocation_group, strict=True)
    }


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(),
        keras.optimizers.SGD(momentum=0.9),
        keras.optimizers.SGD(momentum=0.9, nesterov=True),
        keras.optimizers.Adam(),
        keras.optimizers.Adam(amsgrad=True),
        keras.optimizers.AdamW(),
        keras.optimizers.RMSprop(momentum=0.9, centered=True),
        keras.optimizers.Adagrad(),
        keras.optimizers.Adadelta(),
        keras.optimizers.Adamax(),
        keras.optimizers.Nadam(),
        keras.optimizers.Lion(),
    ],
    ids=lambda o: f"{o.name}-{len(o.get_config())}-{getattr(o, 'momentum', 0)}",
)
def test_a_variable_its_slots_and_its_update_are_one_group(optimizer) -> None:
    """For every optimizer of Keras: a group holds one model variable with all of its slots."""
    layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(optimizer.__class__.from_config(optimizer.get_config()), "mse")
    graph = placer.tf.read(model, FEATURES, TARGETS, training=True)
    group_of, ops = _group_of(graph), {op.name: op for op in graph.ops()}
    sizes = defaultdict(set)  # bytes of the handles in each group; all variables differ in size
    for op in ops.values():
        if op.type == "VarHandleOp" and op.parameter_bytes > 8:
            sizes[group_of[op.name]].add(op.parameter_bytes)
    assert sorted(map(sorted, sizes.values())) == [[3 * 4], [16 * 4], [16 * 3 * 4], [8 * 16 * 4]]
    for op in ops.values():
        for ref in op.inputs:
            producer = ops.get(ref.rpartition(":")[0])
            if producer is not None and producer.type == "VarHandleOp":
                assert group_of[op.name] == group_of[producer.name] is not None


def test_gradients_and_the_learning_rate_are_free(compiled_model) -> None:
    """What many variables share, and the work of the model itself, may go anywhere."""
    graph = placer.tf.read(compiled_model, FEATURES, tf.TensorSpec((4,), tf.int32), training=True)
    for members in _members(graph).values():
        assert not [m for m in members if m.startswith("gradient_tape/")]
        assert not [m for m in members if "MatMul" in m]
    handles = [i for i, t in enumerate(graph.op_types) if t == "VarHandleOp"]
    group_of_handle = {graph.colocation_group[i] for i in handles}
    assert len(group_of_handle) >= len(compiled_model.variables)


def test_an_update_by_hand_keeps_its_arithmetic() -> None:
    """assign_sub(rate * gradient): the product goes with the variable, the gradient does not."""
    weights = tf.Variable(tf.ones((8, 3)))

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(x @ weights)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))

    graph = placer.tf.read(tf.function(step, autograph=False), FEATURES)
    (members,) = _members(graph).values()
    types = sorted(graph.op_types[graph.op_index[m]] for m in members)
    assert types.count("Mul") == 1
    assert "MatMul" not in types
    assert {"AssignSubVariableOp", "ReadVariableOp", "VarHandleOp"} <= set(types)


def test_explicit_colocation_is_kept() -> None:
    """A ``_class`` of TensorFlow's own makes a group too."""
    with tf.Graph().as_default() as graph:
        first = tf.compat.v1.placeholder(tf.float32, (4,), "first")
        with tf.compat.v1.colocate_with(first.op):
            tf.identity(first, "second")
        tf.identity(first, "third")
    group_of = _group_of(placer.tf.read(graph.as_graph_def()))
    assert group_of["first"] == group_of["second"] is not None
    assert group_of["third"] is None


def test_several_variables_of_one_op_are_one_group() -> None:
    """An op that updates several resources, as fused optimizers do, joins them."""
    weights, slot = tf.Variable(tf.ones(5)), tf.Variable(tf.zeros(5))

    def step(gradient):
        tf.raw_ops.ResourceApplyMomentum(
            var=weights.handle, accum=slot.handle, lr=0.1, grad=gradient, momentum=0.9
        )

    graph = placer.tf.read(tf.function(step, autograph=False), tf.TensorSpec((5,)))
    groups = {graph.colocation_group[i] for i, t in enumerate(graph.op_types) if t == "VarHandleOp"}
    assert len(groups) == 1
    apply = graph.op_types.index("ResourceApplyMomentum")
    # the gradient and two scalars read, both variables read and written, two handles of 8 bytes
    assert graph.bytes_accessed[apply] == 20 + 8 + 4 * 20 + 16
