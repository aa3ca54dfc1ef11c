"""How well the simulator predicts measured step times: ``python -m tests.benchmarks.fidelity``.

``--out DIR`` has a folder for each workload and setting of two workers, made by ``placer fidelity``;
given again, it goes on where it stopped. Then tables and pictures of all that is finished are
written into docs/fidelity.md and beside it. ``--only NAME`` does less.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from experiments import terminal
from experiments.tables import format_seconds
from tests.benchmarks.measured import PATIENCE_SECONDS, SETTINGS, Setting, call
from tests.benchmarks.measuring import Criterion, Report, Table
from tests.benchmarks.simulator import rewrite

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
"""The page; pictures are beside it."""

WORTH_JUDGING = 1.3
"""The least spread of step times with which ranks mean something."""


@dataclass(frozen=True)
class Subject:
    """A workload in sizes that two cores can run in a fraction of a second.

    Attributes:
        workload: Its name.
        sizes: What differs from the bundled sizes.
        steps: Steps of each measurement.
    """

    workload: str
    sizes: Mapping[str, int]
    steps: int = 5


SUBJECTS = (
    Subject("branches", {"batch_size": 512, "num_units": 512}),
    Subject(
        "rnnlm",
        {"batch_size": 64, "num_steps": 4, "num_units": 256, "vocabulary": 2000},
    ),
    Subject(
        "nmt",
        {"batch_size": 64, "num_steps": 3, "num_layers": 1, "num_units": 256, "vocabulary": 2000},
    ),
    Subject(
        "transformer",
        {
            "batch_size": 4,
            "num_positions": 64,
            "num_layers": 1,
            "num_units": 256,
            "num_heads": 4,
            "vocabulary": 2000,
        },
    ),
)


@dataclass(frozen=True)
class Illustrated(Report):
    """A report with pictures below, by file name beside the page."""

    pictures: Sequence[str] = ()

    def markdown(self) -> str:
        """For the page of the documentation."""
        shown = "\n".join(f"![{Path(name).stem}]({name})" for name in self.pictures)
        return f"{super().markdown()}\n{shown}\n"


def command(subject: Subject, setting: Setting, placements: int, folder: Path) -> list[str]:
    """The arguments of ``placer`` that compare prediction and measurement."""
    return [
        *("fidelity", "--workload", subject.workload, "--workers", "2"),
        *("--shares", ",".join(map(str, setting.shares))),
        *(f"--size={name}={value}" for name, value in subject.sizes.items()),
        *("--placements", str(placements), "--warmup", "2", "--steps", str(subject.steps)),
        *("--patience", str(PATIENCE_SECONDS), "--out", str(folder)),
    ]


def report(results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Tables of all results, by what to call them."""
    rows, misses, criteria = [], [], []
    for name, result in results.items():
        spearman, ceiling = result["spearman"], result["noise_ceiling"]
        rows.append(
            (
                name,
                result["placements"],
                f"{result['least_seconds'] * 1e3:.1f} to {result['greatest_seconds'] * 1e3:.1f}",
                f"{result['spread']:.2f}x",
                _figure(spearman),
                _figure(ceiling),
                f"{result['median_error']:.1%}",
                f"{result['median_ratio']:.2f}",
                _figure(result["links_timed_alone"]["spearman"]),
                f"{result['links_timed_alone']['median_error']:.1%}",
                f"{result['links_timed_alone']['median_ratio']:.2f}",
                f"{result['busy_measurements']} of {2 * result['placements']}",
            )
        )
        judged = result["spread"] >= WORTH_JUDGING and not result["busy_measurements"]
        near = spearman is not None and ceiling is not None and spearman >= ceiling - 0.05
        criteria += [
            Criterion(
                f"{name}: Spearman within 0.05 of the ceiling",
                f"{_figure(spearman)} of {_figure(ceiling)}",
                near if judged else None,
            ),
            Criterion(
                f"{name}: median error at most 15%",
                f"{result['median_error']:.1%}",
                result["median_error"] <= 0.15 if judged else None,
            ),
        ]
        for miss in result["misses"][:2]:
            for kind in ("types", "transfers"):
                misses += [
                    (
                        name,
                        f"{miss['kind']} {miss['placement']}",
                        format_seconds(miss["predicted_seconds"]),
                        format_seconds(miss["measured_seconds"]),
                        f"`{found['name']}`, {found['where']}",
                        format_seconds(found["predicted_seconds"]),
                        format_seconds(found["measured_seconds"]),
                    )
                    for found in miss[kind][:2]
                ]
    columns = ("workload", ">placements", ">step times (ms)", ">spread", ">Spearman")
    columns += (">ceiling", ">median error", ">predicted / measured", ">Spearman, links alone")
    columns += (">error, links alone", ">ratio, links alone", ">machine busy")
    of_misses = ("workload", "placement", ">predicted", ">measured", "explained by")
    return Report(
        "fidelity",
        criteria,
        [
            Table("Prediction and measurement", columns, rows),
            Table(
                "What explains the largest misses", (*of_misses, ">predicted", ">traced"), misses
            ),
        ],
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; returns 1 where a criterion does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all of it")
    parser.add_argument("--placements", type=int, default=200)
    parser.add_argument("--only", action="append", help="such as rnnlm-equal; may be repeated")
    parser.add_argument("--page", action="store_true", help="rewrite docs/fidelity.md")
    options = parser.parse_args(arguments)
    terminal.load_tensorflow()
    for subject in SUBJECTS:
        for setting in SETTINGS:
            folder = options.out / f"{subject.workload}-{setting.name}"
            if not options.only or folder.name in options.only:
                call(command(subject, setting, options.placements, folder))
    results = {
        f"{subject.workload}, {setting.name}": msgspec.json.decode(path.read_bytes())
        for subject in SUBJECTS
        for setting in SETTINGS
        if (path := options.out / f"{subject.workload}-{setting.name}" / "fidelity.json").exists()
    }
    found = report(results)
    print(found.markdown())
    if options.page:
        pictures = []
        for path in sorted(options.out.glob("*/fidelity.png")):
            pictures.append(f"fidelity-{path.parent.name}.png")
            (PAGE.parent / pictures[-1]).write_bytes(path.read_bytes())
        illustrated = Illustrated(found.name, found.criteria, found.tables, pictures=pictures)
        PAGE.write_text(rewrite(PAGE.read_text(), [illustrated]))
    return int(any(criterion.holds is False for criterion in found.criteria))


if __name__ == "__main__":
    sys.exit(main())
