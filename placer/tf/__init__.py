"""TensorFlow in and out: programs become graphs, and run where a placement says."""

from placer.tf.apply import PlacedFunction, apply, apply_to_graph_def, device_map
from placer.tf.measure import MeasuredEvaluator, Measurement
from placer.tf.read import Reading, read, read_report
from placer.tf.verify import OpRun, Verification, verify

__all__ = [
    "MeasuredEvaluator",
    "Measurement",
    "OpRun",
    "PlacedFunction",
    "Reading",
    "Verification",
    "apply",
    "apply_to_graph_def",
    "device_map",
    "read",
    "read_report",
    "verify",
]
