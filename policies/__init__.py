"""Policies that place op groups on devices, and their training by REINFORCE.

TensorFlow is imported with :mod:`policies.networks` and :mod:`policies.reinforce`, not here.
"""

from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled.npz"
"""The policy that placer brings along; ``make policy`` trains it."""
