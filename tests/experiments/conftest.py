"""One finished run, trained once for all tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from tests.experiments.builders import cluster, graph


class Run(NamedTuple):
    """A run's folder, the files that went in, and what was printed."""

    folder: Path
    inputs: list[str]
    printed: dict[str, object]


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """`placer train --json` with seed 0 and 800 evaluations."""
    where = tmp_path_factory.mktemp("run")
    graph().save(where / "g.json")
    cluster().save(where / "c.toml")
    inputs = ["--graph", str(where / "g.json"), "--cluster", str(where / "c.toml")]
    out = where / "seed0"
    arguments = ["train", *inputs, "--groups", "6", "--evaluations", "800", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return Run(out, inputs, json.loads(result.stdout))
