"""Large problems take seconds a batch, and memory that a laptop has."""

from __future__ import annotations

import resource
import time

import numpy as np

from policies.config import MODERN
from policies.reinforce import Trainer
from tests.toys import make_toy


def test_a_thousand_groups_on_64_devices() -> None:
    """Two batches: learning takes place, within bounds."""
    toy = make_toy(1000, 64)
    start = np.arange(1000, dtype=np.int32) % 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    trainer = Trainer(toy, MODERN, evaluations=128, seed=0, start=start)
    result = trainer.run()
    assert time.process_time() - began < 90
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3e6  # kB
    assert [row.num_distinct for row in trainer.rows] == [64, 64]
    assert trainer.rows[-1].num_skipped_updates == 0
    assert trainer.rows[-1].gradient_norm > 0
    assert result.choices.shape == (1000,)
