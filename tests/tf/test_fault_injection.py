"""A long search on measured step times goes on through failures of three in ten steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from placer.errors import UsageError
from placer.tf import _team
from tests.tf.fault_injection import check, fault_of, made_up_seconds, search
from tests.tf.faults import children
from tests.tf.placing import NUM_DEVICES

EVALUATIONS = 200
FAULTS = {
    **{"3,0": "crash", "3,1": "crash", "3,2": "memory", "3,3": "memory"},
    **{"2,3,0": "hang", "2,3,1": "hang", "2,3,2": "crash", "2,3,3": "memory"},
}


def _processes_with(argument: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text()
        except OSError:  # it has ended
            continue
        if argument in command:
            found.append(command)
    return found


def test_a_search_goes_on_through_failures(monkeypatch, tmp_path) -> None:
    """All 200 placements have their step time or the reason why not; no process is left.

    What fails is the process that measures, for which one without TensorFlow stands in; that it is
    named and replaced is the same for both. With TensorFlow, see ``tests/tf/test_measure.py``, and
    ``python -m tests.tf.fault_injection``.
    """
    monkeypatch.setenv("FAULTS", json.dumps(FAULTS))
    monkeypatch.setattr(_team, "_MEASURING", "tests.tf.light_faults")
    log = tmp_path / "log.jsonl"
    result, evaluator = search(NUM_DEVICES, EVALUATIONS, log, warmup=1, steps=3, seconds_limit=2)
    found = check(log, EVALUATIONS, FAULTS)
    assert set(found) == {None, "crash", "memory", "hang"}
    assert found[None] <= 0.7 * EVALUATIONS
    assert not children(os.getpid())
    assert not evaluator._team.folder.exists()
    assert not _processes_with(os.fspath(evaluator._team.folder))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    placements = np.array([line["devices"] for line in lines], np.int32)
    expected = [
        float("inf") if fault_of(row, FAULTS) else made_up_seconds(row)
        for row in placements.tolist()
    ]
    again = evaluator.evaluate(placements)  # at once, without a process: all is known
    assert again.step_time_seconds.tolist() == expected
    assert again.reasons == [line["reason"] for line in lines]
    assert result.step_time_seconds == min(expected)
    assert result.evaluations == EVALUATIONS
    with pytest.raises(UsageError, match="is closed"):
        evaluator.evaluate(np.full_like(placements[:1], 0))
