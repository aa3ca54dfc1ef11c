"""TensorFlow in and out: programs become graphs, and run where a placement says."""

from placer.tf._wire import OpTimes
from placer.tf.apply import PlacedFunction, apply, apply_to_graph_def, device_map
from placer.tf.calibrate import Calibration, calibrate, calibrate_report
from placer.tf.fit_links import fit_links
from placer.tf.measure import MeasuredEvaluator
from placer.tf.measurements import Measurement
from placer.tf.profile import profile
from placer.tf.read import Reading, read, read_report
from placer.tf.servers import address_of, start_server
from placer.tf.verify import OpRun, Verification, verify
from placer.tf.workers import LocalWorkers

__all__ = [
    "Calibration",
    "LocalWorkers",
    "MeasuredEvaluator",
    "Measurement",
    "OpRun",
    "OpTimes",
    "PlacedFunction",
    "Reading",
    "Verification",
    "address_of",
    "apply",
    "apply_to_graph_def",
    "calibrate",
    "calibrate_report",
    "device_map",
    "fit_links",
    "profile",
    "read",
    "read_report",
    "start_server",
    "verify",
]
