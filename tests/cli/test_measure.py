"""``placer measure`` and ``placer worker``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.workloads import get_workload
from placer import tf
from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.placement import Placement
from placer.tf import MeasuredEvaluator, Measurement, _team
from placer.tf.profile import with_seconds

SIZES = {"batch_size": 2, "num_steps": 2, "num_layers": 1, "num_units": 8, "vocabulary": 20}
RNNLM = (
    "measure",
    "--workload",
    "rnnlm",
    "--patience",
    "0",
    *(f"--size={k}={v}" for k, v in SIZES.items()),
)
CLUSTER = """
format = "placer.cluster/1"
name = "one"
[[devices]]
name = "cpu:0"
kind = "cpu"
memory_bytes = 1e9
flops = 1e11
memory_bandwidth = 1e10
"""


@pytest.fixture(autouse=True)
def _cluster(folder) -> None:
    (folder / "one.toml").write_text(CLUSTER)


def test_measures_on_a_worker_that_is_served(placer, folder) -> None:
    """It prints where it is, the cluster file says it, and it ends when interrupted."""
    root = Path(__file__).parents[2]
    # a shell has what it runs in the background ignore interrupts
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script += "; from experiments.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "worker", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        try:
            address = process.stdout.readline().strip()
            listed = CLUSTER.replace('kind = "cpu"', f'kind = "cpu"\naddress = "{address}"')
            (folder / "hosts.toml").write_text(listed)
            on = ("--cluster", "hosts.toml", "--placement-devices", "cpu:0")
            result = placer(*RNNLM, *on, "--steps", "2", "--json")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["feasible"]
    assert len(summary["step_seconds"]) == 2
    assert summary["others_share"] is None, "what a worker that was there takes is not known"


@pytest.fixture
def asked(monkeypatch) -> list[tuple[OpGraph, Placement]]:
    """What is measured, which is nothing, and the graph that it is known by."""
    found: list[tuple[OpGraph, Placement]] = []

    def measure(evaluator: MeasuredEvaluator, placement: Placement) -> Measurement:
        found.append((evaluator.graph, placement))
        return Measurement((1.0,))

    monkeypatch.setattr(_team.Team, "start", lambda team: None)
    monkeypatch.setattr(MeasuredEvaluator, "measure", measure)
    return found


def test_the_order_is_that_of_the_placement(placer, folder, asked) -> None:
    """Unless another one is given; its graph may be the one that was profiled."""
    step, specs = get_workload("rnnlm").build(**SIZES)
    read = tf.read(step, *specs)
    graph = with_seconds(read, {"cpu": dict.fromkeys(read.op_names, 1e-6)})
    graph.save("profiled.json")
    cluster = Cluster.load("one.toml")
    priorities = np.arange(graph.num_ops, dtype=float)
    placement = Placement(graph, cluster, np.zeros(graph.num_ops, int), "priority", priorities)
    placement.save("p.json")
    on = (*RNNLM, "--cluster", "one.toml", "--json")
    profiled = (*on, "--graph", "profiled.json", "--placement", "p.json")
    anywhere = (*on, "--placement-devices", "cpu:0")
    for arguments in (
        profiled,
        (*profiled, "--order", "fifo"),
        anywhere,
        (*anywhere, "--order", "priority"),
    ):
        result = placer(*arguments)
        assert result.exit_code == 0, result.output
    graphs, placements = zip(*asked, strict=True)
    assert graphs == (graph, graph, read, read)
    assert [placed.order for placed in placements] == ["priority", "fifo", "fifo", "priority"]
    np.testing.assert_array_equal(placements[0].priorities, priorities)
    assert [placed.priorities for placed in placements[1:]] == [None] * 3
    result = placer(*on, "--placement", "p.json")
    assert result.exit_code == 2
    assert "p.json: made for another graph" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size=num_units=9999999999",), "--size num_units=9999999999 for workload 'rnnlm'"),
        (("--size=depth=3",), "--size depth=3 for workload 'rnnlm'; expected NAME=NUMBER"),
        (("--workers", "2"), "2 workers for the 1 devices of cluster 'one'"),
        (("--shares", "0.5"), "--shares are of processes: give --workers N"),
        (("--workers", "1", "--shares", "half"), "--shares half; expected numbers"),
        (("--workers", "127.0.0.1:1"), "worker '127.0.0.1:1' cannot be reached"),
        (("--graph", "g.json"), "graph 'chains' has other ops than the program 'train_step'"),
        (("--devices", "GPU:7"), "TensorFlow has no device '/device:GPU:7'"),
    ],
)
def test_bad_measurements(placer, arguments, message) -> None:
    """One line, exit code 2."""
    on = ("--cluster", "one.toml", "--placement-devices", "cpu:0")
    result = placer(*RNNLM, *on, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
