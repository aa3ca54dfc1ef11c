"""ResNet-50, an image classifier that is one long chain of blocks."""

from __future__ import annotations

from typing import Any

from experiments.workloads._layers import ConvNorm
from experiments.workloads._training import classification_loss, make_variables, training_step


def build(
    *,
    batch_size: int = 32,
    image_size: int = 224,
    num_classes: int = 1000,
    num_blocks: tuple[int, ...] = (3, 4, 6, 3),
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one training step: forward, loss, backward, SGD with momentum.

    He et al., *Deep Residual Learning for Image Recognition* (arXiv 1512.03385), with the stride
    of a block in its 3x3 convolution, as is usual today.

    Args:
        batch_size: Images per step.
        image_size: Height and width of an image.
        num_classes: Number of classes.
        num_blocks: Blocks of each stage.

    Returns:
        The step as a ``tf.function`` of (images, labels), and the specs of these.
    """
    import keras
    import tensorflow as tf

    stem = ConvNorm(0, 64, (7, 7), 2)
    blocks = [
        _Block(f"stage_{stage}/block_{i}", 64 * 2**stage, first=i == 0, stride=1 + (stage > 0))
        for stage, count in enumerate(num_blocks)
        for i in range(count)
    ]
    head = keras.layers.Dense(num_classes, name="logits")

    def loss_of(images: Any, labels: Any) -> Any:
        with tf.name_scope("stem/"):
            features = keras.ops.max_pool(keras.ops.relu(stem(images)), 3, 2, "same")
        for block in blocks:
            features = block(features)
        with tf.name_scope("head/"):
            logits = head(tf.reduce_mean(features, [1, 2]))
        return classification_loss(labels, logits)

    images = tf.TensorSpec((batch_size, image_size, image_size, 3), tf.float32)
    labels = tf.TensorSpec((batch_size,), tf.int32)
    make_variables(loss_of, images, labels)
    convolutions = [stem, *(conv for block in blocks for conv in block.convolutions)]
    layers = [*(layer for conv in convolutions for layer in conv.layers), head]
    parameters = [v for layer in layers for v in layer.trainable_variables]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, name="sgd")
    return training_step(loss_of, parameters, optimizer), (images, labels)


class _Block:
    """Three convolutions, added to what they read; the first block of a stage projects that."""

    def __init__(self, scope: str, filters: int, *, first: bool, stride: int) -> None:
        self.scope = scope
        self.convolutions = [
            ConvNorm(0, filters, (1, 1)),
            ConvNorm(1, filters, (3, 3), stride if first else 1),
            ConvNorm(2, 4 * filters, (1, 1)),
        ]
        if first:
            self.convolutions.append(ConvNorm(3, 4 * filters, (1, 1), stride))

    def __call__(self, features: Any) -> Any:
        import keras
        import tensorflow as tf

        reduce, spread, expand, *project = self.convolutions
        with tf.name_scope(self.scope + "/"):
            inner = keras.ops.relu(spread(keras.ops.relu(reduce(features))))
            shortcut = project[0](features) if project else features
            return keras.ops.relu(expand(inner) + shortcut)
