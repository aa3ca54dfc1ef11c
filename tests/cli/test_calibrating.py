"""``placer profile`` and ``placer calibrate``."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

import placer as package
from placer.cluster import Cluster, Device, Link
from placer.graph import Op, OpGraph
from placer.tf import LocalWorkers
from tests.tf.small import small_measurements

SIZES = {"batch_size": 2, "num_steps": 2, "num_layers": 1, "num_units": 8, "vocabulary": 20}
RNNLM = ("profile", "--workload", "rnnlm", *(f"--size={k}={v}" for k, v in SIZES.items()))


def test_profiles_and_calibrates(placer, folder: Path, monkeypatch) -> None:
    """What one command writes the next one reads, and simulates with."""
    small_measurements(monkeypatch)
    with LocalWorkers(1) as workers:
        on = ("--workers", workers[0])
        result = placer(*RNNLM, *on, "--steps", "2", "--runs", "1", "--out", "g.json.gz", "--json")
        assert result.exit_code == 0, result.output
        summary = json.loads(result.stdout)
        result = placer("calibrate", "g.json.gz", *on, "--out", "one.toml")
        assert result.exit_code == 0, result.output
    assert Cluster.load("one.toml").addresses == (on[1],)
    graph = package.OpGraph.load("g.json.gz")
    timed = [known["worker:0"] for known in graph.seconds if known]
    assert summary == {
        "graph": "rnnlm",
        "num_ops": graph.num_ops,
        "models": {
            "worker:0": {"num_ops": len(timed), "seconds": pytest.approx(sum(timed), rel=1e-9)}
        },
        "path": "g.json.gz",
    }
    assert "worker:0: " in result.stdout
    assert "median error" in result.stdout
    simulated = placer(
        *("simulate", "--graph", "g.json.gz", "--cluster", "one.toml"),
        *("--placement-devices", "worker:0", "--json"),
    )
    step_time = json.loads(simulated.stdout)["step_time_seconds"]
    assert step_time == pytest.approx(sum(timed), abs=1e-9 * graph.num_ops)


def test_the_workers_are_those_of_the_cluster_file(placer, folder: Path) -> None:
    """Unless others are given."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in free]
    names, addresses = ("a", "b"), [f"127.0.0.1:{port}" for port in ports]
    device = Device("", "cpu", "m", flops=1e9, memory_bandwidth=1e9)
    devices = [replace(device, name=n, address=a) for n, a in zip(names, addresses, strict=True)]
    Cluster("hosts", devices, (Link(names, 1e9),)).save("hosts.toml")
    known = Op("op", "Relu", bytes_accessed=8, seconds={"m": 1e-6})
    OpGraph.from_ops("known", [known]).save("known.json")
    calibrate = ("calibrate", "known.json", "--cluster", "hosts.toml", "--out", "new.toml")
    profile = (*RNNLM, "--cluster", "hosts.toml", "--out", "new.json")
    for command in (calibrate, profile):
        for options, worker in ((), addresses[0]), (("--workers", "nowhere,b"), "nowhere"):
            result = placer(*command, *options)
            assert result.exit_code == 2
            assert f"worker '{worker}'" in result.stderr
    assert not list(Path().glob("new.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*RNNLM, "--out", "g.txt"), "g.txt: unknown suffix; expected .json or .json.gz"),
        ((*RNNLM, "--out", "g.json", "--size", "units=3"), "--size units=3"),
        ((*RNNLM, "--out", "g.json", "--devices", "GPU:7"), "no device '/device:GPU:7'"),
        ((*RNNLM, "--out", "g.json", "--workers", "nowhere"), "'nowhere' is no address"),
        ((*RNNLM, "--out", "g.json", "--cluster", "c.toml"), "no device '/device:GPU:0'"),
        (("profile", "--workload", "rnn", "--out", "g.json"), "did you mean 'rnnlm'"),
        (("calibrate", "--out", "c.json"), "c.json: unknown suffix; expected .toml"),
        (("calibrate", "g.json", "--out", "new.toml", "--cluster", "c.toml"), "has seconds for"),
        (("calibrate", "no.json", "--out", "new.toml"), "no.json: no such file"),
        (("calibrate", "--out", "new.toml", "--cluster", "c.toml"), "nothing to fit"),
    ],
)
def test_bad_input_is_one_line(placer, folder: Path, arguments, message: str) -> None:
    """And nothing is written."""
    before = sorted(folder.iterdir())
    result = placer(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert sorted(folder.iterdir()) == before
