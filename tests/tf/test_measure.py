"""Step times are measured in another process, which may fail without harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import placer.tf
from placer.cluster import Cluster, Device, Link
from placer.errors import PlacementError, PlacerError, ReadError, UsageError
from placer.grouping import group_ops
from placer.placement import Placement
from placer.problem import Problem
from placer.search import random
from placer.tf import _team
from placer.tf.measure import MeasuredEvaluator
from tests.tf.faults import children
from tests.tf.placing import NUM_DEVICES, four_cpus, random_placement

SQUARE = tf.TensorSpec((8, 8))
BRIEF = {"warmup": 1, "steps": 3}


def product(x):
    return tf.matmul(x, tf.matmul(x, x))


def _cpus(number: int) -> Cluster:
    names = tuple(f"cpu:{i}" for i in range(number))
    links = (Link(names, 1e9),) if number > 1 else ()
    return Cluster("cpus", tuple(Device(n, "cpu") for n in names), links)


def _distinct(number: int, evaluator: MeasuredEvaluator) -> np.ndarray:
    """Placements that differ, none of which starts with device 3."""
    shape = (number, evaluator.graph.num_ops)
    placements = np.random.default_rng(0).integers(0, NUM_DEVICES, shape, dtype=np.int32)
    placements[:, 0] = np.arange(number) % 3
    assert len(np.unique(placements, axis=0)) == number
    return placements


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """After any test."""
    assert not children(os.getpid())
    yield
    assert not children(os.getpid())


@pytest.fixture
def faulty(monkeypatch):
    """Has the process that measures fail under placements that start with some devices."""

    def install(**faults: str) -> None:
        by_devices = {",".join(key[1:]): fault for key, fault in faults.items()}  # d31 is "3,1"
        monkeypatch.setenv("FAULTS", json.dumps(by_devices))
        monkeypatch.setattr(_team, "_MEASURING", "tests.tf.faults")

    return install


def test_a_search_runs_on_measured_step_times(tmp_path) -> None:
    """Each placement is measured once, and logged with all that was seen."""
    log = tmp_path / "log.jsonl"
    with MeasuredEvaluator(product, four_cpus(), SQUARE, **BRIEF, log=log) as evaluator:
        graph = evaluator.graph
        assert graph == placer.tf.read(product, SQUARE)
        problem = Problem(graph, evaluator.cluster, group_ops(graph), evaluator)
        result = random.search(problem, evaluations=6, seed=0)
        best = Placement(graph, evaluator.cluster, problem.expand(result.choices))
        known = evaluator.measure(best)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len({tuple(line["devices"]) for line in lines}) == len(lines) <= 6
        again = evaluator.measure(best, again=True)
        assert len(log.read_text().splitlines()) == len(lines) + 1
        assert evaluator.measure(best) is again is not known
    assert known.step_time_seconds == result.step_time_seconds == np.median(known.step_seconds)
    assert 0 < result.step_time_seconds < 60
    assert (len(known.warmup_seconds), len(known.step_seconds)) == (1, 3)
    assert 0 <= known.spread_seconds <= max(known.step_seconds) - min(known.step_seconds)


def test_a_step_starts_from_the_present_values() -> None:
    """Of variables and inputs; it updates its variables, but not those here."""
    counter = tf.Variable(7.0)

    def step(limits):
        count = counter.assign_add(1.0)
        tf.debugging.Assert(count < limits[0], [count, limits[0]])
        return count

    limits = [np.array([11, 0], np.float32)]
    with MeasuredEvaluator(
        step, _cpus(2), tf.TensorSpec((2,)), inputs=limits, **BRIEF
    ) as evaluator:
        found = evaluator.evaluate(np.ones((1, evaluator.graph.num_ops), np.int32))
    assert found.reasons == ["InvalidArgumentError: assertion failed: [11] [11]"]  # the fourth step
    assert float(counter) == 7


def test_failures_are_named_and_the_run_goes_on(faulty) -> None:
    """Three in ten crash, hang or run out of memory; the others have their step times."""
    faulty(d31="crash", d32="hang", d33="memory")
    with MeasuredEvaluator(product, four_cpus(), SQUARE, **BRIEF, seconds_limit=5) as evaluator:
        placements = _distinct(10, evaluator)
        failing = {
            1: "the process ended with SIGSEGV",
            4: "no result within 5 s",
            8: "MemoryError",
        }
        for device, row in enumerate(failing, start=1):
            placements[row, :2] = 3, device
        found = evaluator.evaluate(placements)
        reasons = {row: reason for row, reason in enumerate(found.reasons) if reason is not None}
        assert reasons == failing
        assert np.flatnonzero(~found.feasible).tolist() == list(failing)
        assert np.isfinite(found.step_time_seconds).tolist() == found.feasible.tolist()
        assert evaluator.evaluate(placements).reasons == found.reasons  # at once: all is known


def test_an_op_without_a_kernel() -> None:
    """It is named, and the process stays, as nothing was run."""

    def step(x):
        return tf.raw_ops.CudnnRNN(
            input=x, input_h=x[:1], input_c=x[:1], params=tf.zeros(100), rnn_mode="lstm"
        )[0]

    with MeasuredEvaluator(step, _cpus(1), tf.TensorSpec((2, 2, 2)), **BRIEF) as evaluator:
        before = children(os.getpid())
        found = evaluator.evaluate(np.zeros((1, evaluator.graph.num_ops), np.int32))
        assert children(os.getpid()) == before
    assert "'CudnnRNN' is placed on" in found.reasons[0]


def test_an_interrupt_ends_the_process(faulty) -> None:
    """At once, whatever it does."""
    faulty(d3="hang")
    with MeasuredEvaluator(product, four_cpus(), SQUARE, **BRIEF) as evaluator:
        placements = np.full((1, evaluator.graph.num_ops), 3, np.int32)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        # a shell has what it runs in the background ignore interrupts
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            evaluator.evaluate(placements)
        timer.join()
        signal.signal(signal.SIGINT, before)
        assert not children(os.getpid())


def test_processes_end_with_the_one_that_started_them(tmp_path) -> None:
    """Also where that is killed, and whatever they are doing."""
    script = """
