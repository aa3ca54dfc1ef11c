"""Workloads, runs on disk, comparisons, plots, and the command line."""
