"""Workloads: training steps of well-known models, built with Keras.

Their graphs are bundled with placer, so that no tracing is needed to use them::

    graph = placer.OpGraph.load("rnnlm")

``python -m experiments.workloads`` regenerates these.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from placer.errors import UnknownNameError
from placer.graph import OpGraph


@dataclass(frozen=True)
class Workload:
    """A training step that can be built in any size.

    Attributes:
        name: Its name, also that of its module.
        description: One line about it.
    """

    name: str
    description: str

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that it can be built in, as they are in the bundled graph."""
        parameters = inspect.signature(self._module.build).parameters
        return {name: parameter.default for name, parameter in parameters.items()}

    def build(self, **sizes: Any) -> tuple[Any, tuple[Any, ...]]:
        """Returns the step as a ``tf.function`` and the specs of its arguments.

        Args:
            **sizes: What differs from the bundled sizes; see the module's ``build``.
        """
        step, specs = self._module.build(**sizes)
        return step, specs

    def graph(self, **sizes: Any) -> OpGraph:
        """Builds the step and reads its graph."""
        import placer.tf

        step, specs = self.build(**sizes)
        return placer.tf.read(step, *specs, name=self.name)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.name}")


WORKLOADS: dict[str, Workload] = {
    name: Workload(name, description)
    for name, description in {
        "inception_v3": "Inception-V3 on 299 x 299 images, batch 32, SGD",
        "nmt": "translation: 2+2 LSTM layers of 1024, attention, 30+30 steps, batch 64, SGD",
        "resnet50": "ResNet-50 on 224 x 224 images, batch 32, SGD with momentum",
        "rnnlm": "language model: 2 LSTM layers of 2048, 40 steps, batch 64, SGD",
        "transformer": "12-layer Transformer encoder, BERT-base sizes, 128 tokens, batch 32, Adam",
    }.items()
}


TO_MEASURE: dict[str, Workload] = {
    "branches": Workload("branches", "three branches of 4, 2 and 2 dense layers, forward"),
}
"""Workloads that are there to be measured; their graphs are not bundled."""


def get_workload(name: str) -> Workload:
    """Returns a workload by its name.

    Raises:
        UnknownNameError: There is none; the message suggests a near one.
    """
    known = WORKLOADS | TO_MEASURE
    if name not in known:
        raise UnknownNameError("workload", name, known)
    return known[name]
