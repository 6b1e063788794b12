"""Examples for the inputs of a .tflite file: their shapes, their types, and how they get into the interpreter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_SIGNATURE_NAME = re.compile(r"^(?:[^/]*serving_default_)?(.*?)(?::\d+)?$")  # the converter's name of an input


def input_details(interpreter: Any) -> list[dict[str, Any]]:
    """The details of the interpreter's inputs.

    Raises:
        ValueError: it has none, or one without a batch dimension.
    """
    details = interpreter.get_input_details()
    if not details or not all(len(detail["shape"]) for detail in details):
        shapes = [detail["shape"].tolist() for detail in details]
        raise ValueError(f"expected a model whose inputs have a batch dimension, got inputs {shapes}")
    return details


def arrays(interpreter: Any, x: Any) -> list[np.ndarray]:
    """One array for each input of a file, as `arrays_for` has them."""
    return arrays_for(input_details(interpreter), x)


def arrays_for(details: Sequence[dict[str, Any]], x: Any) -> list[np.ndarray]:
    """One array for each input.

    Args:
        details: of the inputs, as interpreters give them.
        x: (examples, ...) of the only input; for several a list or tuple in the order of the file, or a dict by name.
            A list or dict of one array will do for one input.

    Returns:
        In the order of the file's inputs, each (examples, ...).

    Raises:
        ValueError: not one for each input, no numbers, complex ones, other shapes, or different numbers of examples.
    """
    if isinstance(x, Mapping):
        x = _by_name(details, x)
    elif len(details) == 1 and not _is_list_of_one(x, details[0]):
        x = [x]
    names = [detail["name"] for detail in details]
    if not isinstance(x, list | tuple) or len(x) != len(details):
        got = f"{len(x)} of them" if isinstance(x, list | tuple) else f"one {type(x).__name__}, but not one input"
        raise ValueError(f"x: expected a list or dict of {len(details)} arrays, for the inputs {names}, got {got}")
    try:
        found = [np.asarray(values) for values in x]
    except ValueError as error:
        raise ValueError(f"x: expected arrays, each of one shape, for the inputs {names}: {error}") from error
    for detail, values in zip(details, found, strict=True):
        _check_numbers(detail, values)
        check_shape(detail, values.shape)
    if len({len(values) for values in found}) > 1:
        raise ValueError(f"x: expected as many examples for each input, got {[len(values) for values in found]}")
    return found


def _is_list_of_one(x: Any, details: dict[str, Any]) -> bool:
    try:
        return isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) == len(details["shape"])
    except ValueError:  # lists of different lengths
        return False


def _by_name(details: Sequence[dict[str, Any]], x: Mapping[str, Any]) -> list[Any]:
    names = [detail["name"] for detail in details]
    short = [_SIGNATURE_NAME.sub(r"\1", name) for name in names]
    keys = [name if name in x else other for name, other in zip(names, short, strict=True)]
    if set(keys) != set(x):
        raise ValueError(f"x: expected arrays for the inputs {short}, got {sorted(x)}")
    return [x[key] for key in keys]


def _check_numbers(details: dict[str, Any], values: np.ndarray) -> None:
    """Refuses what NumPy would cast to an input of real numbers with a loss, or not at all."""
    is_real = np.can_cast(details["dtype"], np.float64, "same_kind")
    if is_real and not np.can_cast(values.dtype, np.float64, "same_kind"):
        raise ValueError(
            f"x: expected real numbers for the input {details['name']!r}, got an array of {values.dtype} of shape "
            f"{values.shape}; convert it"
        )


def yielded(function: Callable[[], Any]) -> Iterator[Any]:
    """What a function of the user yields.

    Raises:
        ValueError: it returned nothing to go through.
    """
    values = function()
    if not isinstance(values, Iterable):
        raise ValueError(
            f"expected a function that yields lists of inputs, got one that returned {type(values).__name__}; use "
            "yield in it, or return a list of such lists"
        )
    return iter(values)


def of_keras(tensor: Any) -> dict[str, Any]:
    """The details of a Keras input, as an interpreter would give them."""
    sizes = [-1 if size is None else size for size in tensor.shape]
    dtype = np.object_ if tensor.dtype == "string" else np.dtype(tensor.dtype).type
    return {"name": tensor.name, "shape": sizes, "shape_signature": sizes, "dtype": dtype}


def check_shape(details: dict[str, Any], shape: Sequence[int]) -> None:
    """Refuses examples that do not fit an input; a dimension that the file leaves free (-1) takes any size.

    Args:
        details: of the input.
        shape: (examples, ...).

    Raises:
        ValueError: no example, or examples of another shape.
    """
    expected = [None if size == -1 else int(size) for size in details["shape_signature"][1:]]
    fits = len(shape) == len(expected) + 1 and all(
        size in (None, got) for size, got in zip(expected, shape[1:], strict=True)
    )
    if not fits or 0 in shape:
        raise ValueError(
            f"x: expected at least one example of shape {tuple(expected)}, got an array of shape {tuple(shape)}, not "
            f"of {_shape_text(['examples', *expected])}"
        )


def _shape_text(sizes: Sequence[Any]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def set_shapes(interpreter: Any, shapes: Sequence[Sequence[int]]) -> None:
    """Gives the interpreter's inputs these shapes and allocates its tensors.

    Args:
        interpreter: of the file.
        shapes: (examples, ...) of each input.

    Raises:
        ValueError: the model's batch is fixed at another size, or a shape does not fit.
    """
    changed = False
    for details, shape in zip(input_details(interpreter), shapes, strict=True):
        check_shape(details, shape)
        expected = details["shape_signature"][0]
        if expected not in (-1, shape[0]):
            raise ValueError(
                f"expected a model with a free batch dimension, or one of {shape[0]}, got one fixed at {expected}; "
                f"for predictions pass batch_size={expected}; latency needs a file that takes one example"
            )
        if tuple(details["shape"]) != tuple(shape):
            interpreter.resize_tensor_input(details["index"], list(shape))
            changed = True
    if changed:
        interpreter.allocate_tensors()


def feed(interpreter: Any, examples: Sequence[np.ndarray]) -> None:
    """Sets the inputs, resized to these examples and quantized where they are integers.

    Args:
        interpreter: of the file.
        examples: (examples, ...) for each input, as `arrays` gives them.
    """
    set_shapes(interpreter, [values.shape for values in examples])
    for details, values in zip(input_details(interpreter), examples, strict=True):
        interpreter.set_tensor(details["index"], quantized(details, values))


def quantized(details: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Values in the input's own type: a full-integer file takes int8 or uint8."""
    scale, zero_point = details["quantization"]
    if scale and np.issubdtype(details["dtype"], np.integer):
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(x, details["dtype"])
