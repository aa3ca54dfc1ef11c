"""Settings for the whole suite."""

from __future__ import annotations

import os

import hypothesis

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the suite needs no GPU

# the same examples in every run; a failure prints how to see it again
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("suite")
