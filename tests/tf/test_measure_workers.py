"""Step times are measured on workers: processes on this machine, and servers that are there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from placer.cluster import Cluster, Device, Link
from placer.errors import PlacerError, UsageError
from placer.tf import LocalWorkers, _team, _throttle, workers
from placer.tf._processes import Process
from placer.tf.measure import MeasuredEvaluator
from placer.tf.servers import start_server
from tests.tf.faults import children

NAMES = ("worker:0", "worker:1")
TWO = Cluster("two-workers", tuple(Device(n, "cpu") for n in NAMES), (Link(NAMES, 1e9),))
SQUARE = tf.TensorSpec((8, 8))


def product(x):
    return tf.matmul(x, tf.matmul(x, x))


@pytest.fixture(autouse=True)
def _no_process_is_left():
    """After any test."""
    assert not children(os.getpid())
    yield
    assert not children(os.getpid())


def test_workers_that_fail_are_replaced(monkeypatch) -> None:
    """One that crashes, and one that hangs; other placements on both have their step times."""
    monkeypatch.setenv("FAULTS", json.dumps({"1,0": "worker crashes", "1,1": "worker hangs"}))
    monkeypatch.setattr(_team, "_MEASURING", "tests.tf.faults")
    options = {"workers": 2, "warmup": 1, "steps": 3, "seconds_limit": 5}
    with MeasuredEvaluator(product, TWO, SQUARE, **options) as evaluator:
        before = children(os.getpid())
        assert len(before) == 3
        placements = np.zeros((4, evaluator.graph.num_ops), np.int32)
        placements[1, 0] = 1
        placements[2, 1:] = 1
        placements[3, :2] = 1
        found = evaluator.evaluate(placements[:3])
        assert found.feasible.tolist() == [True, False, True]
        assert found.reasons[1].startswith("worker 1: the process was killed")
        assert len(children(os.getpid())) == 3
        assert not set(children(os.getpid())) & set(before)
        assert evaluator.evaluate(placements[3:]).reasons == ["no result within 5 s"]
        assert not children(os.getpid())


def test_workers_that_are_there_already(tmp_path) -> None:
    """They stay, and nothing of a placement does on them; a device that they lack is an error."""
    counter = tf.Variable(7.0)

    def step():
        count = counter.assign_add(1.0)
        tf.debugging.Assert(count < 12, [count])
        return tf.square(count)

    servers = [
        Process("placer.tf._serving", "--core", "0", log=tmp_path / f"{i}.log") for i in range(2)
    ]
    try:
        addresses = [server.ask(None, 60).address for server in servers]
        with MeasuredEvaluator(step, TWO, workers=addresses, warmup=1, steps=3) as evaluator:
            placements = np.zeros((2, evaluator.graph.num_ops), np.int32)
            placements[1, evaluator.graph.op_index["Square"]] = 1
            assert evaluator.evaluate(placements).reasons == [None, None]
        assert all(server.alive for server in servers)
        devices = ["/job:worker/task:0/device:CPU:0", "/job:worker/task:2/device:CPU:0"]
        with pytest.raises(UsageError, match=r"no device '/job:worker/.*task:2/.*it has: .*task:1"):
            MeasuredEvaluator(product, TWO, SQUARE, workers=addresses, devices=devices)
    finally:
        for server in servers:
            server.kill()
    with pytest.raises(PlacerError, match=f"worker '{addresses[0]}' cannot be reached"):
        MeasuredEvaluator(product, TWO, SQUARE, workers=addresses)


def test_a_worker_that_cannot_start(monkeypatch) -> None:
    monkeypatch.setattr(workers, "_SERVING", "tests.tf.there_is_no_such_module")
    with pytest.raises(PlacerError, match="worker 0 did not start: .* exit status 1: .*No module"):
        MeasuredEvaluator(product, TWO, SQUARE, workers=2)


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlacerError, match=f"cannot listen on port {port}: it may be in use"):
            start_server(port)
    with pytest.raises(UsageError, match="port is 65536"):
        start_server(65536)


def test_a_server_is_reached_over_the_loopback_interface_only() -> None:
    """TensorFlow listens on all addresses; the kernel keeps what comes from elsewhere out."""
    script = """
import os, socket
from placer.tf.servers import _listeners, address_of, start_server
def tied_to(listener):
    return listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).decode().strip(chr(0))
own = socket.create_server(("127.0.0.1", 0))
server = start_server()
assert tied_to(own) == "", "what else listens in this process is left alone"
for descriptor in _listeners() - {own.fileno()}:
    listener = socket.socket(fileno=os.dup(descriptor))
    print(tied_to(listener), listener.getsockname()[1], address_of(server))
address, _, port = address_of(server).rpartition(":")
socket.create_connection((address, int(port)), 5).close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # it listens once
    interface, port, address = line.split()
    assert (interface, address) == ("lo", f"127.0.0.1:{port}")


def test_a_throttled_process(tmp_path) -> None:
    """It is stopped and continued by turns, and the throttle ends with it."""
    script = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-I", "-S", {_throttle.__file__!r}, str(os.getpid()), "0.5"])
while True:
    time.sleep(0.001)
"""
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            stat = Path(f"/proc/{process.pid}/stat")
            states = set()
            deadline = time.monotonic() + 20
            while not {"T", "S"} <= states:
                assert time.monotonic() < deadline, states
                states.add(stat.read_text().rpartition(")")[2].split()[0])
            (throttle,) = (
                Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            )
        finally:
            process.kill()
    while Path(f"/proc/{throttle}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bad_shares() -> None:
    for count, shares in ((2, (1,)), (1, (0,)), (0, None)):
        with pytest.raises(UsageError, match="workers"):
            LocalWorkers(count, shares=shares)
