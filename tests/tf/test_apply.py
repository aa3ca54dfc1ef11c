"""A placed function computes what the original computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import placer.tf
from experiments.workloads import get_workload
from placer.errors import PlacementError, ReadError, UsageError
from placer.placement import Placement
from tests.tf.placing import CPUS, SMALL, four_cpus, random_batch, random_placement

SQUARE = tf.TensorSpec((4, 4))


def _place(function, *specs, seed: int = 0, read: dict | None = None, **options):
    """The function under a random placement."""
    read = read or {}
    graph = placer.tf.read(function, *specs, **read)
    return placer.tf.apply(function, random_placement(graph, seed, **options), *specs, **read)


@pytest.fixture
def _without_grappler():
    """TensorFlow runs functions as they are, so that the numbers are the same to the last bit."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def _train(step, batches, variables, start) -> tuple[list[float], list[np.ndarray]]:
    """The losses and, after the last batch, the variables."""
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    return [float(step(*batch)) for batch in batches], [v.numpy() for v in variables]


def _devices_in_function(placed, batch) -> dict[str, str]:
    """Where TensorFlow has each op of a placed function that was not called yet."""
    eager = context.context()
    eager.enable_run_metadata()
    eager.export_run_metadata()  # forgets what ran before
    placed(*batch)
    functions = eager.export_run_metadata().function_graphs
    eager.disable_run_metadata()
    function = max(functions, key=lambda f: len(f.pre_optimization_graph.node))  # not the copying
    return {n.name: n.device for graph in function.partition_graphs for n in graph.node}


