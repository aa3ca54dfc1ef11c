"""The workloads are the published models, and the bundled graphs are theirs."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

from experiments.workloads import WORKLOADS, get_workload
from experiments.workloads import __main__ as command
from placer import OpGraph
from placer.errors import UnknownNameError
from placer.graph import bundled_graphs
from placer.tf._costs import NO_WORK

SMALL = {
    "inception_v3": {"batch_size": 2, "image_size": 75, "num_classes": 5, "num_blocks": 1},
    "nmt": {"batch_size": 2, "num_steps": 3, "num_units": 8, "vocabulary": 20},
    "resnet50": {"batch_size": 2, "image_size": 32, "num_classes": 5, "num_blocks": (1, 1)},
    "rnnlm": {"batch_size": 2, "num_steps": 3, "num_units": 8, "vocabulary": 20},
    "transformer": {
        "batch_size": 2,
        "num_positions": 4,
        "num_layers": 1,
        "num_units": 8,
        "num_heads": 2,
        "vocabulary": 20,
    },
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_small_versions_train(name) -> None:
    """The step that is read is one that runs, and its loss falls."""
    step, specs = get_workload(name).build(**SMALL[name])
    generator = np.random.default_rng(0)
    batch = [
        generator.normal(size=spec.shape).astype(np.float32)
        if spec.dtype.is_floating
        else generator.integers(0, 2, size=spec.shape).astype(np.int32)
        for spec in specs
    ]
    losses = [float(step(*batch)) for _ in range(10)]
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("name", WORKLOADS)
def test_small_versions_are_read_the_same_twice(name) -> None:
    """Building anew gives the same graph, whatever was built before."""
    assert get_workload(name).graph(**SMALL[name]) == get_workload(name).graph(**SMALL[name])


@pytest.mark.parametrize("name", WORKLOADS)
def test_bundled_graphs_are_sane(name) -> None:
    """Every op that works has bytes, every variable's ops are one group, names say scopes."""
    graph = OpGraph.load(name)
    assert graph.name == name
    works = np.array([t not in NO_WORK for t in graph.op_types])
    assert (graph.bytes_accessed[works] > 0).all()
    assert not graph.bytes_accessed[~works].any()
    producers, consumers, tensors = graph.edges
    handles = np.array([t == "VarHandleOp" for t in graph.op_types])
    data = (tensors >= 0) & handles[producers]
    groups = graph.colocation_group
    assert (groups[producers[data]] >= 0).all()
    assert (groups[producers[data]] == groups[consumers[data]]).all()


def _flops_in(graph: OpGraph, pattern: str) -> float:
    return sum(f for n, f in zip(graph.op_names, graph.flops, strict=True) if re.search(pattern, n))


def _matmul_flops(graph: OpGraph) -> float:
    return sum(f for t, f in zip(graph.op_types, graph.flops, strict=True) if "MatMul" in t)


def test_inception_v3_has_the_published_work() -> None:
    """5.7 G multiply-adds an image forward, as is known of it.

    Training takes three times that, less the first layer's gradient to the image.
    """
    graph = OpGraph.load("inception_v3")
    forward = _flops_in(graph, r"^(stem|mixed|head)")
    assert forward / 32 / 2 == pytest.approx(5.72e9, rel=0.02)
    assert graph.flops.sum() == pytest.approx(3 * forward, rel=0.02)


def test_image_models_have_the_published_parameters() -> None:
    """Bytes of all variables are those of Keras's own model, or of the paper's."""
    inception = keras.applications.InceptionV3(weights=None)
    graph = OpGraph.load("inception_v3")
    extra = 4 + 8  # learning rate, step count
    assert graph.parameter_bytes.sum() == inception.count_params() * 4 + extra
    # 25,557,032 trainable, as torchvision's; a momentum for each; 53,120 moving statistics
    graph = OpGraph.load("resnet50")
    assert graph.parameter_bytes.sum() == (2 * 25_557_032 + 53_120) * 4 + extra


