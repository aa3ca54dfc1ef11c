"""Comparisons of methods under one budget, over several seeds.

What is asked (:mod:`~experiments.comparison.asked`) is cut into tasks; processes
(:mod:`~experiments.comparison.workers`) run those (:mod:`~experiments.comparison.runner`) that the
journal (:mod:`~experiments.comparison.journal`) lacks. What is finished becomes rows, rows become
summaries, tables and plots, and a folder keeps them all.
"""

from experiments.comparison.asked import Comparison, parse_budgets, parse_methods, parse_orders
from experiments.comparison.comparing import compare
from experiments.comparison.folder import ComparisonFolder
from experiments.comparison.journal import Journal
from experiments.comparison.rows import ComparisonRow
from experiments.comparison.summaries import MethodSummary, summarize

__all__ = [
    "Comparison",
    "ComparisonFolder",
    "ComparisonRow",
    "Journal",
    "MethodSummary",
    "compare",
    "parse_budgets",
    "parse_methods",
    "parse_orders",
    "summarize",
]
