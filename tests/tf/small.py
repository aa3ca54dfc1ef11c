"""Measurements of devices that are quick."""

from __future__ import annotations

import importlib

import pytest

from placer.tf import _links


def small_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has what describes a machine run small ops and transfers only, and once."""
    calibrate = importlib.import_module("placer.tf.calibrate")  # the name is also a function's
    monkeypatch.setattr(calibrate, "_MATMUL_SIZE", {"cpu": 128})
    monkeypatch.setattr(calibrate, "_COPY_BYTES", 1 << 18)
    monkeypatch.setattr(calibrate, "_NUM_TINY", 20)
    monkeypatch.setattr(calibrate, "_STEPS", 2)
    monkeypatch.setattr(calibrate, "_RUNS", 1)
    monkeypatch.setattr(_links, "SIZES_BYTES", (64, 1 << 18))
