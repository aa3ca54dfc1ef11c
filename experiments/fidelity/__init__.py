"""How well simulated step times agree with measured ones, over many placements.

A folder has what was measured, so that it can go on after a stop and be looked at again:

======================  =========================================================
``config.toml``         what was asked; :class:`FidelityConfig`
``graph.json.gz``       the profiled graph, ``cluster.toml`` the calibrated cluster
``fitted.toml``         the same cluster with links fitted to all measured steps
``placements.jsonl``    the placements, a :class:`Candidate` a line
``measurements.jsonl``  what was measured, a :class:`Repetition` a line
``misses.json``         what explains the largest misses
``fidelity.json``       the figures; ``.csv`` a row per placement, ``.png`` a picture
======================  =========================================================
"""

from experiments.fidelity.figures import (
    Comparison,
    Repetition,
    compare,
    fit_all,
    predict,
    rank_correlation,
)
from experiments.fidelity.folder import FidelityConfig, FidelityFolder, measure_all
from experiments.fidelity.misses import Miss, explain_misses
from experiments.fidelity.placements import KINDS, Candidate, choose_placements
from experiments.fidelity.report import fidelity_tables

__all__ = [
    "KINDS",
    "Candidate",
    "Comparison",
    "FidelityConfig",
    "FidelityFolder",
    "Miss",
    "Repetition",
    "choose_placements",
    "compare",
    "explain_misses",
    "fidelity_tables",
    "fit_all",
    "measure_all",
    "predict",
    "rank_correlation",
]
