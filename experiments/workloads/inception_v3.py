"""Inception-V3, an image classifier whose blocks have parallel branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from experiments.workloads._layers import ConvNorm
from experiments.workloads._training import classification_loss, make_variables, training_step

# A convolution: filters, kernel, stride, padding. A pool: its kind, window, stride. A tuple in a
# list of layers: layers side by side on the same input, concatenated.
Conv = tuple[int, tuple[int, int], int, str]


def _conv(filters: int, height: int, width: int, stride: int = 1, padding: str = "same") -> Conv:
    return filters, (height, width), stride, padding


_STEM = [
    _conv(32, 3, 3, 2, "valid"),
    _conv(32, 3, 3, 1, "valid"),
    _conv(64, 3, 3),
    "max_pool",
    _conv(80, 1, 1, 1, "valid"),
    _conv(192, 3, 3, 1, "valid"),
    "max_pool",
]


def _block_35(pool_filters: int) -> list[list[Any]]:
    return [
        [_conv(64, 1, 1)],
        [_conv(48, 1, 1), _conv(64, 5, 5)],
        [_conv(64, 1, 1), _conv(96, 3, 3), _conv(96, 3, 3)],
        ["average_pool", _conv(pool_filters, 1, 1)],
    ]


def _block_17(inner: int) -> list[list[Any]]:
    return [
        [_conv(192, 1, 1)],
        [_conv(inner, 1, 1), _conv(inner, 1, 7), _conv(192, 7, 1)],
        [
            _conv(inner, 1, 1),
            _conv(inner, 7, 1),
            _conv(inner, 1, 7),
            _conv(inner, 7, 1),
            _conv(192, 1, 7),
        ],
        ["average_pool", _conv(192, 1, 1)],
    ]


def _block_8() -> list[list[Any]]:
    split = (_conv(384, 1, 3), _conv(384, 3, 1))
    return [
        [_conv(320, 1, 1)],
        [_conv(384, 1, 1), split],
        [_conv(448, 1, 1), _conv(384, 3, 3), split],
        ["average_pool", _conv(192, 1, 1)],
    ]


_BLOCKS: list[list[list[Any]]] = [
    _block_35(32),
    _block_35(64),
    _block_35(64),
    [
        [_conv(384, 3, 3, 2, "valid")],
        [_conv(64, 1, 1), _conv(96, 3, 3), _conv(96, 3, 3, 2, "valid")],
        ["max_pool"],
    ],
    _block_17(128),
    _block_17(160),
    _block_17(160),
    _block_17(192),
    [
        [_conv(192, 1, 1), _conv(320, 3, 3, 2, "valid")],
        [_conv(192, 1, 1), _conv(192, 1, 7), _conv(192, 7, 1), _conv(192, 3, 3, 2, "valid")],
        ["max_pool"],
    ],
    _block_8(),
    _block_8(),
]


def build(
    *,
    batch_size: int = 32,
    image_size: int = 299,
    num_classes: int = 1000,
    num_blocks: int = 11,
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one training step: forward, loss, backward, SGD.

    Szegedy et al., *Rethinking the Inception Architecture* (arXiv 1512.00567), without the
    auxiliary head and with the layers of ``keras.applications.InceptionV3``.

    Args:
        batch_size: Images per step.
        image_size: Height and width of an image.
        num_classes: Number of classes.
        num_blocks: How many of the 11 blocks there are, for small versions.

    Returns:
        The step as a ``tf.function`` of (images, labels), and the specs of these.
    """
    import keras
    import tensorflow as tf

    stem = _Branch("stem", _STEM)
    blocks = [
        [_Branch(f"mixed_{b}/branch_{i}", layers) for i, layers in enumerate(branches)]
        for b, branches in enumerate(_BLOCKS[:num_blocks])
    ]
    head = keras.layers.Dense(num_classes, name="logits")

    def loss_of(images: Any, labels: Any) -> Any:
        features = stem(images)
        for b, branches in enumerate(blocks):
            outputs = [branch(features) for branch in branches]
            with tf.name_scope(f"mixed_{b}/"):
                features = tf.concat(outputs, 3)
        with tf.name_scope("head/"):
            logits = head(tf.reduce_mean(features, [1, 2]))
        return classification_loss(labels, logits)

    images = tf.TensorSpec((batch_size, image_size, image_size, 3), tf.float32)
    labels = tf.TensorSpec((batch_size,), tf.int32)
    make_variables(loss_of, images, labels)
    branches = [stem, *(branch for row in blocks for branch in row)]
    layers = [layer for branch in branches for conv in branch.convolutions for layer in conv.layers]
    parameters = [v for layer in (*layers, head) for v in layer.trainable_variables]
    step = training_step(loss_of, parameters, keras.optimizers.SGD(0.045, name="sgd"))
    return step, (images, labels)


class _Branch:
    """A chain of layers under one name scope."""

    def __init__(self, scope: str, layers: Sequence[Any]) -> None:
        self.scope = scope
        self.convolutions: list[ConvNorm] = []
        self._calls = [self._make(spec) for spec in layers]

    def _make(self, spec: Any) -> Callable[[Any], Any]:
        import keras

        if spec == "max_pool":
            return lambda x: keras.ops.max_pool(x, 3, 2)
        if spec == "average_pool":
            return lambda x: keras.ops.average_pool(x, 3, 1, "same")
        if isinstance(spec[0], tuple):
            parts = [self._make(part) for part in spec]
            return lambda x: keras.ops.concatenate([part(x) for part in parts], 3)
        layer = ConvNorm(len(self.convolutions), *spec, scale=False)
        self.convolutions.append(layer)
        return lambda x: keras.ops.relu(layer(x))

    def __call__(self, features: Any) -> Any:
        import tensorflow as tf

        with tf.name_scope(self.scope + "/"):
            for call in self._calls:
                features = call(features)
        return features
