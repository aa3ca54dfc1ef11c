"""placer learns where each op of a TensorFlow graph should run so that a step takes the least time."""
