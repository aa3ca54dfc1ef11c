"""``placer profile`` and ``placer calibrate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import placer as package
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*RNNLM, "--out", "g.txt"), "g.txt: unknown suffix; expected .json or .json.gz"),
        ((*RNNLM, "--out", "g.json", "--size", "units=3"), "--size units=3"),
        ((*RNNLM, "--out", "g.json", "--devices", "GPU:7"), "no device '/device:GPU:7'"),
        ((*RNNLM, "--out", "g.json", "--workers", "nowhere"), "'nowhere' is no address"),
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
