"""Neural machine translation: LSTM encoder and decoder with attention, unrolled in time."""

from __future__ import annotations

from typing import Any

from experiments.workloads._layers import lstm_cell, lstm_step, word_loss
from experiments.workloads._training import training_step


def build(
    *,
    batch_size: int = 64,
    num_steps: int = 30,
    num_layers: int = 2,
    num_units: int = 1024,
    vocabulary: int = 32_000,
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one training step: forward, loss, backward, SGD.

    Encoder, decoder and attention (score "general", no input feeding) as in Luong et al.,
    *Effective Approaches to Attention-based Neural Machine Translation* (arXiv 1508.04025), whose
    optimizer is SGD too, with the sizes of Mirhoseini et al. (arXiv 1706.04972, section 4.1).

    Args:
        batch_size: Pairs of sentences per step.
        num_steps: Words per sentence, in either language.
        num_layers: LSTM layers of the encoder, and of the decoder.
        num_units: Units of each layer, also the width of the embeddings.
        vocabulary: Number of words in either language.

    Returns:
        The step as a ``tf.function`` of (source words, target words, next target words), and the
        specs of these.
    """
    import keras
    import tensorflow as tf

    source = keras.layers.Embedding(vocabulary, num_units, name="embedding")
    target = keras.layers.Embedding(vocabulary, num_units, name="embedding")
    encoder = [lstm_cell(num_units) for _ in range(num_layers)]
    decoder = [lstm_cell(num_units) for _ in range(num_layers)]
    keys = keras.layers.Dense(num_units, use_bias=False, name="keys")
    combine = keras.layers.Dense(num_units, activation="tanh", use_bias=False, name="combine")
    softmax = keras.layers.Dense(vocabulary, name="logits")
    for layer in (source, target):
        layer.build((batch_size, num_steps))
    for layer in (*encoder, *decoder, keys, softmax):
        layer.build((batch_size, num_units))
    combine.build((batch_size, 2 * num_units))
    layers = (source, target, *encoder, *decoder, keys, combine, softmax)
    parameters = [v for layer in layers for v in layer.trainable_variables]

    def lookup(scope: str, embedding: Any, words: Any, step: int) -> Any:
        with tf.name_scope(f"{scope}/embedding/step_{step}/"):
            return tf.nn.embedding_lookup(embedding.embeddings.value, words[:, step])

    def attend(step: int, outputs: Any, memory: Any, scored: Any) -> Any:
        with tf.name_scope(f"attention/step_{step}/"):
            weights = tf.nn.softmax(tf.linalg.matvec(scored, outputs))  # [batch_size, num_steps]
            context = tf.linalg.matvec(memory, weights, transpose_a=True)
            return combine(tf.concat([context, outputs], 1))

    def loss_of(source_words: Any, target_words: Any, next_words: Any) -> Any:
        zeros = tf.zeros((batch_size, num_units))
        states = [[zeros, zeros] for _ in encoder]
        encoded = []
        for step in range(num_steps):
            inputs = lookup("encoder", source, source_words, step)
            encoded.append(lstm_step("encoder/", encoder, inputs, states, step))
        with tf.name_scope("attention/memory/"):
            memory = tf.stack(encoded, 1)  # [batch_size, num_steps, num_units]
            scored = keys(memory)
        losses = []
        for step in range(num_steps):
            inputs = lookup("decoder", target, target_words, step)
            outputs = lstm_step("decoder/", decoder, inputs, states, step)
            outputs = attend(step, outputs, memory, scored)
            losses.append(word_loss(softmax, outputs, next_words, step))
        with tf.name_scope("loss/"):
            return tf.add_n(losses) / num_steps

    step = training_step(loss_of, parameters, keras.optimizers.SGD(1.0, name="sgd"))
    spec = tf.TensorSpec((batch_size, num_steps), tf.int32)
    return step, (spec, spec, spec)
