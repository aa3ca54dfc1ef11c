"""docs/results.md: ``python -m experiments.results [--jobs J]`` runs all of it and rewrites it.

Runs are kept in ``runs/results``; what is there already is not run again, so that a run that was
stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from experiments import comparison, terminal
from experiments.comparison import Comparison, ComparisonFolder, MethodSummary, summarize
from experiments.comparison.plots import collect_panels, plot_panels
from experiments.tables import format_seconds
from experiments.workloads import WORKLOADS
from placer import files
from placer.cluster import Cluster
from placer.graph import OpGraph

CLUSTERS = ("k80x2", "k80x4", "p100x4", "v100x8")
EVALUATIONS = 1000
NUM_SEEDS = 5
LEFT_OUT = ("ppo", "hierarchical")
PICTURED = "k80x4"

_ROOT = Path(__file__).parent.parent
_RUNS = _ROOT / "runs" / "results"
_DOCS = _ROOT / "docs"


class Published(NamedTuple):
    """Running times of Mirhoseini et al. (ICML 2017): measured seconds of a step.

    Attributes:
        workload: Our graph of the same model; sizes differ.
        cluster: Our cluster of the same GPUs.
        one_gpu: None where it ran out of memory.
        expert: Placed by an expert.
        learned: Placed by the policy.
    """

    workload: str
    cluster: str
    one_gpu: float | None
    expert: float
    learned: float


PUBLISHED = (
    Published("rnnlm", "k80x2", 1.57, 3.81, 1.57),
    Published("rnnlm", "k80x4", 1.57, 4.46, 1.57),
    Published("nmt", "k80x2", None, 4.99, 4.04),
    Published("nmt", "k80x4", None, 4.73, 3.92),
    Published("inception_v3", "k80x2", 4.60, 11.22, 4.60),
    Published("inception_v3", "k80x4", 4.60, 10.65, 3.85),
)


def main() -> None:
    """Runs what is missing, and writes the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at once")
    jobs = parser.parse_args().jobs
    if jobs < 1:
        parser.error(f"--jobs is {jobs}; expected at least 1")
    asked = Comparison(
        graphs=[OpGraph.load(name) for name in WORKLOADS],
        clusters=[Cluster.load(name) for name in CLUSTERS],
        methods=[name for name in comparison.parse_methods("all") if name not in LEFT_OUT],
        evaluations=(EVALUATIONS,),
        num_seeds=NUM_SEEDS,
        orders=("fifo", "priority"),
    )
    folder = ComparisonFolder(_RUNS)
    with folder.journal() as journal:
        found = list(terminal.tracked(comparison.compare(asked, journal, jobs), asked.num_rows))
        if journal.failures:
            task, reason = next(iter(journal.failures.items()))
            raise SystemExit(
                f"{len(journal.failures)} runs failed, such as {task.method}: {reason}; "
                "run this again"
            )
        rows = asked.sort(found)
        folder.write(asked, rows, journal)
    pictured = Comparison(
        asked.graphs,
        [cluster for cluster in asked.clusters if cluster.name == PICTURED],
        asked.methods,
        asked.evaluations,
        asked.num_seeds,
    )
    panels = collect_panels(pictured, journal)
    plot_panels(panels, _DOCS / "results-evaluations.png", "evaluations")
    plot_panels(panels, _DOCS / "results-seconds.png", "seconds")
    files.write_bytes(_DOCS / "results.md", page(summarize(rows)).encode())


