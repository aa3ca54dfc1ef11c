"""A small graph and cluster as files, and a way to call the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from experiments.cli import app
from tests.experiments.builders import cluster, graph


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The working directory, with ``g.json`` and ``c.toml``."""
    monkeypatch.chdir(tmp_path)
    graph().save("g.json")
    cluster().save("c.toml")
    return tmp_path


@pytest.fixture
def placer(folder: Path) -> Callable[..., Result]:
    """Calls ``placer`` in the folder."""

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return call
