"""A search on measured step times in which three steps in ten crash, hang or run out of memory.

``python -m tests.tf.fault_injection [EVALUATIONS]`` runs one on two workers: 200 evaluations in some
ten minutes, as all processes start again after each failure. The suite runs as many with
:mod:`tests.tf.light_faults`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from placer.cluster import Cluster, Device, Link
from placer.grouping import OpGroups
from placer.problem import Problem, SearchResult
from placer.tf.measure import MeasuredEvaluator

NUM_PRODUCTS = 16
REASONS = {
    "crash": r"the process ended with SIGSEGV",
    "hang": r"no result within \S+ s",
    "memory": r"MemoryError",
    "worker crashes": r"worker \d: the process was killed, as the system does where memory runs out",
    "worker hangs": r"no result within \S+ s",
}
"""What a failure is called."""


def fault_of(placement: Sequence[int], faults: Mapping[str, str]) -> str | None:
    """The fault that comes with a placement; see :mod:`tests.tf.faults`."""
    for devices, fault in faults.items():
        given = [int(device) for device in devices.split(",")]
        if list(placement[: len(given)]) == given:
            return fault
    return None


def made_up_seconds(placement: Sequence[int]) -> float:
    """A step time that no other placement has."""
    return 1.0 + sum(device * 4.0**-op for op, device in enumerate(placement, start=1))


def products(x: Any) -> Any:
    """A chain of ops, long enough that random placements differ."""
    import tensorflow as tf

    for _ in range(NUM_PRODUCTS):
        x = tf.matmul(x, x)
    return x


def search(
    num_devices: int, evaluations: int, log: Path, **options: Any
) -> tuple[SearchResult, MeasuredEvaluator]:
    """Searches at random with a device for each op; returns the evaluator, closed."""
    import tensorflow as tf

    from placer.search import random

    names = tuple(f"cpu:{i}" for i in range(num_devices))
    cluster = Cluster("cpus", tuple(Device(n, "cpu") for n in names), (Link(names, 1e9),))
    spec = tf.TensorSpec((8, 8))
    with MeasuredEvaluator(products, cluster, spec, log=log, **options) as evaluator:
        graph = evaluator.graph
        groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
        problem = Problem(graph, cluster, groups, evaluator)
        return random.search(problem, evaluations=evaluations, seed=0), evaluator


def check(log: Path, evaluations: int, faults: Mapping[str, str]) -> Counter[str | None]:
    """Checks that each placement has its line, and each failure its name; returns their numbers.

    Raises:
        AssertionError: One has not.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({tuple(line["devices"]) for line in lines}) == len(lines) == evaluations
    found: Counter[str | None] = Counter()
    for line in lines:
        fault = fault_of(line["devices"], faults)
        found[fault] += 1
        if fault is None:
            assert line["reason"] is None
            assert line["step_seconds"]
        else:
            assert re.fullmatch(REASONS[fault], line["reason"]), (fault, line["reason"])
            assert not line["step_seconds"]
    return found


def main(evaluations: int) -> None:
    """Runs a search on two workers and says what failed."""
    from placer.tf import _team
    from tests.tf.faults import children

    faults = {
        "1,1,0,0": "crash",
        "1,1,0,1": "worker crashes",
        "1,1,1,0": "memory",
        "1,1,1,1": "hang",
        "1,0,1,0": "worker hangs",
        "1,0,1,1": "worker crashes",
    }
    os.environ["FAULTS"] = json.dumps(faults)
    _team._MEASURING = "tests.tf.faults"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        options = {"workers": 2, "warmup": 1, "steps": 3, "seconds_limit": 5}
        result, _ = search(2, evaluations, log, **options)
        found = check(log, evaluations, faults)
    assert not children(os.getpid())
    assert found.keys() == {None, *faults.values()}
    assert found[None] <= 0.7 * evaluations
    found["none"] = found.pop(None)
    print(f"{result.evaluations} evaluations in {time.monotonic() - began:.0f} s: {dict(found)}")
    print(f"best step time {result.step_time_seconds:.6f} s; no process is left")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
