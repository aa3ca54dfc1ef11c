"""The expert: hand-made placements, found through name scopes."""

from __future__ import annotations

import numpy as np
import pytest

from placer._scopes import scope_of
from placer.cluster import Cluster
from placer.errors import PlacerError
from placer.graph import Op, OpGraph
from placer.grouping import OpGroups
from placer.heuristics.expert import expert
from placer.problem import Problem
from placer.simulator import Simulator
from tests.heuristics.builders import gpus, op


def _devices(ops: list[Op], num_gpus: int) -> dict[str, int]:
    """The GPU (from 0) of each op, with an op group per op."""
    graph, cluster = OpGraph.from_ops("example", ops), gpus(num_gpus, cpu=True)
    groups = OpGroups(graph, np.arange(graph.num_ops, dtype=np.int32), graph.op_names)
    problem = Problem(graph, cluster, groups, Simulator(graph, cluster))
    (choices,) = expert(problem, np.random.default_rng(0))
    return dict(zip(graph.op_names, (choices - 1).tolist(), strict=True))


def test_recurrent_layers_have_a_device_each() -> None:
    """The embedding goes with the first layer, the softmax with the last, gradients with both."""
    devices = _devices(
        [
            op("embedding/step_0/gather"),
            op("lstm_0/step_0/mul", "embedding/step_0/gather"),
            op("lstm_1/step_0/mul", "lstm_0/step_0/mul"),
            op("softmax/step_0/matmul", "lstm_1/step_0/mul"),
            op("gradient_tape/lstm_1/step_0/mul", "softmax/step_0/matmul"),
            op("gradient_tape/lstm_0/step_0/mul", "gradient_tape/lstm_1/step_0/mul"),
        ],
        4,
    )
    assert list(devices.values()) == [0, 0, 1, 1, 1, 0]


def test_more_recurrent_layers_than_devices_start_again() -> None:
    """Encoder and decoder layers are told apart."""
    scopes = ["encoder/lstm_0", "encoder/lstm_1", "decoder/lstm_0", "decoder/lstm_1"]
    ops = [
        op(f"{scope}/mul", f"{scopes[i - 1]}/mul" if i else "") for i, scope in enumerate(scopes)
    ]
    assert list(_devices(ops, 3).values()) == [0, 1, 2, 0]
    assert list(_devices(ops, 4).values()) == [0, 1, 2, 3]


def test_branches_of_a_block_are_side_by_side() -> None:
    """The heaviest branch of each block, and what is no branch, stay on the first device."""
    ops, last = [op("stem/conv")], "stem/conv"
    for block in range(2):
        outputs = []
        for branch, seconds in enumerate([1.0, 3.0, 2.0]):
            ops.append(op(f"mixed_{block}/branch_{branch}/conv", last, seconds))
            outputs.append(f"mixed_{block}/branch_{branch}/conv")
        ops.append(op(f"mixed_{block}/concat", " ".join(outputs)))
        last = f"mixed_{block}/concat"
    devices = _devices(ops, 2)
    assert [devices[f"mixed_1/branch_{branch}/conv"] for branch in range(3)] == [0, 0, 1]
    assert devices["stem/conv"] == devices["mixed_0/concat"] == 0


def test_layers_are_split_into_contiguous_runs() -> None:
    """Six layers on three devices: two each; what is around them goes with its neighbours."""
    names = ["embed/gather", *(f"encoder/layer_{i}/matmul" for i in range(6)), "head/matmul"]
    ops = [op(name, names[i - 1] if i else "") for i, name in enumerate(names)]
    assert list(_devices(ops, 3).values()) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_graph_without_such_scopes_has_no_expert() -> None:
    """The message says what was looked for."""
    with pytest.raises(PlacerError, match="no expert for graph 'example': its name scopes show"):
        _devices([op("a"), op("b", "a")], 2)


@pytest.mark.parametrize(
    ("name", "together", "apart"),
    [
        ("rnnlm", ["lstm_1/step_3", "softmax/step_3"], ["lstm_0/step_3", "lstm_1/step_3"]),
        (
            "nmt",
            ["decoder/lstm_1/step_3", "softmax/step_3", "attention/step_3"],
            ["encoder/lstm_0/step_3", "encoder/lstm_1/step_3", "decoder/lstm_0/step_3"],
        ),
        ("inception_v3", ["stem", "mixed_4"], [f"mixed_4/branch_{i}" for i in range(4)]),
        ("transformer", ["layer_0", "embedding"], ["layer_0", "layer_3", "layer_6", "layer_9"]),
        ("resnet50", ["stage_3/block_0", "stage_3/block_1"], ["stage_0", "stage_3"]),
    ],
)
def test_every_bundled_workload_has_an_expert(
    name: str, together: list[str], apart: list[str]
) -> None:
    """Scopes that belong together share a device for most of their work, others do not."""
    problem = Problem.build(OpGraph.load(name), Cluster.load("p100x4"))
    (choices,) = expert(problem, np.random.default_rng(0))
    devices = problem.expand(choices)
    seconds = problem.op_seconds[:, 1]

    def main_device(scope: str) -> int:
        inside = [
            i
            for i, op_name in enumerate(problem.graph.op_names)
            if scope_of(op_name) == scope or scope_of(op_name).startswith(scope + "/")
        ]
        return int(np.bincount(devices[inside], seconds[inside]).argmax())

    assert len({main_device(scope) for scope in together}) == 1
    assert len({main_device(scope) for scope in apart}) == len(apart)
