"""Checks of arguments that several public functions share."""

from __future__ import annotations

from typing import Any

from keras_prune.quantization import Codebook


def check_model(model: Any, name: str) -> None:
    """Refuses what cannot be exported.

    Args:
        model: a Keras 3 model whose variables exist.
        name: of the public function, for the error.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: not built.
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


def check_options(weights: Any, min_sparsity: float, name: str) -> None:
    """Refuses wrong arguments of the public functions.

    Raises:
        TypeError: ``weights`` is not a `Codebook`.
        ValueError: ``min_sparsity`` is not in 0 to 1.
    """
    if not isinstance(weights, Codebook):
        raise TypeError(f"{name}: expected weights=Codebook(bits=...), got {weights!r}")
    if not 0 <= min_sparsity <= 1:
        raise ValueError(f"{name}: expected min_sparsity from 0 to 1, got {min_sparsity!r}")
