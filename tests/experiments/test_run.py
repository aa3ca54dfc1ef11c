"""The files of a run."""

from __future__ import annotations

import math
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from experiments.run import RunFolder
from placer.errors import FormatError, PlacerError
from placer.heuristics import HeuristicResult
from policies.metrics import COLUMNS

ROW = {"step": 3, "evaluations": 40, "best_step_time_seconds": 0.1 + 0.2}


def test_rows_read_back_the_same(tmp_path: Path) -> None:
    """Floats keep every bit; what a row lacks or is nan is empty; infinity stays."""
    folder = RunFolder(tmp_path)
    folder.start_metrics([])
    folder.append_metrics(ROW)
    folder.append_metrics(ROW | {"best_step_time_seconds": math.inf, "mean_reward": math.nan})
    folder.close()
    metrics = folder.read_metrics()
    assert metrics["best_step_time_seconds"].tolist() == [0.1 + 0.2, math.inf]
    assert metrics["evaluations"].tolist() == [40, 40]
    assert np.isnan(metrics["mean_reward"]).all()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("3,40,0.30000000")


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """Readers may come at any time."""
    folder = RunFolder(tmp_path)
    folder.start_metrics([ROW])
    folder.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,56,0.2")
    assert folder.read_metrics()["step"].tolist() == [3]


def test_start_drops_what_was_there(tmp_path: Path) -> None:
    """Rows after a checkpoint are gone once training goes on from there."""
    folder = RunFolder(tmp_path)
    folder.start_metrics([ROW, ROW])
    folder.append_metrics(ROW)
    folder.start_metrics([ROW])
    folder.close()
    assert folder.read_metrics()["step"].tolist() == [3]
    assert len(list((tmp_path / "events").iterdir())) == 1


def test_events_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As where the disk is full: one error that names the file, and no other thread has its own."""
    folder = RunFolder(tmp_path)
    (tmp_path / "events").write_text("a file")
    with pytest.raises(PlacerError, match=r"tfevents\S+: cannot be written"):
        folder.start_metrics([ROW])
    (tmp_path / "events").unlink()
    folder.start_metrics([ROW])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(PlacerError, match=r"tfevents\S+: cannot be written \(File too large"):
            folder.append_metrics(ROW, {f"batch/{i}": np.arange(99.0) for i in range(99)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    folder.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a,b\n1,2\n", f"expected the columns {', '.join(COLUMNS)}"),
        (",".join(COLUMNS) + "\n1,2\n", f":2: 2 cells; expected {len(COLUMNS)}"),
        (",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n", "could not convert"),
    ],
)
def test_other_content_is_an_error(tmp_path: Path, content: str, line: str) -> None:
    """A file that holds something else says what and where."""
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(FormatError) as error:
        RunFolder(tmp_path).read_metrics()
    assert line in str(error.value)
    assert str(tmp_path / "metrics.csv") in str(error.value)


def test_heuristics_that_are_no_numbers(tmp_path: Path) -> None:
    """A file that was changed by hand says what is wrong with it."""
    folder = RunFolder(tmp_path)
    row = HeuristicResult("expert", np.zeros(1, np.int32), 1.0, True, None)
    folder.write_heuristics([row], reference_seconds=1.0)
    assert folder.read_heuristics() == [("expert", 1.0, -1.0)]
    path = tmp_path / "heuristics.csv"
    path.write_text(path.read_text().replace("1.0,", "abc,", 1))
    with pytest.raises(FormatError, match="heuristics.csv: could not convert"):
        folder.read_heuristics()
