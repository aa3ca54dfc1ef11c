"""TensorFlow, quietly and with four CPU devices, and small models."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before TensorFlow is imported

import keras
import pytest
import tensorflow as tf

# before TensorFlow starts, so for all tests of the process
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@pytest.fixture(autouse=True)
def _fresh_keras() -> None:
    """Names do not depend on the tests before."""
    keras.utils.clear_session()


@pytest.fixture
def small_model() -> keras.Model:
    """Two dense layers and a normalization between; the batch size is open."""
    return keras.Sequential(
        [
            keras.Input((8,), name="features"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ],
        name="small",
    )


@pytest.fixture
def compiled_model(small_model: keras.Model) -> keras.Model:
    """The small model, ready to train with Adam."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    small_model.compile("adam", loss, metrics=["accuracy"])
    return small_model
