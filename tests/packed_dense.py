"""Layers and models with `PackedDense` for its tests."""

from __future__ import annotations

import keras
import numpy as np

from keras_prune.layers import PackedDense

KERNEL = np.array([[0, 1, -2], [3, 0, 0], [0, 0, 0.5], [-1, 0, 4]], np.float32)
BIAS = np.array([0.5, -1, 2], np.float32)


def make_dense(**arguments):
    """A Dense layer (4 inputs, 3 units) whose weights a codebook of 4 bits keeps exactly."""
    dense = keras.layers.Dense(3, **arguments)
    dense.build((None, 4))
    dense.set_weights([KERNEL, BIAS] if dense.use_bias else [KERNEL])
    return dense


def random_x(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make_model(*, dtype=None, **arithmetic):
    """Dense, PackedDense with many quantized weights, Dense."""
    rng = np.random.default_rng(0)
    dense = keras.layers.Dense(20, activation="tanh", dtype=dtype)
    dense.build((None, 12))
    dense.kernel.assign(rng.standard_normal((12, 20)) * (rng.random((12, 20)) < 0.3))
    dense.bias.assign(rng.standard_normal(20))
    packed = PackedDense.from_dense(dense, **arithmetic)
    first, last = keras.layers.Dense(12, dtype=dtype), keras.layers.Dense(2, dtype=dtype)
    return keras.Sequential([keras.Input((6,)), first, packed, last])
