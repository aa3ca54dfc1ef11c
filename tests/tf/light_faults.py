"""The process that measures, with faults but without TensorFlow: it starts in no time.

``python -m tests.tf.light_faults FOLDER`` takes what ``placer.tf._measuring`` takes, and the faults
of :mod:`tests.tf.faults`. The step times that it gives are made up.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

from placer.tf import _measuring, _wire
from tests.tf.fault_injection import fault_of, made_up_seconds
from tests.tf.faults import FAULTS


class LightRunner:
    """Takes the place of :class:`placer.tf._measuring.StepRunner`."""

    def __init__(self, _: Path, step: _wire.Step) -> None:
        self._step = step
        self.ran = False

    def devices(self) -> tuple[str, ...]:
        return self._step.devices

    def measure(self, request: _wire.Request) -> _wire.Times:
        self.ran = True
        fault = fault_of(request.devices, json.loads(os.environ["FAULTS"]))
        if fault is not None:
            FAULTS[fault]()
        seconds = (made_up_seconds(request.devices),)
        return _wire.Times(seconds * self._step.warmup, seconds * self._step.steps)


if __name__ == "__main__":
    sys.modules["tensorflow"] = types.ModuleType("tensorflow")
    _measuring.StepRunner = LightRunner
    _measuring.main()
