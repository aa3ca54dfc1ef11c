"""The recurrent language model of the paper: stacked LSTMs over words, unrolled in time."""

from __future__ import annotations

from typing import Any

from experiments.workloads._layers import lstm_cell, lstm_step, word_loss
from experiments.workloads._training import training_step


def build(
    *,
    batch_size: int = 64,
    num_steps: int = 40,
    num_layers: int = 2,
    num_units: int = 2048,
    vocabulary: int = 10_000,
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one training step: forward, loss, backward, SGD.

    Jozefowicz et al., *Exploring the Limits of Language Modeling* (arXiv 1602.02410), with the
    sizes of Mirhoseini et al. (arXiv 1706.04972, section 4.1). The vocabulary is that of the Penn
    Treebank.

    Args:
        batch_size: Sequences per step.
        num_steps: Words per sequence.
        num_layers: LSTM layers.
        num_units: Units of each layer, also the width of the embedding.
        vocabulary: Number of words.

    Returns:
        The step as a ``tf.function`` of (words, next words), and the specs of these.
    """
    import keras
    import tensorflow as tf

    embedding = keras.layers.Embedding(vocabulary, num_units, name="embedding")
    embedding.build((batch_size, num_steps))
    cells = [lstm_cell(num_units) for _ in range(num_layers)]
    softmax = keras.layers.Dense(vocabulary, name="logits")
    for layer in (*cells, softmax):
        layer.build((batch_size, num_units))
    parameters = [v for layer in (embedding, *cells, softmax) for v in layer.trainable_variables]

    def loss_of(words: Any, next_words: Any) -> Any:
        losses = []
        zeros = tf.zeros((batch_size, num_units))
        states = [[zeros, zeros] for _ in cells]
        for step in range(num_steps):
            with tf.name_scope(f"embedding/step_{step}/"):
                inputs = tf.nn.embedding_lookup(embedding.embeddings.value, words[:, step])
            outputs = lstm_step("", cells, inputs, states, step)
            losses.append(word_loss(softmax, outputs, next_words, step))
        with tf.name_scope("loss/"):
            return tf.add_n(losses) / num_steps

    step = training_step(loss_of, parameters, keras.optimizers.SGD(1.0, name="sgd"))
    spec = tf.TensorSpec((batch_size, num_steps), tf.int32)
    return step, (spec, spec)