def page(summaries: Sequence[MethodSummary]) -> str:
    """The page, from the summaries of all settings."""
    settings = dict.fromkeys((row.workload, row.cluster) for row in summaries)
    tables = "\n".join(
        _setting_table(
            workload,
            cluster,
            [r for r in summaries if (r.workload, r.cluster) == (workload, cluster)],
        )
        for workload, cluster in settings
    )
    return f"""# Results

Every heuristic and every search but {_names(LEFT_OUT)}, for the time that they take, in the same op groups, on the
bundled graphs: {EVALUATIONS:,} evaluations each, heuristics included, {NUM_SEEDS} seeds. `make results` runs what is
missing of it and rewrites this page. Any row can be had alone, for example

```
placer compare rnnlm --cluster k80x4 --methods annealing --evaluations {EVALUATIONS} --seeds {NUM_SEEDS} --order fifo,priority
```

Step times are [simulated](simulator.md). A search starts from the best heuristic with its seed; what is shown is the best
placement that it evaluated itself, so a search may be worse than a heuristic. *Bound* is a step time that no placement
can beat; the gap is how much longer than that the best step takes. The interval reaches from the least to the greatest
over seeds. Seconds are those of the method itself, median over seeds, with other runs beside it; those of a process's
first run of a policy on a problem include TensorFlow's compiling. `pretrained` has [seen](transfer.md) `inception_v3`,
`rnnlm` and `transformer`. *None found*: no feasible placement or, by `exact`, none with a proof.

![Best step time against evaluations on {PICTURED}: median and range of {NUM_SEEDS} seeds](results-evaluations.png)

![Best step time against seconds on {PICTURED}: median and range of {NUM_SEEDS} seeds](results-seconds.png)

## Beside the paper

Mirhoseini et al. ([ICML 2017](https://arxiv.org/abs/1706.04972)) give measured step times, of models of other sizes, on
real K80 GPUs with the TensorFlow of that time. So absolute times say nothing; what can be compared is how much faster the
placement that was learned is than the expert's, and than one GPU. Ours is `reinforce`, in `fifo` order, median over seeds.
NMT did not fit one of their GPUs. Look their figures up before you quote them from here.

{_published_table(summaries)}
## Overview

Over all {len(settings)} settings: the geometric mean of how many times faster a method's median is than the best single device,
and in how many settings no other method's median is less. What found nothing somewhere has no mean.

{_overview(summaries)}
## All methods

{tables}"""  # noqa: E501  (lines of the page)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _overview(summaries: Iterable[MethodSummary]) -> str:
    """A row for each method, over all settings."""
    medians: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in summaries:
        found = row.median_seconds if math.isfinite(row.median_seconds) else math.inf
        medians.setdefault((row.method, row.order), {})[row.workload, row.cluster] = found
    orders = tuple(dict.fromkeys(order for _, order in medians))
    lines = [
        "| method |" + "".join(f" {order}: speedup | best in |" for order in orders),
        "|---|" + "--:|--:|" * len(orders),
    ]
    for method in dict.fromkeys(method for method, _ in medians):
        cells = [f"`{method}`"]
        for order in orders:
            own, single = medians[method, order], medians["single_device", order]
            speedups = [single[at] / own[at] for at in own]
            whole = all(0 < speedup < math.inf for speedup in speedups)
            rivals = [of for (_, its), of in medians.items() if its == order]
            best = sum(own[at] == min(of[at] for of in rivals) < math.inf for at in own)
            cells += [f"{geometric_mean(speedups):.2f}x" if whole else "-", str(best)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _published_table(summaries: Iterable[MethodSummary]) -> str:
    ours = {
        (row.workload, row.cluster, row.method): row.median_seconds
        for row in summaries
        if row.order == "fifo"
    }
    lines = [
        "| workload | cluster | theirs: one GPU | expert | learned | over the expert "
        "| over one GPU | ours: one GPU | expert | learned | over the expert | over one GPU |",
        "|---|---|" + "--:|" * 10,
    ]
    for theirs in PUBLISHED:
        single, expert, learned = (
            ours.get((theirs.workload, theirs.cluster, method), math.nan)
            for method in ("single_device", "expert", "reinforce")
        )
        cells = [
            f"`{theirs.workload}`",
            f"`{theirs.cluster}`",
            *_figures(theirs.one_gpu, theirs.expert, theirs.learned),
            *_figures(single, expert, learned),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figures(one_gpu: float | None, expert: float, learned: float | None) -> list[str]:
    """One GPU, expert and learned, and how many times faster the last is than the others."""
    return [
        *("-" if value is None else format_seconds(value) for value in (one_gpu, expert, learned)),
        *(
            f"{other / learned:.2f}x"
            if other and learned and math.isfinite(other / learned)
            else "-"
            for other in (expert, one_gpu)
        ),
    ]


def _setting_table(workload: str, cluster: str, rows: Sequence[MethodSummary]) -> str:
    """All methods on one graph and cluster, both orders side by side."""
    orders = tuple(dict.fromkeys(row.order for row in rows))
    by_method = {(row.method, row.order): row for row in rows}
    bound = max(
        (row.lower_bound_seconds for row in rows if math.isfinite(row.lower_bound_seconds)),
        default=math.nan,
    )
    found = [row for row in rows if row.num_feasible]
    best = {
        order: min((row.best_seconds for row in found if row.order == order), default=math.nan)
        for order in orders
    }
    lines = [
        f"### `{workload}` on `{cluster}`",
        "",
        f"No placement takes less than {format_seconds(bound)}.",
        "",
        "| method | evaluations |"
        + "".join(f" {order}: median | interval | gap | seconds |" for order in orders),
        "|---|--:|" + "--:|---|--:|--:|" * len(orders),
    ]
    for method in dict.fromkeys(row.method for row in rows):
        cells = [f"`{method}`", f"{by_method[method, orders[0]].evaluations:,}"]
        for order in orders:
            cells += _cells(by_method[method, order], best[order])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cells(row: MethodSummary, best: float) -> list[str]:
    """Median, interval, gap and seconds; bold where the least step time of all is in it."""
    if not row.num_feasible:
        return ["-", "none found", "", format_seconds(row.seconds)]
    median = format_seconds(row.median_seconds)
    low, high = format_seconds(row.best_seconds), format_seconds(row.high_seconds)
    interval = low if low == high else f"{low} to {high}"
    missing = row.num_seeds - row.num_feasible
    return [
        f"**{median}**" if row.best_seconds == best else median,
        f"{interval}, {missing} without" if missing else interval,
        f"{row.gap:.0%}" if math.isfinite(row.gap) else "",
        format_seconds(row.seconds),
    ]


if __name__ == "__main__":
    main()
