"""The report says where each op ran, and why elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import placer.tf
from placer.errors import MisplacedError, UsageError
from placer.placement import Placement
from placer.tf.verify import OpRun, Verification
from tests.tf.placing import CPUS, NAMES, four_cpus, random_placement

SQUARE = tf.TensorSpec((4, 4))


def _place(function, **devices: int):
    """The function with every op on the first device but those named."""
    graph = placer.tf.read(function, SQUARE)
    chosen = [devices.get(name, 0) for name in graph.op_names]
    return placer.tf.apply(function, Placement(graph, four_cpus(), chosen), SQUARE)


def test_every_op_is_reported_once_in_order() -> None:
    """With its type, where it was asked and where it ran."""

    def function(x):
        return tf.matmul(tf.nn.relu(x, name="relu"), x, name="product")

    placed = _place(function, relu=1, product=2)
    report = placer.tf.verify(placed, tf.ones((4, 4)))
    assert [op.name for op in report.ops] == list(placed.placement.graph.op_names)
    found = {op.name: op for op in report.ops}
    assert found["relu"] == OpRun("relu", "Relu", CPUS[1], (CPUS[1],))
    assert found["product"] == OpRun("product", "MatMul", CPUS[2], (CPUS[2],))
    assert all(op.as_asked for op in report.ops)
    assert str(report) == f"{len(report.ops)} of {len(report.ops)} ops ran where asked"


def test_a_function_that_was_not_placed_is_refused() -> None:
    with pytest.raises(UsageError, match="given an object of type Function; expected what placer"):
        placer.tf.verify(tf.function(tf.nn.relu), tf.ones((4, 4)))


def test_arguments_that_nobody_reads_are_where_they_were_asked() -> None:
    """They are ops of the graph like any other, so they are there too."""
    graph = placer.tf.read(lambda used, idle: used + 1.0, SQUARE, SQUARE)
    placement = Placement(graph, four_cpus(), [2] * graph.num_ops)
    placed = placer.tf.apply(lambda used, idle: used + 1.0, placement, SQUARE, SQUARE)
    ones = tf.ones((4, 4))
    np.testing.assert_array_equal(placed(ones, idle=ones), 2 * ones)
    report = placer.tf.verify(placed, ones, ones, strict=True)
    assert {op.name: op.ran for op in report.ops}["idle"] == (CPUS[2],)


def test_ops_that_follow_their_variable_are_reported() -> None:
    """An update asked to run elsewhere than its variable is moved, with the reason; numbers hold."""
    variable = tf.Variable(tf.ones((4, 4)))

    def function(x):
        variable.assign_add(x)
        return x * 2.0

    placed = _place(function, AssignAddVariableOp=3)
    np.testing.assert_array_equal(placed(tf.ones((4, 4))), np.full((4, 4), 2.0))
    assert float(variable[0, 0]) == 2.0
    report = placer.tf.verify(placed, tf.ones((4, 4)))
    assert float(variable[0, 0]) == 2.0  # a verification changes nothing
    (moved,) = report.moved
    assert (moved.name, moved.asked, moved.ran) == ("AssignAddVariableOp", CPUS[3], (CPUS[0],))
    assert moved.reason is not None
    assert f"which is on {CPUS[0]}" in moved.reason
    assert "1 moved:\n  AssignAddVariableOp (AssignAddVariableOp): asked" in str(report)
    message = "^1 of .* ops did not run where asked: AssignAddVariableOp .* ran .*CPU:0 .uses "
    with pytest.raises(MisplacedError, match=message):
        placer.tf.verify(placed, tf.ones((4, 4)), strict=True)


def test_a_variable_may_be_one_string() -> None:
    """A step is traced with a copy of it; what it holds stays."""
    name = tf.Variable("ab\0")

    def function(x):
        return tf.strings.join([name, tf.strings.as_string(x)])

    placed = _place(function)
    report = placer.tf.verify(placed, tf.ones((4, 4)), strict=True)
    assert not report.dropped
    assert name.numpy() == b"ab\0"


def test_small_constants_are_copied() -> None:
    """One read on two devices, none of them its own, runs on both; that is no error."""

    def function(x):
        two = tf.constant([2.0, 3.0, 4.0, 5.0], name="two")
        return tf.multiply(x, two, name="one") + tf.add(x, two, name="other")

    placed = _place(function, two=3, one=1, other=2)
    report = placer.tf.verify(placed, tf.ones((4, 4)), strict=True)
    (copied,) = report.copied
    assert (copied.name, copied.asked, copied.ran) == ("two", CPUS[3], CPUS[1:3])
    assert not copied.as_asked
    assert "TensorFlow copies it" in str(report)


def test_the_first_of_many_are_named() -> None:
    """A long list of misplaced ops is cut short in the message, but not in the report."""
    runs = [OpRun(f"op{i}", "Op", CPUS[0], ()) for i in range(5)]
    report = Verification(tuple(runs))
    assert report.dropped == tuple(runs)
    assert str(report).count("ran nowhere") == 5
    with pytest.raises(MisplacedError, match="^5 of 5 .*op2 .* nowhere; and 2 more$"):
        report.check()


def test_devices_may_stand_for_any_of_the_cluster() -> None:
    """The order of `devices` is the cluster's; short and long names are the same."""

    def function(x):
        return x @ x + x

    graph = placer.tf.read(function, SQUARE)
    placement = random_placement(graph, 0)
    names = ["CPU:3", "/cpu:2", "/device:CPU:1", "/job:localhost/replica:0/task:0/device:CPU:0"]
    placed = placer.tf.apply(function, placement, SQUARE, devices=names)
    report = placer.tf.verify(placed, tf.ones((4, 4)), strict=True)
    for op in report.ops:
        assert op.asked == CPUS[3 - NAMES.index(placement.device_of(op.name))]
