"""A Transformer encoder with a classifier on its first position."""

from __future__ import annotations

from typing import Any

from experiments.workloads._training import classification_loss, make_variables, training_step


def build(
    *,
    batch_size: int = 32,
    num_positions: int = 128,
    num_layers: int = 12,
    num_units: int = 768,
    num_heads: int = 12,
    vocabulary: int = 30_522,
    num_classes: int = 2,
) -> tuple[Any, tuple[Any, ...]]:
    """Builds one training step: forward, loss, backward, Adam.

    Vaswani et al., *Attention Is All You Need* (arXiv 1706.03762), in the sizes of BERT-base
    (Devlin et al., arXiv 1810.04805) and with its learned positions; no dropout.

    Args:
        batch_size: Sequences per step.
        num_positions: Tokens per sequence.
        num_layers: Layers, each attention and feed-forward.
        num_units: Width; the feed-forward part is four times as wide inside.
        num_heads: Heads of the attention.
        vocabulary: Number of tokens.
        num_classes: Number of classes.

    Returns:
        The step as a ``tf.function`` of (tokens, labels), and the specs of these.
    """
    import keras
    import tensorflow as tf

    tokens_table = keras.layers.Embedding(vocabulary, num_units, name="tokens")
    positions_table = keras.layers.Embedding(num_positions, num_units, name="positions")
    first_norm = keras.layers.LayerNormalization(name="norm")
    tokens_table.build((batch_size, num_positions))
    positions_table.build((num_positions,))
    layers = [_Layer(f"layer_{i}", num_units, num_heads) for i in range(num_layers)]
    head = keras.layers.Dense(num_classes, name="logits")

    def loss_of(tokens: Any, labels: Any) -> Any:
        with tf.name_scope("embedding/"):
            embedded = tf.nn.embedding_lookup(tokens_table.embeddings.value, tokens)
            features = first_norm(embedded + positions_table.embeddings.value)
        for layer in layers:
            features = layer(features)
        with tf.name_scope("head/"):
            logits = head(features[:, 0])
        return classification_loss(labels, logits)

    tokens = tf.TensorSpec((batch_size, num_positions), tf.int32)
    labels = tf.TensorSpec((batch_size,), tf.int32)
    make_variables(loss_of, tokens, labels)
    inner = [part for layer in layers for part in layer.parts]
    parts = (tokens_table, positions_table, first_norm, *inner, head)
    parameters = [v for part in parts for v in part.trainable_variables]
    step = training_step(loss_of, parameters, keras.optimizers.Adam(1e-4, name="adam"))
    return step, (tokens, labels)


class _Layer:
    """Attention, then two dense layers, each added to what it reads and normalized."""

    def __init__(self, scope: str, num_units: int, num_heads: int) -> None:
        import keras

        self.scope = scope
        self.attention = keras.layers.MultiHeadAttention(
            num_heads, num_units // num_heads, name="heads"
        )
        self.wide = keras.layers.Dense(4 * num_units, activation="gelu", name="wide")
        self.narrow = keras.layers.Dense(num_units, name="narrow")
        self.norms = [keras.layers.LayerNormalization(name="norm") for _ in range(2)]
        self.parts = (self.attention, self.norms[0], self.wide, self.narrow, self.norms[1])

    def __call__(self, features: Any) -> Any:
        import tensorflow as tf

        with tf.name_scope(f"{self.scope}/attention/"):
            features = self.norms[0](features + self.attention(features, features))
        with tf.name_scope(f"{self.scope}/feed_forward/"):
            return self.norms[1](features + self.narrow(self.wide(features)))
