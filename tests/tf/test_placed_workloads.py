"""Placed training steps train as the unplaced ones, on logical devices and on two processes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from placer.tf._processes import Process
from tests.tf.placed_workloads import KINDS
from tests.tf.placing import CPUS, SMALL

ROOT = Path(__file__).parents[2]
DEVICES = {
    "logical": list(CPUS),
    "workers": [f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in range(2)],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[tuple[str, str, str], Any]:
    """What was found, by workload, devices and kind of placement."""
    logs = tmp_path_factory.mktemp("workers")
    workers = [
        Process("placer.tf._serving", "--core", "0", log=logs / f"{i}.log") for i in range(2)
    ]
    try:
        addresses = [worker.ask(None, 100).address for worker in workers]
        command = [sys.executable, "-m", "tests.tf.placed_workloads", *addresses]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT)
    finally:
        for worker in workers:
            worker.kill()
    assert done.returncode == 0, done.stderr
    assert "retracing" not in done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {(line["workload"], line["where"], line["kind"]): line for line in lines}


@pytest.mark.parametrize(
    ("workload", "where", "kind"), list(itertools.product(SMALL, DEVICES, KINDS))
)
def test_a_placed_training_step_trains_the_same(results, workload, where, kind) -> None:
    """Three losses and then every variable, to float32 tolerance; ops are where they were asked.

    Where colocation groups keep together, no op is moved. Where they do not, an op is moved only
    to its variable, and the report says so. Small constants are copied.
    """
    found = results[workload, where, kind]
    assert found["trained"] > 5
    assert found["loss_miss"] <= 1
    assert found["variables_miss"] <= 1
    assert found["ran"] == DEVICES[where]
    assert not found["dropped"]
    assert set(found["copied"]) <= {"Const"}
    assert bool(found["moved"]) == (kind == "scattered")
    for op in found["moved"]:
        (ran,) = op["ran"]
        assert op["reason"].startswith("uses ")
        assert op["reason"].endswith(f", which is on {ran}")
