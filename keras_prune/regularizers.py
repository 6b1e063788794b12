"""Another regularizer for the next phase of training."""

from __future__ import annotations

from typing import Any

import keras

from keras_prune.masks import Layers, check_model, prunable, reset_train_function


def set_regularizer(model: Any, regularizer: Any, *, layers: Layers = None) -> Any:
    """Exchanges the regularizer of the model's kernels, such as L1 while pruning for L2 while retraining.

    ``loss = task loss + sum of regularizer(kernel)``. It is in force at once, without compiling the model again, and
    until the model is saved: a saved model has the regularizers that its layers were made with.

    Args:
        model: a Keras 3 model that has been built.
        regularizer: ``"l1"`` or ``"l2"`` (Keras' strength of 0.01), a ``keras.regularizers.Regularizer``, or None for
            none.
        layers: which kernels: names, regular expressions, or a function of the variable; None: all.

    Returns:
        The model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: an unknown regularizer or layer.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> float(set_regularizer(model, keras.regularizers.L2(0.25)).losses[0])
        0.25

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.1
    (https://arxiv.org/abs/1506.02626): L1 prunes better without retraining, L2 with it.
    """
    check_model(model)
    chosen = keras.regularizers.get(regularizer)
    for variable in prunable(model, layers).values():
        variable.regularizer = chosen
    reset_train_function(model)
    if getattr(model, "test_function", None) is not None:  # evaluate adds it to the loss too
        model.make_test_function(force=True)
    return model
