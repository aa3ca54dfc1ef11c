"""Checkpoints are whole or not there."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from placer.errors import FormatError
from policies import checkpoint
from policies.config import MODERN
from policies.reinforce import Trainer
from tests.toys import make_toy

TORN = """
import io, os, signal, sys
import numpy as np
from policies import checkpoint

savez = np.savez

def torn(file, **arrays):
    whole = io.BytesIO()
    savez(whole, **arrays)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

arrays, facts = checkpoint.load(sys.argv[1])
del facts["format"]
np.savez = torn
checkpoint.save(sys.argv[1], arrays, facts | {"evaluations": 99})
"""


def test_killed_while_it_is_written(tmp_path: Path) -> None:
    """The one before is still there, whole, and so is the next."""
    path, toy = tmp_path / "checkpoint.npz", make_toy(12)
    trainer = Trainer(toy, MODERN, evaluations=48, seed=3, start=np.zeros(12, np.int32))
    trainer.save(path)
    content = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", TORN, str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == content
    (half,) = (found for found in tmp_path.iterdir() if found != path)
    assert 0 < half.stat().st_size < len(content)
    restored = Trainer.restore(path, toy)
    assert restored.evaluations == 0
    for name, array in trainer.state.to_arrays().items():
        assert np.array_equal(restored.state.to_arrays()[name], array), name
    trainer.seed = 4
    trainer.save(path)
    assert Trainer.restore(path, toy).seed == 4


@pytest.mark.parametrize("field", ["version", "encrypted", "patched", "method", "header", "data"])
def test_broken_archives(tmp_path: Path, field: str) -> None:
    """Whatever byte of a zip is wrong, it is said to be no checkpoint."""
    path = tmp_path / "checkpoint.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        array = io.BytesIO()
        np.save(array, np.array("{}"))
        header_unclosed = array.getvalue().replace(b"(), }", b"(),  ")
        archive.writestr(".npy", header_unclosed if field == "header" else array.getvalue())
    broken = bytearray(path.read_bytes())
    if field == "data":
        first = 30 + len(".npy")
        broken[first : first + 8] = b"\xff" * 8
    elif field != "header":
        at = {"version": (6, 255), "encrypted": (8, 1), "patched": (8, 32), "method": (10, 99)}
        offset, value = at[field]
        broken[broken.rindex(b"PK\x01\x02") + offset] = value
    path.write_bytes(broken)
    with pytest.raises(FormatError, match="not a checkpoint"):
        checkpoint.load(path)


def test_a_single_array(tmp_path: Path) -> None:
    """NumPy's other format is no checkpoint, whatever the file is called."""
    path = tmp_path / "checkpoint.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(FormatError, match="not a checkpoint"):
        checkpoint.load(path)
