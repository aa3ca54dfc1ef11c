"""FLOPs and bytes of single ops, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import tensorflow as tf

import placer.tf
from placer.graph import Op
from placer.tf._costs import NO_WORK


def _only(function, kind: str, *specs) -> Op:
    graph = placer.tf.read(tf.function(function, autograph=False), *specs)
    (op,) = (op for op in graph.ops() if op.type == kind)
    return op


A = tf.TensorSpec((2, 3, 5))


@pytest.mark.parametrize(
    ("function", "specs", "kind", "flops", "size"),
    [
        (lambda x, y: x @ y, ((6, 4), (4, 3)), "MatMul", 2 * 6 * 4 * 3, 4 * (24 + 12 + 18)),
        (
            lambda x, y: tf.matmul(x, y, transpose_a=True),
            ((2, 5, 3), (2, 5, 4)),
            "BatchMatMulV2",
            2 * 2 * 3 * 5 * 4,
            4 * (30 + 40 + 24),
        ),
        (
            lambda x, y: tf.raw_ops.Einsum(inputs=[x, y], equation="abc,cd->abd"),
            ((2, 3, 5), (5, 7)),
            "Einsum",
            2 * 2 * 3 * 5 * 7,
            4 * (30 + 35 + 42),
        ),
        (
            lambda x, y: tf.nn.conv2d(x, y, 2, "SAME"),
            ((1, 8, 8, 3), (3, 3, 3, 5)),
            "Conv2D",
            2 * 4 * 4 * 5 * 3 * 3 * 3,
            4 * (192 + 135 + 80),
        ),
        (lambda x: tf.nn.relu(x), ((6, 4),), "Relu", 24, 4 * 48),
        (lambda x, y: x + y, ((6, 4), (4,)), "AddV2", 24, 4 * (24 + 4 + 24)),
        (lambda x: tf.transpose(x), ((6, 4),), "Transpose", 0, 4 * 48 + 8),
        (lambda x: tf.gather(x, [1, 1, 0]), ((100, 4),), "GatherV2", 0, 3 * 4 + 4 + 2 * 48),
        (lambda x: x[:2], ((100, 4),), "StridedSlice", 0, 3 * 4 + 2 * 32),
        (lambda x: tf.reshape(x, (4, 6)), ((6, 4),), "Reshape", 0, 0),
    ],
)
def test_costs_of_single_ops(function, specs, kind, flops, size) -> None:
    """FLOPs by formula, bytes by what is read and written."""
    op = _only(function, kind, *map(tf.TensorSpec, specs))
    assert (op.flops, op.bytes_accessed) == (flops, size)


def test_a_lookup_and_its_update_touch_rows_only() -> None:
    """A gather from a variable and a scatter into it cost by the rows, not by the table."""
    table = tf.Variable(tf.zeros((1000, 4)))

    def step(ids):
        rows = tf.nn.embedding_lookup(table, ids)
        table.scatter_sub(tf.IndexedSlices(rows, ids))

    graph = placer.tf.read(tf.function(step, autograph=False), tf.TensorSpec((3,), tf.int32))
    ops = {op.type: op for op in graph.ops()}
    assert ops["ResourceGather"].bytes_accessed == 8 + 12 + 2 * 48
    assert ops["ResourceScatterSub"].bytes_accessed == 8 + 12 + 48 + 2 * 48
    assert ops["VarHandleOp"].parameter_bytes == 16_000


def test_nothing_is_silently_zero(compiled_model) -> None:
    """Ops that work have bytes; those without a formula for their FLOPs are listed."""
    specs = tf.TensorSpec((4, 8)), tf.TensorSpec((4,), tf.int32)
    reading = placer.tf.read_report(compiled_model, *specs, training=True)
    for op in reading.graph.ops():
        assert (op.bytes_accessed > 0) == (op.type not in NO_WORK), op
    assert reading.guessed_bytes == ()
    erfinv = tf.function(lambda x: tf.math.erfinv(x), autograph=False)
    reading = placer.tf.read_report(erfinv, A)
    (name,) = reading.unknown_flops
    op = reading.graph.ops()[reading.graph.op_index[name]]
    assert (op.flops, op.bytes_accessed) == (0, 2 * 4 * 30)


def test_sizes_that_depend_on_data_are_listed() -> None:
    """tf.where's result is taken to be as large as what it reads, and said to be a guess."""
    reading = placer.tf.read_report(
        tf.function(lambda x: tf.where(x > 0), autograph=False), tf.TensorSpec((10,))
    )
    graph = reading.graph
    where = graph.op_names[graph.op_types.index("Where")]
    assert where in reading.guessed_bytes
    assert graph.ops()[graph.op_index[where]].outputs[0].bytes == 10


def test_shapes_and_types_of_tensors_are_kept() -> None:
    """Outputs say shape, element type and bytes."""
    op = _only(lambda x: tf.cast(x, tf.float16), "Cast", A)
    (output,) = op.outputs
    assert (output.shape, output.dtype, output.bytes) == ((2, 3, 5), "float16", 60)
