"""The recurrent language model of the paper: stacked LSTMs over words, unrolled in time."""

from __future__ import annotations

from typing import Any

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
    cells = [
        # Keras's default, orthogonal, takes long to compute at this size
        keras.layers.LSTMCell(num_units, recurrent_initializer="glorot_uniform", name="cell")
        for _ in range(num_layers)
    ]
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
                output = tf.nn.embedding_lookup(embedding.embeddings.value, words[:, step])
            for layer, cell in enumerate(cells):
                with tf.name_scope(f"lstm_{layer}/step_{step}/"):
                    output, states[layer] = cell(output, states[layer])
            with tf.name_scope(f"softmax/step_{step}/"):
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels=next_words[:, step], logits=softmax(output)
                )
                losses.append(tf.reduce_mean(loss))
        with tf.name_scope("loss/"):
            return tf.add_n(losses) / num_steps

    spec = tf.TensorSpec((batch_size, num_steps), tf.int32)
    step = training_step(loss_of, parameters, keras.optimizers.SGD(1.0, name="sgd"))
    return step, (spec, spec)
