"""The code of docs/applying.md runs, in a process with several devices."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "applying.md"


def test_the_blocks_of_the_page_run(capsys) -> None:
    """One after the other, as a reader would paste them."""
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```py")
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "__main__"})  # noqa: S102
    assert "ops ran where asked" in capsys.readouterr().out
