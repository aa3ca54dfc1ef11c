"""Loops and branches: their bodies count as often as they run."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

import placer.tf
from placer.errors import ReadError

pytestmark = pytest.mark.filterwarnings("ignore:graph .* loops that are not unrolled")

SQUARE = tf.TensorSpec((4, 4))
PRODUCT = 2 * 4**3


def _flops_of(function, kind: str) -> float:
    graph = placer.tf.read(function, SQUARE)
    (op,) = (i for i, t in enumerate(graph.op_types) if t.endswith(kind))
    return float(graph.flops[op])


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_loop_over_a_range_counts_its_trips(trips) -> None:
    """The products inside count once per trip; the counters are cheap."""

    def loop(x):
        return tf.while_loop(lambda i, _: i < trips, lambda i, x: (i + 1, x @ x), (0, x))[1]

    flops = _flops_of(tf.function(loop, autograph=False), "While")
    assert trips * PRODUCT <= flops < trips * PRODUCT + 10 * (trips + 1)


def test_a_bound_counts_where_the_trips_depend_on_data() -> None:
    """With maximum_iterations, the most trips; without, the loop is refused."""

    def loop(x, most):
        return tf.while_loop(
            lambda i, x: tf.reduce_sum(x) < 100.0,
            lambda i, x: (i + 1, x @ x),
            (0, x),
            maximum_iterations=most,
        )[1]

    flops = _flops_of(tf.function(lambda x: loop(x, 7), autograph=False), "While")
    assert 7 * PRODUCT <= flops < 7 * PRODUCT + 200
    with pytest.raises(ReadError, match="loop 'while' .* runs a number of times that is not known"):
        placer.tf.read(tf.function(lambda x: loop(x, None), autograph=False), SQUARE)


def test_calls_inside_a_loop_count() -> None:
    """A body that calls a function, which loops itself, counts all of it."""
    product = tf.function(lambda x: x @ x, autograph=False)

    def twice(x):
        return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, product(x)), (0, x))[1]

    def loop(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, twice(x)), (0, x))[1]

    flops = _flops_of(tf.function(loop, autograph=False), "While")
    assert 6 * PRODUCT <= flops < 6 * PRODUCT + 100


def test_trips_may_hang_on_more_than_what_ends_the_loop() -> None:
    """The counter grows by another one, so that 0, 1, 3, 6 are the four trips."""

    def loop(x):
        def body(i, by, x):
            return i + by, by + 1, x @ x

        return tf.while_loop(lambda i, by, x: i < 10, body, (0, 1, x))[2]

    flops = _flops_of(tf.function(loop, autograph=False), "While")
    assert 4 * PRODUCT <= flops < 4 * PRODUCT + 50


def _update(kind):
    """A function of its own that updates a variable and reads it."""
    variable = tf.Variable(tf.ones((4, 4)))

    @tf.function(autograph=False)
    def function(x):
        if kind == "rows":
            variable.scatter_nd_add([[1]], x[:1])
        else:
            variable.assign_add(x)
        return x @ variable

    return function


@pytest.mark.parametrize("kind", ["rows", "all"])
@pytest.mark.parametrize("within", ["While", "If"])
def test_functions_that_write_variables_may_be_inside(kind, within) -> None:
    """The call waits for what the loop or branch was given, and a copy of the body knows no shapes."""
    update = _update(kind)

    def loop(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, update(x)), (0, x))[1]

    def branch(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: update(x), lambda: x)

    function = tf.function(loop if within == "While" else branch, autograph=False)
    trips = 3 if within == "While" else 1
    assert trips * PRODUCT <= _flops_of(function, within) < trips * (PRODUCT + 50)


def test_a_branch_counts_as_the_dearest() -> None:
    """tf.cond costs what its most expensive branch does."""

    def branch(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x + 1.0, lambda: x @ x)

    assert _flops_of(tf.function(branch, autograph=False), "If") == PRODUCT


def test_the_gradient_of_a_loop_runs_as_often() -> None:
    """A rolled LSTM in training: forward all products once, backward twice."""
    batch, steps, features, units = 4, 6, 8, 5
    model = keras.Sequential([keras.Input((steps, features)), keras.layers.LSTM(units)])
    model.compile("sgd", "mse")
    specs = tf.TensorSpec((batch, steps, features)), tf.TensorSpec((batch, units))
    graph = placer.tf.read(model, *specs, training=True)
    forward, backward = (
        graph.flops[i] for i, t in enumerate(graph.op_types) if t.endswith("While")
    )
    products = 2 * batch * (features + units) * 4 * units * steps
    assert products <= forward < 1.3 * products
    assert 2 * products <= backward < 2.3 * 1.2 * products


@pytest.mark.filterwarnings("error")
def test_a_loop_is_not_taken_in_silence() -> None:
    """Its launch overheads are not counted, so the reader is warned and told which ops they are."""

    def loop(x):
        return tf.while_loop(lambda i, _: i < 9, lambda i, x: (i + 1, x @ x), (0, x))[1]

    function = tf.function(loop, autograph=False)
    with pytest.warns(UserWarning, match="1 loops that are not unrolled.*one launch overhead"):
        reading = placer.tf.read_report(function, SQUARE)
    assert reading.loops == tuple(
        n
        for n, t in zip(reading.graph.op_names, reading.graph.op_types, strict=True)
        if "While" in t
    )
