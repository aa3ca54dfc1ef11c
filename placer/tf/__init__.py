"""TensorFlow in: programs become graphs."""

from placer.tf.read import Reading, read, read_report

__all__ = ["Reading", "read", "read_report"]
