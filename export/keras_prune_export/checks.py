"""Checks of arguments that several public functions share."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def check_model(model: Any, name: str) -> None:
    """Refuses what cannot be exported.

    Args:
        model: a Keras 3 model whose variables exist.
        name: of the public function, for the error.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not built, or a weight is NaN or infinite.
    """
    import keras  # noqa: PLC0415

    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        legacy = any(base.__module__.startswith("tf_keras") for base in type(model).__mro__)
        advice = "rebuild it with Keras 3 (unset TF_USE_LEGACY_KERAS)" if legacy else "pass the model itself"
        raise TypeError(f"{name}: expected a Keras 3 model (keras.Model), got {kind}; {advice}")
    if not model.built:
        raise ValueError(
            f"{name}: expected a built model, and {model.name!r} has no variables yet; give it a keras.Input, call "
            "model.build(input_shape), or train it first"
        )
    for variable in model.weights:
        _check_finite(variable, name)


def _check_finite(variable: Any, name: str) -> None:
    if "float" not in str(variable.dtype):
        return
    values = variable.numpy()
    finite = np.isfinite(values)
    if not finite.all():
        nans, number = np.count_nonzero(np.isnan(values)), finite.size - np.count_nonzero(finite)
        raise ValueError(
            f"{name}: expected finite weights, got {variable.path} with {nans} NaN and {number - nans} infinite of "
            f"{finite.size} values; the training diverged: lower the learning rate, or load an earlier checkpoint"
        )


def check_masks(model: Any, name: str) -> None:
    """Refuses a model whose pruned weights something gave other values than zero since.

    Args:
        model: a built Keras 3 model, with or without masks.
        name: of the public function, for the error.

    Raises:
        ValueError: a weight that its mask prunes is not zero.
    """
    from keras_prune import masks  # noqa: PLC0415 (imports Keras, which the device does not have)

    for variable in model.weights:
        constraint = masks.mask_constraint(variable)
        if constraint is None:
            continue
        pruned = constraint.mask.numpy() == 0
        number = np.count_nonzero(variable.numpy()[pruned])
        if number:
            raise ValueError(
                f"{name}: expected zeros where the mask of {variable.path} prunes, got {number} of {pruned.sum()} "
                f"pruned weights ({number / pruned.sum():.1%}) with other values: something overwrote them after "
                "pruning (EarlyStopping with restore_best_weights, load_weights, averaged weights). Call "
                "keras_prune.strip(model) to set them to zero, and list PruneCallback last in fit's callbacks"
            )


def positive(value: Any, name: str) -> int:
    """A count as an int.

    Args:
        value: int, or another integer type such as NumPy's.
        name: of the argument, after that of the function.

    Raises:
        ValueError: not an integer, or below 1.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} to be an integer >= 1, got {value!r}; pass a number such as 1")
    return number
