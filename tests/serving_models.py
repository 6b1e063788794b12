"""A pruned network as SavedModels for servers, in each of the ways of docs/serving.md, and what it should compute."""

from __future__ import annotations

import keras
import numpy as np
import saved_models  # type: ignore[import-not-found]

import keras_prune

layers = keras.layers
INPUTS, OUTPUTS = 40, 5


def network(seed):
    """Dense layers of which a fifth of the weights is kept, by this seed."""
    keras.utils.set_random_seed(seed)
    first = layers.Dense(30, "relu", bias_initializer="normal")
    model = saved_models.sequential((INPUTS,), first, layers.Dense(OUTPUTS, bias_initializer="normal"))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.kernel.assign(rng.normal(size=layer.kernel.shape) * (rng.random(layer.kernel.shape) < 0.2))
    return model


def dense(model, path):
    model.export(path, verbose=False)
    return model


def packed(model, path):
    keras_prune.export_saved_model(model, path)
    return keras_prune.quantize(model)


def with_op(model, path):
    """So little layers are faster dense: they are packed by hand."""
    from_dense = keras_prune.layers.PackedDense.from_dense
    stack = [from_dense(layer) for layer in model.layers]
    keras_prune.export_saved_model(saved_models.sequential((INPUTS,), *stack), path, target="packed")
    return keras_prune.quantize(model)


def shrunk(model, path):
    keras_prune.prune(model, 0.5, pattern=keras_prune.Channel())
    small = keras_prune.shrink(keras_prune.strip(model))
    assert small.layers[0].units == 15
    small.export(path, verbose=False)
    return model


WAYS = {"dense": dense, "packed": packed, "with_op": with_op, "shrunk": shrunk}


def examples(batch, seed=3):
    return np.random.default_rng(seed).normal(size=(batch, INPUTS)).astype(np.float32)


def assert_computes(got, model, x):
    """Sums of 40 products in float32, in another order."""
    np.testing.assert_allclose(got, model(x).numpy(), rtol=1e-5, atol=1e-5)
