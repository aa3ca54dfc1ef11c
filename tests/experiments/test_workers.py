"""Work over processes: failures stay where they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.comparison.workers import FailedError, Workers
from tests.experiments.working import work


def test_in_this_process() -> None:
    """With one job, pieces are done here, in order; one that raises has failed."""
    with Workers(work, 1) as workers:
        found = list(workers.map(["a", "raise", "b", "process"]))
    assert [piece for piece, _ in found] == ["a", "raise", "b", "process"]
    results = [result for _, result in found]
    assert results[::2] == ["A", "B"]
    assert results[3] == str(os.getpid())
    assert isinstance(results[1], FailedError)
    assert str(results[1]) == "ValueError: no luck"


def test_a_process_that_ends_fails_its_piece_alone() -> None:
    """One raises, one exits, one is killed: all else is done, by processes that take their place."""
    pieces = ["a", "raise", "b", "exit", "c", "kill", "d", "process"]
    with Workers(work, 2) as workers:
        found = dict(workers.map(pieces))
        # the processes that are left serve the next pieces, too
        later = dict(workers.map(["process"]))
    assert {piece: found[piece] for piece in "abcd"} == {piece: piece.upper() for piece in "abcd"}
    assert str(found["raise"]) == "ValueError: no luck"
    assert str(found["exit"]) == "its process ended with exit code 7"
    assert str(found["kill"]) == "its process ended with exit code -9"
    for results in (found, later):
        assert results["process"] != str(os.getpid())


def test_leaving_ends_the_processes() -> None:
    """An exception in the parent does not wait for what the processes do."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(work, 2) as workers:
        for piece, _ in workers.map(["process", "sleep"]):
            assert piece == "process"
            raise KeyboardInterrupt
    assert time.monotonic() - began < 60
    assert not workers._idle[0]._process.is_alive()


ENDLESS = """
import multiprocessing
from experiments.comparison.workers import Workers
from tests.experiments.working import work
with Workers(work, 2) as workers:
    for _ in workers.map(["process", "sleep"]):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def test_processes_end_with_a_parent_that_is_killed() -> None:
    """In the middle of a piece, too."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that nobody waits for has no command line left."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False
