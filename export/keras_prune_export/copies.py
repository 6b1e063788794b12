"""Copies of Keras models; also in float32, of models that compute in another type."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


def all_layers(model: Any) -> list[Any]:
    """The model and every layer in it, at any depth, each once."""
    import keras  # noqa: PLC0415

    found: dict[int, Any] = {}
    waiting = [model]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, keras.Layer) and id(value) not in found:
            found[id(value)] = value
            waiting += [part for part in vars(value).values() if isinstance(part, keras.Layer | list | tuple | dict)]
    return list(found.values())


def copy(model: Any) -> Any:
    """Copies a Sequential or functional model, with its values.

    Args:
        model: a built Keras 3 model.

    Returns:
        The copy.

    Raises:
        Exception: whatever Keras raises where a layer cannot be made from its configuration.
    """
    import keras  # noqa: PLC0415

    result = keras.models.clone_model(model)
    copy_weights(model, result)
    return result


def as_float32(model: Any, name: str) -> Any:
    """A model that computes in float32 with the same values: the model itself if it does, else a copy.

    The converter has no kernels for other types (mixed_float16, mixed_bfloat16, float16, bfloat16, float64).

    Args:
        model: a built Keras 3 model; it is not changed.
        name: of the public function, for the error.

    Returns:
        The model or its copy.

    Raises:
        ValueError: the model cannot be made anew from its configuration, or a value does not fit in float32.
    """
    kinds = {str(variable.dtype) for variable in model.weights}
    kinds |= {str(layer.compute_dtype) for layer in all_layers(model)}
    others = sorted(kinds & set(_OTHER_FLOATS))
    if not others:
        return model
    try:
        result = _rebuilt(model)
        copy_weights(model, result)
    except Exception as error:
        raise ValueError(
            f"{name}: expected a float32 model, or one whose float32 copy can be made from its configuration; got "
            f"{model.name!r}, which uses {', '.join(others)}, and copying failed ({_first_line(error)}); build the "
            "model under keras.config.set_dtype_policy('float32'), give it these weights, and pass that one"
        ) from error
    return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _rebuilt(model: Any) -> Any:
    """A float32 model from the configuration; the configuration never left this process, so its lambdas are safe."""
    import keras  # noqa: PLC0415

    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    own = {type(layer).__name__: type(layer) for layer in all_layers(model) if not _is_keras(type(layer))}
    with _float32_policy(), keras.saving.custom_object_scope(own):
        return keras.saving.deserialize_keras_object(_with_float32(config), safe_mode=False)


def _is_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras"


@contextlib.contextmanager
def _float32_policy() -> Iterator[None]:
    """For layers that a subclassed model makes itself."""
    import keras  # noqa: PLC0415

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _with_float32(config: Any) -> Any:
    """The configuration with float32 for every other floating type and policy."""
    if isinstance(config, list | tuple):
        return type(config)(map(_with_float32, config))
    if not isinstance(config, dict):
        return config
    return {key: "float32" if _is_other_dtype(key, value) else _with_float32(value) for key, value in config.items()}


def _is_other_dtype(key: str, value: Any) -> bool:
    if not key.endswith("dtype"):
        return False
    if isinstance(value, dict):
        return value.get("class_name") in ("DTypePolicy", "DTypePolicyMap")
    return isinstance(value, str) and value.removeprefix("mixed_") in _OTHER_FLOATS


def copy_weights(model: Any, result: Any) -> None:
    """Gives a model or layer the values of another of the same kind.

    Args:
        model: whose values.
        result: the one that gets them.

    Raises:
        ValueError: other variables, or a value does not fit in their type.
    """
    for source, variable in zip(model.weights, result.weights, strict=True):
        values = source.numpy()
        if str(variable.dtype) != str(source.dtype):
            with np.errstate(over="ignore"):  # said below
                cast = values.astype(str(variable.dtype))
            if not np.isfinite(cast).all():
                raise ValueError(f"a value of {source.path} does not fit in {variable.dtype}")
            values = cast
        variable.assign(values)
    for layer in all_layers(result):
        if callable(getattr(layer, "finalize_state", None)):
            layer.finalize_state()  # Normalization computes from its weights what it uses
