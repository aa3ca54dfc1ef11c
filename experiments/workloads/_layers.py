"""Layers that several workloads use."""

from __future__ import annotations

from typing import Any


class ConvNorm:
    """A convolution without bias, then batch normalization in training mode.

    Args:
        index: Number within its name scope.
        filters: Number of filters.
        kernel: Height and width of the kernel.
        stride: Stride in both directions.
        padding: ``"same"`` or ``"valid"``.
        scale: Whether the normalization learns a scale.
    """

    def __init__(
        self,
        index: int,
        filters: int,
        kernel: tuple[int, int],
        stride: int = 1,
        padding: str = "same",
        *,
        scale: bool = True,
    ) -> None:
        import keras

        self.convolution = keras.layers.Conv2D(
            filters, kernel, stride, padding, use_bias=False, name=f"conv_{index}"
        )
        self.norm = keras.layers.BatchNormalization(scale=scale, name=f"norm_{index}")
        self.layers = (self.convolution, self.norm)

    def __call__(self, features: Any) -> Any:
        return self.norm(self.convolution(features), training=True)


def lstm_cell(num_units: int) -> Any:
    """An LSTM cell of Keras."""
    import keras

    # Keras's own choice for the recurrent kernel, orthogonal, takes long to compute
    return keras.layers.LSTMCell(num_units, recurrent_initializer="glorot_uniform", name="cell")


def lstm_step(scope: str, cells: list[Any], inputs: Any, states: list[Any], step: int) -> Any:
    """One time step of stacked LSTM layers, each in its scope ``{scope}lstm_{layer}/step_{step}``.

    Args:
        scope: Name scope of the stack, ending in ``/``, or empty.
        cells: A cell per layer.
        inputs: What the first layer reads, ``[batch_size, num_units]``.
        states: State of each layer; the new ones replace it.
        step: Number of the step.

    Returns:
        What the last layer says, ``[batch_size, num_units]``.
    """
    import tensorflow as tf

    for layer, cell in enumerate(cells):
        with tf.name_scope(f"{scope}lstm_{layer}/step_{step}/"):
            inputs, states[layer] = cell(inputs, states[layer])
    return inputs


def word_loss(layer: Any, outputs: Any, words: Any, step: int) -> Any:
    """Mean cross-entropy at one step, projection included, in the scope ``softmax/step_{step}``.

    Args:
        layer: The projection to the vocabulary.
        outputs: What it reads, ``[batch_size, num_units]``.
        words: The right words, ``[batch_size, num_steps]``.
        step: Number of the step.
    """
    import tensorflow as tf

    with tf.name_scope(f"softmax/step_{step}/"):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=words[:, step], logits=layer(outputs)
        )
        return tf.reduce_mean(losses)
