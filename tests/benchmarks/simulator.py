"""How fast the simulator is: ``python -m tests.benchmarks.simulator`` from the root of the project.

Without names of sections, all run. ``docs/speed.md`` explains the figures; ``--write`` puts them
there. It takes some ten minutes and wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from experiments.tables import make_table
from placer import files
from tests.benchmarks.compiling import compiling
from tests.benchmarks.engines import against_reference, engines, memory, threads
from tests.benchmarks.measuring import Report, Table, criteria_table
from tests.benchmarks.moves import moves
from tests.benchmarks.workbench import FULL, QUICK, Scale

SECTIONS: dict[str, Callable[[Scale], Report]] = {
    "engines": engines,
    "reference": against_reference,
    "memory": memory,
    "moves": moves,
    "threads": threads,
    "compile": compiling,
}
_WIDTH_OF_A_PIPE = 220
PAGE = Path(__file__).parents[2] / "docs" / "speed.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the sections, prints their tables as they come, and at last what must hold."""
    parser = argparse.ArgumentParser(prog="tests.benchmarks.simulator", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller graphs, fewer repetitions")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {PAGE.name}")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if options.quick and options.write:
        parser.error("--write wants the whole benchmark; leave out --quick")
    reports = run(options.sections or list(SECTIONS), QUICK if options.quick else FULL)
    if options.write:
        files.write_bytes(PAGE, rewrite(PAGE.read_text(), reports).encode())


def run(sections: Sequence[str], scale: Scale) -> list[Report]:
    """Runs sections and prints what they find."""
    reports = []
    for name in sections:
        report = SECTIONS[name](scale)
        print(f"\n{name}: {report.machine}\n")
        for table in report.tables:
            _print(table)
        reports.append(report)
    _print(criteria_table([criterion for report in reports for criterion in report.criteria]))
    return reports


def rewrite(page: str, reports: Sequence[Report]) -> str:
    """The page with the figures of the reports in the places kept for them."""
    for report in reports:
        begin, end = f"<!-- {report.name} -->\n", f"<!-- /{report.name} -->"
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = before + begin + report.markdown() + end + after
    return page


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_PIPE)
    console.print(make_table(table.title, table.columns, table.rows))


if __name__ == "__main__":
    main()
