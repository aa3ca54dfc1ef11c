"""What transfers between processes cost: ``python -m tests.benchmarks.transfers``.

Several tensors are sent at once from one worker to another. A row says what each one more takes: of
the processors of the sender and the receiver, and of the step. On a busy machine the processors'
times are still right; those of steps are not.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from placer.tf import LocalWorkers
from placer.tf._bench import Bench
from placer.tf._links import SIZES_BYTES
from placer.tf._processes import Process

STEPS = 40
_WARMUP = 3
FEW, MANY = 1, 9
"""How many tensors are sent at once."""


def cpu_seconds(process: Process) -> float:
    """Seconds that the threads of a process have run, in all; Linux only."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


def _run(
    bench: Bench, workers: Mapping[str, Process], size: int, count: int, receiver: int
) -> tuple[float, ...]:
    """Seconds per step: of the processors of both workers, and of the step."""
    import tensorflow as tf

    def send(x: Any) -> list[Any]:
        made = [tf.raw_ops.Neg(x=x) for _ in range(count)]
        return [tf.raw_ops.Identity(input=tensor) for tensor in made]

    spec = tf.TensorSpec((size // 4,))
    function = tf.function(send, autograph=False).get_concrete_function(spec)
    names = [f"/job:worker/replica:0/task:{i}/device:CPU:0" for i in range(2)]
    graph = bench.load(function, names, name="transfers", warmup=_WARMUP, steps=STEPS)
    placement = [receiver if kind == "Identity" else 0 for kind in graph.op_types]
    before = [cpu_seconds(worker) for worker in workers.values()]
    steps = bench.run(placement)
    after = [cpu_seconds(worker) for worker in workers.values()]
    used = [(b - a) / (STEPS + _WARMUP) for a, b in zip(before, after, strict=True)]
    return (*used, statistics.median(steps))


def main() -> None:
    """Prints the rows."""
    print(f"{'bytes':>9} {'sender us':>10} {'receiver us':>12} {'step us':>9}")
    with LocalWorkers(2) as workers, Bench(workers, 120) as bench:
        for size in SIZES_BYTES:
            sent, kept = (
                [_run(bench, workers.processes, size, n, receiver) for n in (FEW, MANY)]
                for receiver in (1, 0)
            )
            # beyond the same ops without transfers
            extra = [
                (sm - sf - (km - kf)) / (MANY - FEW) * 1e6
                for sf, sm, kf, km in zip(*sent, *kept, strict=True)
            ]
            print(f"{size:>9,} {extra[0]:>10.0f} {extra[1]:>12.0f} {extra[2]:>9.0f}")


if __name__ == "__main__":
    main()
