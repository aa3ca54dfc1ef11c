"""``placer measure`` and ``placer worker``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size=depth=3",), "--size depth=3 for workload 'rnnlm'; expected NAME=NUMBER"),
        (("--workers", "2"), "2 workers for the 1 devices of cluster 'one'"),
        (("--shares", "0.5"), "--shares are of processes: give --workers N"),
        (("--workers", "1", "--shares", "half"), "--shares half; expected numbers"),
        (("--workers", "127.0.0.1:1"), "worker '127.0.0.1:1' cannot be reached"),
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
