"""Regenerates the bundled graphs: ``python -m experiments.workloads [NAME ...]``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from experiments.workloads import WORKLOADS, get_workload
from placer import graph
from placer.errors import PlacerError

BUNDLED = Path(graph.__file__).parent / "workloads"


def main(names: list[str]) -> int:
    """Writes the graphs of the named workloads, or of all; returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        for workload in [get_workload(name) for name in names or WORKLOADS]:
            result = workload.graph()
            path = BUNDLED / f"{workload.name}.json.gz"
            result.save(path)
            sys.stdout.write(f"{path}: {result.num_ops} ops, {path.stat().st_size} bytes\n")
    except PlacerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
