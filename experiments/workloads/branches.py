"""Three branches of unequal depth: a model that is worth splitting over two devices of any kind."""

from __future__ import annotations

from typing import Any


def build(
    *, batch_size: int = 1024, num_units: int = 1024, deep: int = 4, shallow: int = 2
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one step: dense layers in three branches of the same input, and the mean of all.

    Args:
        batch_size: Rows of the input.
        num_units: Width of the input and of all layers.
        deep: Layers of the first branch.
        shallow: Layers of each of the two others.

    Returns:
        The step as a ``tf.function`` of the input, and its spec.
    """
    import tensorflow as tf

    rng = tf.random.Generator.from_seed(0)
    weights = {
        name: [
            tf.Variable(rng.normal((num_units, num_units), stddev=num_units**-0.5))
            for _ in range(depth)
        ]
        for name, depth in (("deep", deep), ("left", shallow), ("right", shallow))
    }

    def branches(inputs: Any) -> Any:
        results = []
        for name, layers in weights.items():
            features = inputs
            for layer, weight in enumerate(layers):
                with tf.name_scope(f"{name}/layer_{layer}/"):
                    features = tf.nn.relu(features @ weight)
            with tf.name_scope(f"{name}/mean/"):
                results.append(tf.reduce_mean(features))
        with tf.name_scope("loss/"):
            return tf.add_n(results)

    return tf.function(branches, autograph=False), (tf.TensorSpec((batch_size, num_units)),)
