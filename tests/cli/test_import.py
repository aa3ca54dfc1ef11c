"""`placer import`: what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from placer import Cluster, OpGraph, Simulator

DOPPLER = "3\n0,\n0\n1\n20000,40000\n10000,30000\n"
TARNAWSKI = {
    "maxSizePerFPGA": 200,
    "maxFPGAs": 2,
    "maxCPUs": 1,
    "nodes": [
        {"id": i, "supportedOnFpga": 1, "cpuLatency": 10, "fpgaLatency": 1, "size": 150}
        for i in (1, 2)
    ],
    "edges": [{"sourceId": 1, "destId": 2, "cost": 0.5}],
}


def test_import_writes_graph_and_cluster(placer) -> None:
    """What is written simulates as worked by hand: 1 ms, twice 0.5 ms, 1 ms."""
    Path("w.json").write_text(json.dumps(TARNAWSKI))
    outs = ["--out-graph", "w.json.gz", "--out-cluster", "w.toml"]
    result = placer("import", "w.json", "--format", "tarnawski", *outs)
    assert (result.exit_code, result.stdout) == (
        0,
        "2 ops written to w.json.gz\n2 devices written to w.toml\n",
    )
    simulator = Simulator(OpGraph.load("w.json.gz"), Cluster.load("w.toml"))
    assert simulator.step_time([0, 1]) == 3e-3
    assert not simulator.evaluate([[0, 0]]).feasible[0]
    result = placer("import", "w.json", "--format", "tarnawski", "--cpu", "--devices", "5", *outs)
    assert result.stdout.endswith("6 devices written to w.toml\n")


def test_import_without_a_cluster(placer) -> None:
    """`--out-cluster` may be left out."""
    Path("d.txt").write_text(DOPPLER)
    result = placer("import", "d.txt", "--format", "doppler", "--out-graph", "d.json")
    assert (result.exit_code, result.stdout) == (0, "2 ops written to d.json\n")
    assert OpGraph.load("d.json").num_ops == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "dopler"], "unknown format 'dopler'; did you mean 'doppler'?"),
        (["--format", "tarnawski"], "d.txt: not a workload in JSON (Expected `object`, got `int`)"),
        (["--format", "doppler", "--cpu"], "graphs of DOPPLER have one kind of device; expected"),
        (["--format", "cost-graph"], "d.txt: not a CostGraphDef in text form (line 1:1 : "),
        (
            ["--format", "doppler", "--out-cluster", "g2.json"],
            "g2.json: unknown suffix; expected .toml",
        ),
        (
            ["--format", "doppler", "--out-graph", "g.txt"],
            "g.txt: unknown suffix; expected .json or .json.gz",
        ),
    ],
)
def test_import_refuses_in_one_line(placer, folder: Path, arguments: list[str], line: str) -> None:
    """Nothing is written then."""
    Path("d.txt").write_text(DOPPLER)
    before = sorted(folder.rglob("*"))
    result = placer("import", "d.txt", "--out-graph", "g2.json", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_a_cost_graph_has_no_cluster(placer, folder: Path) -> None:
    """It says nothing of devices, so there is none to write."""
    Path("c.pbtxt").write_text('node { name: "a" compute_cost: 5 }')
    arguments = ["--format", "cost-graph", "--out-graph", "a.json"]
    result = placer("import", "c.pbtxt", *arguments, "--out-cluster", "a.toml")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: c.pbtxt: says nothing of devices; expected no --out-cluster\n",
    )
    assert placer("import", "c.pbtxt", *arguments).exit_code == 0
    assert OpGraph.load("a.json").seconds[0]["gpu"] == 5e-6


def test_stderr_has_no_notes_of_tensorflow(folder) -> None:
    """They are for those who build it, and errors are one line."""
    Path("c.pbtxt").write_text('node { name: "a" id: 1 compute_cost: 3 }')
    command = "from experiments.cli import main; main()"
    arguments = ["import", "c.pbtxt", "--format", "cost-graph", "--out-graph", "c.json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, check=True
    )
    assert done.stderr == b""
