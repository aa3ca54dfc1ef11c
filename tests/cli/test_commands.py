"""What the commands print and write."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.cli.app import _terminated_as_interrupted
from placer.cluster import Cluster
from placer.graph import OpGraph
from placer.heuristics import HEURISTICS
from placer.placement import Placement
from placer.simulator import Simulator
from placer.strategies import STRATEGIES
from tests.experiments.builders import cluster, graph

ON_TINY = ["--graph", "g.json", "--cluster", "c.toml"]


def test_help_is_fast() -> None:
    """`placer --help` loads nothing heavy."""
    script = (
        "import sys; from experiments.cli import app; sys.argv = ['placer', '--help']\n"
        "try: app()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('tensorflow', 'matplotlib', 'numba', 'gymnasium', 'networkx')"
        " if m in sys.modules])"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.perf_counter() - began < 5
    for command in ("list", "inspect", "simulate", "train", "compare", "plot"):
        assert f"  {command} " in done.stdout


def test_list(placer) -> None:
    """All names are listed, for readers and for scripts."""
    names = json.loads(placer("list", "--json").stdout)
    assert {"rnnlm", "inception_v3"} <= set(names["workloads"])
    assert {"k80x4", "p100x4"} <= set(names["clusters"])
    assert names["strategies"] == list(STRATEGIES)
    assert names["heuristics"] == list(HEURISTICS)
    text = placer("list").stdout
    assert all(name in text for known in names.values() for name in known)


def test_inspect_graph(placer) -> None:
    """Counts and sums are those of the graph; the heaviest op comes first."""
    found = json.loads(placer("inspect", "--graph", "g.json", "--json").stdout)["graph"]
    tiny = graph()
    assert found["num_ops"] == tiny.num_ops == 14
    assert found["num_edges"] == 16
    assert found["flops"] == 12e10
    assert found["parameter_bytes"] == 12e6
    assert found["op_types"][0] == {
        "type": "MatMul",
        "num_ops": 12,
        "flops": 12e10,
        "bytes_accessed": 0.0,
    }
    assert sum(row["num_ops"] for row in found["op_types"]) == tiny.num_ops
    assert found["heaviest_ops"][0]["flops"] == 1e10
    text = placer("inspect", "--graph", "g.json").stdout
    assert "120 GFLOP" in text
    assert "MatMul" in text


def test_inspect_op(placer) -> None:
    """The op group of an op is explained, with what goes into the op and what it goes to."""
    result = placer("inspect", "--graph", "g.json", "--op", "a1", "--groups", "4", "--json")
    found = json.loads(result.stdout)["op"]
    assert (found["inputs"], found["consumers"]) == (["a0"], ["a2"])
    assert found["explanation"]
    text = placer("inspect", "--graph", "g.json", "--op", "a1", "--groups", "4").stdout
    assert found["explanation"] in text


def test_inspect_cluster(placer) -> None:
    """Every ordered pair of devices has its link."""
    found = json.loads(placer("inspect", "--cluster", "c.toml", "--json").stdout)["cluster"]
    assert [device["name"] for device in found["devices"]] == ["cpu:0", "gpu:0", "gpu:1"]
    assert len(found["links"]) == 6
    assert "10 TFLOP/s" in placer("inspect", "--cluster", "c.toml").stdout


def test_infinite_memory_is_null(placer) -> None:
    """JSON has no infinity; no limit is null."""
    cluster(memory_bytes=float("inf")).save("c.toml")
    found = json.loads(placer("inspect", "--cluster", "c.toml", "--json").stdout)["cluster"]
    assert found["devices"][0]["memory_bytes"] is None
    assert "no limit" in placer("inspect", "--cluster", "c.toml").stdout


def test_simulate_prints_the_contract(placer) -> None:
    """The keys are those of the contract, the figures those of the simulator."""
    result = placer("simulate", *ON_TINY, "--placement-devices", "gpu:1", "--json")
    found = json.loads(result.stdout)
    assert set(found) == {
        "step_time_seconds",
        "feasible",
        "peak_memory_bytes",
        "busy_seconds",
        "transfer_bytes",
        "num_transfers",
        "infeasible_because",
    }
    expected = Simulator(graph(), cluster()).step_time(np.full(14, 2))
    assert found["step_time_seconds"] == expected
    assert found["busy_seconds"] == {"cpu:0": 0.0, "gpu:0": 0.0, "gpu:1": expected}
    assert (found["feasible"], found["infeasible_because"]) == (True, None)
    assert (found["num_transfers"], found["transfer_bytes"]) == (0, 0.0)


def test_simulate_a_placement_file(placer) -> None:
    """A placement that was saved, or written by hand without fingerprints, is simulated."""
    devices = np.array([0, *[1, 2] * 6, 0], np.int32)
    placement = Placement(graph(), cluster(), devices, order="priority")
    placement.save("p.json")
    document = json.loads(Path("p.json").read_text())
    del document["graph"], document["cluster"]
    Path("bare.json").write_text(json.dumps(document))
    expected = Simulator(graph(), cluster(), order="priority").step_time(devices)
    for name in ("p.json", "bare.json"):
        result = placer("simulate", *ON_TINY, "--placement", name, "--json")
        assert json.loads(result.stdout)["step_time_seconds"] == expected
    fifo = placer("simulate", *ON_TINY, "--placement", "p.json", "--order", "fifo", "--json")
    assert json.loads(fifo.stdout)["step_time_seconds"] == Simulator(graph(), cluster()).step_time(
        devices
    )


def test_simulate_writes_the_schedule(placer) -> None:
    """The schedule has every op and transfer with start and finish."""
    Placement(graph(), cluster(), np.array([0] + [1] * 12 + [2], np.int32)).save("p.json")
    result = placer("simulate", *ON_TINY, "--placement", "p.json", "--schedule", "s.json")
    schedule = json.loads(Path("s.json").read_text())
    assert {row["name"] for row in schedule["ops"]} == set(graph().op_names)
    assert set(schedule["ops"][0]) == {"name", "device", "start_seconds", "finish_seconds"}
    assert len(schedule["transfers"]) == 5
    assert set(schedule["transfers"][0]) == {
        "tensor",
        "source",
        "target",
        "start_seconds",
        "finish_seconds",
    }
    assert "5 transfers" in result.stdout


@pytest.mark.parametrize("name", ["t.json", "sub/t.json.gz"])
def test_simulate_writes_the_trace(placer, name: str) -> None:
    """The trace has a slice for every op and transfer; what is printed stays the same."""
    Placement(graph(), cluster(), np.array([0] + [1] * 12 + [2], np.int32)).save("p.json")
    arguments = ["simulate", *ON_TINY, "--placement", "p.json", "--json"]
    result = placer(*arguments, "--trace", name)
    assert result.stdout == placer(*arguments).stdout
    content = Path(name).read_bytes()
    if name.endswith(".gz"):
        content = gzip.decompress(content)
    slices = [event for event in json.loads(content)["traceEvents"] if event["ph"] == "X"]
    assert [s["name"] for s in slices if s["cat"] == "op"] == list(graph().op_names)
    assert len([s for s in slices if s["cat"] == "transfer"]) == 5


def test_simulate_infeasible(placer) -> None:
    """A placement that does not fit is no error; device and bytes are said."""
    cluster(memory_bytes=7e6).save("c.toml")
    result = placer("simulate", *ON_TINY, "--placement-devices", "gpu:0", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["feasible"] is False
    assert "gpu:0" in found["infeasible_because"]
    assert found["peak_memory_bytes"]["gpu:0"] > 12e6
    assert found["step_time_seconds"] > 0
    assert "infeasible: " in placer("simulate", *ON_TINY, "--placement-devices", "gpu:0").stdout


@pytest.mark.parametrize("name", ["rnnlm", "inception_v3"])
def test_bundled_workloads_and_presets_work(placer, name: str) -> None:
    """A bundled graph goes by its name, on a preset that goes by its name."""
    arguments = ["--workload", name, "--cluster", "p100x4", "--placement-devices", "gpu:0"]
    found = json.loads(placer("simulate", *arguments, "--json").stdout)
    graph, cluster = OpGraph.load(name), Cluster.load("p100x4")
    simulator = Simulator(graph, cluster)
    assert found["step_time_seconds"] == simulator.step_time(np.full(graph.num_ops, 1))


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    """So that what it began is cleaned up; afterwards the signal is what it was."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before