def test_resnet50_has_the_published_work() -> None:
    """4.1 G multiply-adds an image forward, three times that in training."""
    graph = OpGraph.load("resnet50")
    forward = _flops_in(graph, r"^(stem|stage|head)")
    assert forward / 32 / 2 == pytest.approx(4.1e9, rel=0.02)
    assert graph.flops.sum() == pytest.approx(3 * forward, rel=0.02)


def test_rnnlm_has_the_work_of_its_products() -> None:
    """Forward, [64, 4096] x [4096, 8192] per layer and step and [64, 2048] x [2048, 10000] per step.

    Backward takes twice that, but the zero state before step 0 needs no gradient.
    """
    graph = OpGraph.load("rnnlm")
    cell, projection = 2 * 64 * 4096 * 8192, 2 * 64 * 2048 * 10_000
    no_gradient = 2 * (cell // 2)
    assert _matmul_flops(graph) == 3 * 40 * (2 * cell + projection) - no_gradient
    assert graph.flops.sum() == pytest.approx(_matmul_flops(graph), rel=0.01)
    weights = 2 * 10_000 * 2048 + 10_000 + 2 * (4096 * 8192 + 8192)
    assert graph.parameter_bytes.sum() == 4 * weights + 12


def test_nmt_has_the_work_of_its_products() -> None:
    """Layers, attention and projection, worked out by hand."""
    graph = OpGraph.load("nmt")
    batch, steps, units, words = 64, 30, 1024, 32_000
    cell, projection = 2 * batch * 2 * units * 4 * units, 2 * batch * units * words
    attention = 2 * 2 * batch * steps * units + 2 * batch * 2 * units * units
    keys = 2 * batch * steps * units * units
    no_gradient = 2 * (cell // 2)
    expected = 3 * (steps * (4 * cell + projection + attention) + keys) - no_gradient
    assert _matmul_flops(graph) == expected


def test_transformer_has_the_work_of_its_products() -> None:
    """12 layers of 12 h² per token and attention over 128 positions; three times in training."""
    graph = OpGraph.load("transformer")
    tokens, units, positions = 32 * 128, 768, 128
    layer = 2 * tokens * 12 * units**2 + 2 * 2 * tokens * positions * units
    products = sum(
        f
        for t, f in zip(graph.op_types, graph.flops, strict=True)
        if "MatMul" in t or t == "Einsum"
    )
    assert products == pytest.approx(3 * 12 * layer, rel=0.001)


def test_unrolled_scopes_name_layer_and_step() -> None:
    """Forward and backward ops of each layer and step can be told by their names."""
    for name, stacks, steps in (("rnnlm", ("",), 40), ("nmt", ("encoder/", "decoder/"), 30)):
        graph = OpGraph.load(name)
        for stack in stacks:
            for prefix in ("", "gradient_tape/"):
                found = {
                    m.groups()
                    for n in graph.op_names
                    if (m := re.match(rf"{prefix}{stack}lstm_(\d+)/step_(\d+)/", n))
                }
                assert found == {(str(k), str(t)) for k in range(2) for t in range(steps)}


def test_unknown_workloads_are_refused_with_a_suggestion() -> None:
    """A near miss gets the name that was meant."""
    with pytest.raises(UnknownNameError, match="unknown workload 'rnlm'; did you mean 'rnnlm'"):
        get_workload("rnlm")


def test_extraction_gives_the_bundled_graph(tmp_path, monkeypatch, capsys) -> None:
    """The command writes what is bundled; an unknown name is one line and exit code 2."""
    monkeypatch.setattr(command, "BUNDLED", tmp_path)
    assert command.main(["rnlm"]) == 2
    assert "did you mean 'rnnlm'?" in capsys.readouterr().err
    assert command.main(["rnnlm"]) == 0
    bundled = bundled_graphs()["rnnlm"]
    assert (tmp_path / "rnnlm.json.gz").read_bytes() == bundled.read_bytes()