@pytest.mark.parametrize("order", ["fifo", "priority"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("_without_grappler")
def test_a_placed_training_step_trains_the_same(name, order) -> None:
    """Three losses and then every variable are those of the original, to the last bit.

    Every op runs where it was asked, but small constants, which TensorFlow copies; that is so in
    the session that is traced and in the function itself.
    """
    keras.utils.set_random_seed(0)
    step, specs = get_workload(name).build(**SMALL[name])
    variables = step.get_concrete_function(*specs).variables
    start = [v.numpy() for v in variables]
    batches = [random_batch(specs, seed) for seed in range(3)]
    losses, trained = _train(step, batches, variables, start)
    assert sum(not np.array_equal(a, b) for a, b in zip(start, trained, strict=True)) > 5
    placed = _place(step, *specs, order=order)
    devices = _devices_in_function(placed, batches[0])
    placed_losses, placed_variables = _train(placed, batches, variables, start)
    assert placed_losses == losses
    for variable, value, expected in zip(variables, placed_variables, trained, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=variable.name)
    report = placer.tf.verify(placed, *batches[0], strict=True)
    assert not report.moved
    assert not report.dropped
    assert {op.type for op in report.copied} <= {"Const"}
    assert all(devices[op.name] == op.asked for op in report.ops if not op.copied)
    assert {device for op in report.ops if op.as_asked for device in op.ran} == set(CPUS)


@pytest.mark.parametrize("name", SMALL)
def test_a_placed_training_step_trains_as_tensorflow_would(name) -> None:
    """With all that TensorFlow does to make the original fast, the numbers differ by roundings."""
    keras.utils.set_random_seed(0)
    step, specs = get_workload(name).build(**SMALL[name])
    variables = step.get_concrete_function(*specs).variables
    start = [v.numpy() for v in variables]
    batches = [random_batch(specs, seed) for seed in range(3)]
    losses, trained = _train(step, batches, variables, start)
    placed_losses, placed_variables = _train(_place(step, *specs), batches, variables, start)
    np.testing.assert_allclose(placed_losses, losses, rtol=1e-5)
    for variable, value, expected in zip(variables, placed_variables, trained, strict=True):
        np.testing.assert_allclose(value, expected, 1e-4, 1e-5, err_msg=variable.name)


def test_calls_are_those_of_the_original() -> None:
    """Positional and named arguments, defaults, structures, and numbers that were fixed."""

    @tf.function(autograph=False)
    def function(pair, scale=2.0, *, named, flag=None):
        first, second = pair["first"], pair["second"]
        return {"sum": (first + second) * scale, "rest": [named - first, flag, 7]}

    specs = {"first": SQUARE, "second": SQUARE}, 3.0
    concrete = function.get_concrete_function(*specs, named=SQUARE)
    placed = _place(concrete)
    one, two = np.ones((4, 4), np.float32), np.full((4, 4), 2.0, np.float32)
    arguments = {"first": one, "second": tf.constant(two)}
    for result in (placed(arguments, named=two), placed(arguments, 3.0, named=two)):
        assert sorted(result) == ["rest", "sum"]
        np.testing.assert_array_equal(result["sum"], 3 * (one + two))
        np.testing.assert_array_equal(result["rest"][0], two - one)
        assert result["rest"][1:] == [None, 7]
    with pytest.raises(TypeError, match="missing a required argument: 'named'"):
        placed(arguments)
    with pytest.raises(TypeError, match="4.0"):
        placed(arguments, 4.0, named=two)
    assert not placer.tf.verify(placed, arguments, named=two).moved


@pytest.mark.usefixtures("_without_grappler")
def test_a_keras_training_step_is_placed(compiled_model) -> None:
    """Logs, weights, moments, moving averages and metrics are those of the model's own step."""
    specs = tf.TensorSpec((4, 8)), tf.TensorSpec((4,), tf.int32)
    batches = [random_batch(specs, seed) for seed in range(2)]
    placed = _place(compiled_model, *specs, read={"training": True})
    step = tf.function(lambda *batch: compiled_model.train_step(batch), autograph=False)
    variables = [
        *compiled_model.weights,
        *compiled_model.optimizer.variables,
        *compiled_model.metrics_variables,
    ]
    start = [v.numpy() for v in variables]
    results = []
    for function in (step, placed):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        logs = [tf.nest.map_structure(float, function(*batch)) for batch in batches]
        results.append((logs, [v.numpy().tolist() for v in variables]))
    assert results[0] == results[1]
    assert results[0][0][0] != results[0][0][1]


def test_branches_that_tensorflow_specializes_are_placed() -> None:
    """As where a Keras optimizer does something every few steps."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_overwrite_frequency=2), "mse")
    specs = tf.TensorSpec((4, 3)), tf.TensorSpec((4, 2))
    placed = _place(model, *specs, read={"training": True})
    losses = [float(placed(*random_batch(specs))["loss"]) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_the_first_trace_of_a_model_is_as_all_others() -> None:
    """Its optimizer is not built then; ops have the same names nevertheless."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    specs = tf.TensorSpec((4, 3)), tf.TensorSpec((4, 2))
    first, second = (placer.tf.read(model, *specs, training=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.gather_nd(x, [[0, 1]]),
        lambda x: tf.nn.space_to_depth(tf.reshape(x, (1, 4, 4, 1)), 2),
        lambda x: tf.math.approx_max_k(x, 2)[0],
    ],
)
def test_kernels_may_be_for_some_values_of_attributes(function) -> None:
    """These have others for XLA; the op runs where it was placed."""
    x = random_batch([SQUARE])[0]
    assert np.array_equal(_place(function, SQUARE)(x), function(x))


def test_a_saved_model_is_placed(small_model, tmp_path) -> None:
    """Its signature, from a folder, under the names of its inputs and outputs."""
    small_model.export(tmp_path / "saved", verbose=False)
    features = random_batch([tf.TensorSpec((4, 8))])[0]
    placed = _place(tmp_path / "saved", {"features": tf.TensorSpec((4, 8))})
    (result,) = placed({"features": features}).values()
    np.testing.assert_allclose(result, small_model(features), rtol=1e-5)


def test_variables_are_the_users_own() -> None:
    """A call sees what was assigned before it, and what it writes is there after it."""
    here, there = tf.Variable(tf.ones((4, 4))), tf.Variable(tf.ones((4, 4)))

    @tf.function(autograph=False)
    def function(x):
        here.assign_add(x)
        there.assign_add(2.0 * x)
        return here + there

    graph = placer.tf.read(function, SQUARE)
    on_there = graph.op_index[_handle_of(graph, 1)]
    group = graph.colocation_group
    devices = np.where(group == group[on_there], 2, 0)
    placed = placer.tf.apply(function, Placement(graph, four_cpus(), devices), SQUARE)
    ones = tf.ones((4, 4))
    np.testing.assert_array_equal(placed(ones), np.full((4, 4), 5.0))
    assert float(here[0, 0]) == 2.0
    assert float(there[0, 0]) == 3.0
    there.assign(tf.zeros((4, 4)))
    here.assign(tf.zeros((4, 4)))
    np.testing.assert_array_equal(placed(ones), np.full((4, 4), 3.0))
    with placed.hold_variables():
        for _ in range(2):
            placed(ones)
        assert float(here[0, 0]) == 3.0  # in place
        assert float(there[0, 0]) == 2.0  # the twin is ahead
    assert float(there[0, 0]) == 6.0


def _handle_of(graph, index: int) -> str:
    handles = [n for n, t in zip(graph.op_names, graph.op_types, strict=True) if t == "VarHandleOp"]
    return handles[index]


def test_a_call_that_fails_leaves_the_variables() -> None:
    """What TensorFlow refuses changes nothing, and the next call works."""
    variable = tf.Variable(tf.ones((4, 4)))

    @tf.function(autograph=False)
    def function(x):
        with tf.control_dependencies([tf.debugging.assert_positive(x)]):
            return variable.assign_add(x)

    placed = _place(function, SQUARE)
    with pytest.raises(tf.errors.InvalidArgumentError):
        placed(-tf.ones((4, 4)))
    assert float(variable[0, 0]) == 1.0
    placed(tf.ones((4, 4)))
    assert float(variable[0, 0]) == 2.0


@pytest.mark.filterwarnings("ignore:graph .* loops that are not unrolled")
def test_loops_and_branches_run_on_one_device() -> None:
    """They stay one op each, and give what they gave."""

    @tf.function(autograph=False)
    def function(x):
        x = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x @ x / 4.0), (0, x))[1]
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: x + 1.0, lambda: x - 1.0)

    placed = _place(function, SQUARE)
    x = random_batch([SQUARE])[0]
    np.testing.assert_allclose(placed(x), function(x), rtol=1e-5)
    report = placer.tf.verify(placed, x, strict=True)
    assert {"StatelessWhile", "StatelessIf"} <= {op.type for op in report.ops if op.as_asked}


