"""The code of docs/calibration.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import placer
from tests.tf.small import small_measurements

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys) -> None:
    """As a reader would paste them, but for less long."""
    small_measurements(monkeypatch)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```py")
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102
    printed = capsys.readouterr().out
    assert "worker:0 - worker:1: latency" in printed
    assert "s on one worker" in printed
    graph, cluster = placer.OpGraph.load("step.json.gz"), placer.Cluster.load("two-workers.toml")
    assert placer.Simulator(graph, cluster).step_time([1] * graph.num_ops) > 0
