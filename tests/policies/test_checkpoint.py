"""Checkpoints are whole or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

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
