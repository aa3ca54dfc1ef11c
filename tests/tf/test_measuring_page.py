"""The code of docs/measuring.md runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "measuring.md"


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys) -> None:
    """One after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```py")
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102
    assert "spread" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert all(len(line["step_seconds"]) == 10 for line in lines)
