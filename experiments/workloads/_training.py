"""What the workloads share: one training step of a forward function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def training_step(loss_of: Callable[..., Any], parameters: Sequence[Any], optimizer: Any) -> Any:
    """Returns forward, loss, backward and optimizer as one ``tf.function``.

    Args:
        loss_of: The loss of a batch, a scalar.
        parameters: The Keras variables to train.
        optimizer: A Keras optimizer.
    """
    import tensorflow as tf

    optimizer.build(parameters)

    def train_step(*batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(*batch)
        gradients = tape.gradient(loss, [v.value for v in parameters])
        optimizer.apply(gradients, parameters)
        return loss

    return tf.function(train_step, autograph=False)


def make_variables(loss_of: Callable[..., Any], *specs: Any) -> None:
    """Has Keras make the variables of all layers, which it does when they are first called."""
    import tensorflow as tf

    tf.function(loss_of, autograph=False).get_concrete_function(*specs)


def classification_loss(labels: Any, logits: Any) -> Any:
    """Mean cross-entropy of one label per row, in a scope of its own."""
    import tensorflow as tf

    with tf.name_scope("loss/"):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        return tf.reduce_mean(losses)