import os, pathlib, signal, sys
from placer.tf._processes import Process
folder = pathlib.Path(sys.argv[1])
server = Process("placer.tf._serving", "--core", "0", log=folder / "server.log")
measuring = Process("placer.tf._measuring", str(folder), log=folder / "measuring.log")
server.ask(None, 60)
print(server.pid, measuring.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [Path("/proc", pid, "cmdline") for pid in done.stdout.split()]
    assert len(left) == 2
    deadline = time.monotonic() + 20
    while any(path.exists() and path.read_text() for path in left):  # a zombie has none
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"devices": ["CPU:0", "CPU:9"]}, UsageError, "no device '/device:CPU:9'"),
        ({"workers": 3}, UsageError, "3 workers for the 2 devices of cluster 'cpus'"),
        ({"workers": -1}, UsageError, "workers is -1"),
        ({"workers": [1, 2]}, UsageError, r"workers is \[1, 2\]"),
        ({"workers": ["a:1", "a:1"]}, UsageError, "expected each of them once"),
        ({"workers": ["nowhere", "x"]}, UsageError, "'nowhere' is no address"),
        ({"steps": 0}, UsageError, "steps 0"),
        ({"steps": 1.5}, UsageError, "steps 1.5; expected whole numbers"),
        ({"seconds_limit": 0}, UsageError, "seconds_limit is 0"),
        ({"seconds_limit": float("inf")}, UsageError, "seconds_limit is inf; expected more than 0"),
        ({"inputs": [1, 2]}, UsageError, "inputs has 2 tensors; expected 1"),
        ({"inputs": [np.ones((1, 1))]}, UsageError, r"'x' has shape \(1, 1\)"),
        ({"inputs": ["a"]}, UsageError, "input 'x'"),
    ],
)
def test_bad_options(options, error, match) -> None:
    with pytest.raises(error, match=match):
        MeasuredEvaluator(product, _cpus(2), SQUARE, **options)


def test_bad_functions() -> None:
    with pytest.raises(ReadError, match="never traced"):
        MeasuredEvaluator(product, _cpus(2))
    graph_def = tf.function(product).get_concrete_function(SQUARE).graph.as_graph_def()
    with pytest.raises(ReadError, match="a GraphDef does not say its arguments"):
        MeasuredEvaluator(graph_def, _cpus(2))


def test_bad_placements() -> None:
    """Of another function, of another shape, after the end."""
    with MeasuredEvaluator(product, four_cpus(), SQUARE, **BRIEF) as evaluator:
        other = placer.tf.read(lambda x: x + 1, SQUARE)
        with pytest.raises(PlacementError, match="made for another graph"):
            evaluator.measure(random_placement(other, 0))
        zeros = np.zeros(evaluator.graph.num_ops, np.int32)
        with pytest.raises(PlacementError, match="has shape"):
            evaluator.evaluate(zeros[None, 1:])
        with pytest.raises(PlacementError, match=r"expected \(batch,"):
            evaluator.evaluate(zeros)
        known = evaluator.evaluate(zeros[None])
    np.testing.assert_array_equal(
        evaluator.evaluate(zeros[None]).step_time_seconds, known.step_time_seconds
    )
    with pytest.raises(UsageError, match="is closed"):
        evaluator.evaluate(zeros[None] + 1)


def test_a_process_that_cannot_start(monkeypatch) -> None:
    monkeypatch.setattr(_team, "_MEASURING", "tests.tf.there_is_no_such_module")
    with pytest.raises(PlacerError, match="measures did not start: .* exit status 1: .*No module"):
        MeasuredEvaluator(product, _cpus(2), SQUARE)


def test_a_process_that_is_told_nonsense_ends() -> None:
    """With a traceback as its last words, though its standard input stays open."""
    code = (
        "from placer.tf import _wire; print(_wire.receive(_wire.decode_message).get(), flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(len(b"{}").to_bytes(4, "big") + b"{}")
        process.stdin.flush()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert b"ValidationError" in process.stderr.read()
