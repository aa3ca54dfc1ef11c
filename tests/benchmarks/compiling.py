"""First calls: what compiling takes after an install, and what is left of it later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measuring import Criterion, Report, Table
from tests.benchmarks.workbench import Scale

_ROOT = Path(__file__).parents[2]
_FIRST_CALLS = {
    "step_time": "Simulator(graph, make_cluster(2)).step_time(zeros)",
    "step_time, priority": "Simulator(graph, make_cluster(2), order='priority').step_time(zeros)",
    "step_time, bus": "Simulator(graph, make_cluster(2, 'bus')).step_time(zeros)",
    "schedule": "Simulator(graph, make_cluster(2)).schedule(zeros)",
    "moves": "Simulator(graph, make_cluster(2)).moves(zeros).try_move(0, 1)",
}
_SCRIPT = """
import json, sys, time
import placer
compiler = "numba" in sys.modules
from placer import Simulator
from tests.benchmarks.families import make_cluster, make_graph
graph = make_graph("Inception", 100, training=True)
zeros = [0] * graph.num_ops
wall, cpu = time.perf_counter(), time.process_time()
{call}
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, compiler]))
"""


def compiling(scale: Scale) -> Report:
    """Seconds of the first call in a fresh process, with an empty cache and with a full one."""
    rows, anew, again, compiler = [], {}, {}, False
    for name, call in _FIRST_CALLS.items():
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(_ROOT)}
            runs = []
            for _ in range(2):
                done = subprocess.run(
                    [sys.executable, "-c", _SCRIPT.format(call=call)],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                runs.append(json.loads(done.stdout))
        (wall, cpu, loaded), (wall_again, cpu_again, _) = runs
        anew[name], again[name], compiler = cpu, cpu_again, compiler or loaded
        rows.append((name, *(f"{s:.2f}" for s in (cpu, wall, cpu_again, wall_again))))
    slowest, slowest_again = max(anew, key=anew.__getitem__), max(again, key=again.__getitem__)
    return Report(
        "compile",
        [
            Criterion(
                "first call after install: under 5 s of compilation",
                f"{anew[slowest]:.2f} s: {slowest}",
                anew[slowest] < 5,
            ),
            Criterion(
                "cached after that",
                f"{again[slowest_again]:.2f} s: {slowest_again}",
                again[slowest_again] < anew[slowest_again] / 2,
            ),
            Criterion(
                "import of placer compiles nothing",
                "numba was imported" if compiler else "numba was not imported",
                not compiler,
            ),
        ],
        [
            Table(
                "Seconds of the first call in a fresh process, import of numba included",
                ("call", ">CPU", ">wall clock", ">CPU, cached", ">wall clock, cached"),
                rows,
            )
        ],
    )
