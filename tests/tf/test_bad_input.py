"""What a user may get wrong is a clear error, whoever is asked, and leaves no process."""

from __future__ import annotations

import json
import os
import socket

import pytest
import tensorflow as tf
from typer.testing import CliRunner

import placer
from experiments.cli import app
from placer.cluster import Cluster, Device, Link
from placer.errors import PlacementError, PlacerError, ReadError, UsageError
from placer.tf import MeasuredEvaluator, _team, workers
from tests.tf.faults import children
from tests.tf.placing import four_cpus, random_placement

SQUARE = tf.TensorSpec((4, 4))


def _square(x):
    return tf.matmul(x, x)


def _until_large(x):
    return tf.while_loop(lambda x: tf.reduce_sum(x) < 1.0, lambda x: (x + x,), (x,))[0]


def _measure(function, *specs):
    with MeasuredEvaluator(function, four_cpus(), *specs):
        pass


def _apply(function, *specs):
    graph = placer.tf.read(_square, SQUARE)
    placer.tf.apply(function, random_placement(graph, 0), *specs)


def _place(function, *specs):
    placer.place(function, four_cpus(), specs=specs, strategy="random", evaluations=1)


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """After any test."""
    yield
    assert not children(os.getpid())


@pytest.mark.parametrize("ask", [placer.tf.read, _apply, _measure, _place])
@pytest.mark.parametrize(
    ("function", "specs", "message"),
    [
        (_square, (), "'_square' was never traced; expected a spec for each of its arguments"),
        (_square, (tf.TensorSpec((None, 4)),), r"input 'x' has shape \(None, 4\); expected all"),
        (_square, (tf.TensorSpec(None),), "input 'x' has unknown rank; expected all dimensions"),
        (_until_large, (SQUARE,), "loop 'while' .* a number of times that is not known before"),
        (_square, (SQUARE, SQUARE), "cannot trace .*too many positional arguments"),
        (None, (SQUARE,), "cannot read an object of type NoneType; expected a tf.function"),
    ],
    ids=["never traced", "unknown dimension", "unknown rank", "loop", "specs", "no function"],
)
def test_functions_that_cannot_be_read(ask, function, specs, message) -> None:
    """Whatever they are wanted for."""
    given = function and tf.function(function, autograph=False)
    with pytest.raises(ReadError, match=message):
        ask(given, *specs)


@pytest.mark.parametrize(
    "options", [{"reduce_retracing": True}, {"input_signature": [tf.TensorSpec((None, 4))]}]
)
def test_a_trace_for_any_shape_does_not_hide_the_one_in_the_specs(options) -> None:
    """TensorFlow would take it for them; arguments keep their names."""

    def product(x):
        return tf.matmul(x, tf.ones((4, 4)))

    function = tf.function(product, autograph=False, **options)
    function.get_concrete_function(tf.TensorSpec((None, 4)))
    graph = placer.tf.read(function, tf.TensorSpec((8, 4)))
    assert graph == placer.tf.read(tf.function(product, autograph=False), tf.TensorSpec((8, 4)))
    placed = placer.tf.apply(function, random_placement(graph, 0), tf.TensorSpec((8, 4)))
    assert placed(x=tf.ones((8, 4))).numpy().tolist() == [[4.0] * 4] * 8


def test_placements_of_another_function() -> None:
    """It is said what differs, before any device is looked at."""
    placement = random_placement(placer.tf.read(_square, SQUARE), 0)
    with pytest.raises(PlacementError, match="another graph than .* the graph lacks 'MatMul'"):
        placer.tf.apply(lambda x: x + x, placement, SQUARE)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (workers, "_SERVING", "worker 0 did not start: the process was killed"),
        (_team, "_MEASURING", "the process that measures did not start: the process was killed"),
    ],
    ids=["worker", "measuring"],
)
def test_processes_that_are_killed_while_they_start(monkeypatch, module, name, message) -> None:
    """A worker, and the process that measures; those that did start are ended."""
    monkeypatch.setattr(module, name, "tests.tf.dying")
    names = ("cpu:0", "cpu:1")
    two = Cluster("two", tuple(Device(name, "cpu") for name in names), (Link(names, 1e9),))
    with pytest.raises(PlacerError, match=message):
        MeasuredEvaluator(_square, two, SQUARE, workers=2)


def test_devices_that_workers_do_not_have() -> None:
    """It is said which ones they have, and they end."""
    one = Cluster("one", (Device("cpu:0", "cpu"),))
    with pytest.raises(UsageError, match="no device '/job:worker/.*GPU:0'; it has: .*CPU:0"):
        MeasuredEvaluator(
            _square, one, SQUARE, workers=1, devices=["/job:worker/task:0/device:GPU:0"]
        )


def _error_of(*arguments: str) -> str:
    """The one line with which the command line refuses."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    return line


def test_a_port_in_use_on_the_command_line() -> None:
    """One line says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = _error_of("worker", "--port", str(port))
    assert line == f"error: a server cannot listen on port {port}: it may be in use"


def test_a_placement_of_another_function_on_the_command_line(tmp_path) -> None:
    """One line says what differs."""
    four_cpus().save(tmp_path / "c.toml")
    content = {"format": "placer.placement/1", "devices": {"a": "cpu:0"}}
    (tmp_path / "p.json").write_text(json.dumps(content))
    sizes = {"batch_size": 2, "num_steps": 2, "num_layers": 1, "num_units": 8, "vocabulary": 20}
    line = _error_of(
        *("measure", "--workload", "rnnlm", *(f"--size={k}={v}" for k, v in sizes.items())),
        *("--cluster", str(tmp_path / "c.toml"), "--placement", str(tmp_path / "p.json")),
    )
    assert "p.json: made for another graph than 'train_step'" in line
    assert line.endswith("the graph lacks 'a'")
