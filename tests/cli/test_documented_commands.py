"""The commands in docs/cli.md run, and print what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
LONG = re.compile(r"--evaluations \d+")


def documented() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines below it."""
    commands: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(PAGE.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line.removeprefix("$ "), []))
            else:
                commands[-1][1].append(line)
    return commands


def first_words(lines: list[str]) -> list[str]:
    """The first word of each line: names and keys, which do not depend on how long was trained."""
    words = [line.split()[0] for line in lines if line.split()]
    return [re.split(r"\d|:", word)[0] for word in words if word[0] not in "─━"]


def test_documented_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as a reader would type them, but with a small budget."""
    monkeypatch.chdir(tmp_path)
    commands = documented()
    assert {shlex.split(command)[1] for command, _ in commands} == {
        "list",
        "inspect",
        "train",
        "simulate",
        "export",
        "compare",
        "plot",
    }
    for command, expected in commands:
        arguments = shlex.split(LONG.sub("--evaluations 40", command))
        assert arguments[0] == "placer"
        result = CliRunner().invoke(app, arguments[1:])
        assert result.exit_code == 0, f"{command}: {result.stderr}"
        assert first_words(result.stdout.splitlines()) == first_words(expected), command