def _two_products(x):
    return x @ x + x @ x


def _while_forever(x):
    return tf.while_loop(lambda x: tf.reduce_sum(x) < 1.0, lambda x: (x + x,), (x,))[0]


def test_bad_targets_are_refused() -> None:
    """Each message says what was given and what was expected."""
    graph = placer.tf.read(_two_products, SQUARE)
    placement = random_placement(graph, 0)
    never_traced = tf.function(_two_products)
    with pytest.raises(ReadError, match="never traced; expected a spec for each"):
        placer.tf.apply(never_traced, placement)
    with pytest.raises(ReadError, match=r"shape \(None, 4\); expected all dimensions"):
        placer.tf.apply(_two_products, placement, tf.TensorSpec((None, 4)))
    with pytest.raises(ReadError, match="runs a number of times that is not known"):
        placer.tf.apply(_while_forever, placement, SQUARE)
    graph_def = never_traced.get_concrete_function(SQUARE).graph.as_graph_def()
    with pytest.raises(ReadError, match=r"does not say its arguments.*apply_to_graph_def"):
        placer.tf.apply(graph_def, placement)
    variable = tf.Variable(tf.ones((4, 4)))
    takes_variable = tf.function(lambda v: v + 1.0).get_concrete_function(variable)
    with pytest.raises(ReadError, match="is a variable; expected the function to capture it"):
        placer.tf.apply(takes_variable, placement)


def test_bad_devices_are_refused() -> None:
    """The message lists the devices that TensorFlow has."""
    graph = placer.tf.read(_two_products, SQUARE)
    placement = random_placement(graph, 0)
    cases = {
        "CPU:0 CPU:1 CPU:2 GPU:7": "no device '/device:GPU:7' for 'cpu:3' of cluster 'four-cpus'; "
        "it has: .*CPU:0, .*CPU:3; devices=",
        "CPU:0 CPU:1 CPU:2": "expected the names of 4 TensorFlow devices",
        "CPU:0 CPU:1 CPU:2 CPU:2": "'/device:CPU:2' is given twice",
        "CPU:0 CPU:1 CPU:2 third": "'third' is no name of a TensorFlow device",
        "CPU:0 CPU:1 CPU:2 /job:there/task:1/device:CPU:0": "has no device '/job:there",
    }
    for devices, message in cases.items():
        with pytest.raises(UsageError, match=message):
            placer.tf.apply(_two_products, placement, SQUARE, devices=devices.split())
    other = placer.Cluster.load("k80x2")
    with pytest.raises(UsageError, match="no device '/device:GPU:0' for 'gpu:0' of cluster"):
        placer.tf.apply(_two_products, Placement(graph, other, [0] * graph.num_ops), SQUARE)


def test_placements_of_another_graph_are_refused() -> None:
    """By other ops, or by other figures of the same ops."""
    graph = placer.tf.read(_two_products, SQUARE)
    with pytest.raises(PlacementError, match="other figures or edges"):
        placer.tf.apply(_two_products, random_placement(graph, 0), tf.TensorSpec((5, 5)))
    with pytest.raises(PlacementError, match="made for another graph"):
        placer.tf.apply(lambda x: x * 2.0, random_placement(graph, 0), SQUARE)


def test_ops_without_a_kernel_are_refused() -> None:
    """An op that runs on GPUs alone cannot be placed on a CPU."""

    def function(x):
        weights = tf.zeros((80,))
        return tf.raw_ops.CudnnRNN(input=x, input_h=x[:1], input_c=x[:1], params=weights).output

    with pytest.raises(PlacementError, match=r"'CudnnRNN' is placed on .*CPU.* on GPU only"):
        _place(function, tf.TensorSpec((1, 4, 4)))


def test_variables_that_one_op_uses_stay_together() -> None:
    """A placement that parts them is refused before TensorFlow refuses it."""
    first, second = tf.Variable(tf.ones((4, 4))), tf.Variable(tf.ones((4, 4)))

    def function(x):
        tf.raw_ops.ResourceApplyMomentum(
            var=first.handle, accum=second.handle, lr=0.1, grad=x, momentum=0.9
        )
        return x + 1.0

    graph = placer.tf.read(function, SQUARE)
    devices = np.zeros(graph.num_ops, np.int32)
    devices[graph.op_index[_handle_of(graph, 1)]] = 3
    with pytest.raises(PlacementError, match="uses .* on .*CPU:0 and .* on .*CPU:3; expected"):
        placer.tf.apply(function, Placement(graph, four_cpus(), devices), SQUARE)


def test_a_placed_function_is_not_traced() -> None:
    """Inside another function TensorFlow would do with its ops what it likes."""
    placed = _place(_two_products, SQUARE)
    with pytest.raises(UsageError, match="expected a call from outside"):
        tf.function(lambda x: placed(x), autograph=False)(tf.ones((4, 4)))
