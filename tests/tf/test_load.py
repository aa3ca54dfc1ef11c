"""How much of the machine others take is told from the system's accounts, here made up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from placer.cluster import Cluster, Device
from placer.errors import FormatError, UsageError
from placer.placement import Placement
from placer.tf import MeasuredEvaluator, _load, _team
from placer.tf._load import CpuTimes, read_cpu_times, share_of_others

ONE = Cluster("one", (Device("cpu:0", "cpu"),))


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A made-up ``/proc``, and a way to write it."""
    monkeypatch.setattr(_load, "_PROC", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)

    def write(*figures: int, own: int = 0) -> None:
        (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, figures))}\ncpu0 1 2 3\n")
        (tmp_path / "7").mkdir(exist_ok=True)
        fields = ["S", *"0" * 10, str(own), str(own), *"0" * 5]
        (tmp_path / "7" / "stat").write_text(f"7 (a (b) c) {' '.join(fields)}")

    return write


def test_the_accounts_of_the_system(proc) -> None:
    """User, nice, system and steal are busy; idle, iowait and interrupts are not."""
    proc(100, 20, 30, 800, 40, 5, 3, 2, 50, 0, own=25)
    times = read_cpu_times([7, 8])
    assert times.all_seconds == pytest.approx(10.0)
    assert times.busy_seconds == pytest.approx(1.52)
    assert times.own_seconds == {7: 0.5}


def test_what_others_took(proc) -> None:
    """Of 10 s of cores 6 s were busy, 2 s of them own."""
    proc(100, 0, 0, 1000, 0, 0, 0, 0, own=10)
    before = read_cpu_times([7])
    proc(500, 0, 200, 1400, 0, 0, 0, 0, own=110)
    assert share_of_others(before, read_cpu_times([7])) == pytest.approx(0.4, abs=0.005)


def test_small_numbers_and_none(proc, tmp_path) -> None:
    """A tick more or less is no load; where the system does not tell, nothing is known."""
    before = CpuTimes(10, 5, {7: 1})
    assert share_of_others(before, CpuTimes(10.1, 5.07, {7: 1.06})) == 0
    assert share_of_others(before, CpuTimes(11, 5.5, {7: 1.6})) == 0
    assert share_of_others(before, before) is None
    proc(1, 1, 1, 1, 1, 1, 1, 1)
    (tmp_path / "stat").unlink()
    assert read_cpu_times([7]) is None
    assert share_of_others(before, None) is None


def test_this_system_tells() -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("not Linux")
    times = read_cpu_times([os.getpid()])
    assert 0 < times.own_seconds[os.getpid()] < times.busy_seconds < times.all_seconds


def test_a_busy_machine_is_waited_for_and_what_is_known_is_read_back(tmp_path, monkeypatch) -> None:
    """It is measured again when others have left, and stands as busy when patience ends."""
    shares = iter([0.5, 0.3, 0.02, 0.04])  # measured, polled twice, measured again
    monkeypatch.setattr(_team, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(_load, "share_of_others", lambda before, after: next(shares))
    waited = []
    log = tmp_path / "steps.jsonl"
    options = {"warmup": 0, "steps": 2, "log": log, "on_wait": waited.append}
    spec = tf.TensorSpec((4, 4))
    arguments = (tf.function(tf.square), ONE, spec)
    with MeasuredEvaluator(*arguments, **options, patience_seconds=60) as evaluator:
        placements = np.zeros((1, evaluator.graph.num_ops), np.int32)
        evaluator.evaluate(placements)
        found = evaluator.known(placements[0])
        assert (found.others_share, found.busy, waited) == (0.04, False, [0.5])
        assert next(shares, None) is None
        shares = iter([0.11])
        evaluator.patience_seconds = 0.0
        placement = Placement(evaluator.graph, ONE, placements[0])
        assert evaluator.measure(placement, again=True).busy
        lines = log.read_bytes()
        assert lines.count(b"\n") == 2
    log.write_bytes(lines + lines[:40])
    monkeypatch.setattr(_team.Team, "start", lambda team: None)
    with MeasuredEvaluator(*arguments, **options) as evaluator:
        assert evaluator.known(placements[0]).others_share == 0.11
        assert log.read_bytes() == lines, "what a killed run left half written is removed"
    log.write_bytes(b"{}\n")
    with pytest.raises(FormatError, match=r"steps.jsonl:1: .*graph"):
        MeasuredEvaluator(*arguments, **options)
    with pytest.raises(UsageError, match="patience_seconds is -1; expected at least 0"):
        MeasuredEvaluator(*arguments, patience_seconds=-1)
