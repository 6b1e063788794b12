"""Static int8 activations: the largest input that each packed operator gets from typical inputs of the model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune.int8_activations import LARGEST
from keras_prune_export import flatbuffer, model_inputs
from keras_prune_export.activations import Activations
from keras_prune_export.layer_errors import all_tensors_interpreter
from keras_prune_export.progress import Progress
from keras_prune_export.transformations.int8_activations import Place, computing

MOST_EXAMPLES = 300  # of an array, as TensorFlow's converter gets
_BATCH = 16  # every intermediate result is in memory
_SMALLEST = 127 * np.finfo(np.float32).tiny


def input_scales(
    data: bytes, activations: Activations, *, places: Collection[Place] | None = None
) -> dict[Place, float]:
    """One step of x for each packed operator: ``max|x| / 127`` over all of its inputs.

    Args:
        data: a packed file whose activations are float32.
        activations: with representative data: (examples, ...) of which 300 are used, for several inputs a list in the
            order of the file or a dict by name; or a function that yields lists of inputs, or pairs of a signature and
            a dict of inputs.
        places: of the operators; None: all.

    Returns:
        Operator -> scale, float32.

    Raises:
        ValueError: the data does not fit the file, or an operator gets none, or only zeros, or values that are not
            finite.
    """
    model = flatbuffer.read(data)
    ops = {place: op for place, op in computing(model) if places is None or place in places}
    readers = {place: flatbuffer.indices(op.inputs)[0] for place, op in ops.items()}
    largest: dict[Place, float] = {}
    run = _Run(data, model)
    try:
        for graph in run.all(activations.representative_data):
            for place, tensor in readers.items():
                if place[0] == graph:
                    found = np.abs(run.interpreter.get_tensor(tensor, graph)).max(initial=0)
                    largest[place] = float(np.maximum(largest.get(place, 0), found))  # NaN stays
    except ValueError as error:
        problem = str(error).removeprefix("x: ")
        raise ValueError(f"{activations.function}: representative_data: {problem}") from error
    largest = _shared(model, largest)
    if not run.is_finite:  # where an operator made zeros of it
        largest = {place: value or math.nan for place, value in largest.items()}
    names = {place: _name(model, place, op) for place, op in ops.items()}
    return {place: step(largest.get(place), name, activations.function) for place, name in names.items()}


def _shared(model: Any, largest: dict[Place, float]) -> dict[Place, float]:
    """An operator that gets nothing but zeros has the range of those with its weights.

    That is the first step of an unrolled recurrent layer, which begins with a state of zeros.
    """
    buffers = {}
    for place, op in computing(model):
        weights = flatbuffer.indices(op.inputs)[1]
        buffers[place] = model.subgraphs[place[0]].tensors[weights].buffer
    ranges: dict[int, float] = {}
    for place, value in largest.items():
        ranges[buffers[place]] = float(np.maximum(ranges.get(buffers[place], 0), value))
    return {place: value if value != 0 else ranges[buffers[place]] for place, value in largest.items()}


def batches(arrays: Sequence[np.ndarray], fixed: int | None) -> Iterator[list[np.ndarray]]:
    """The examples in parts of at most 16, or of the size that the model has.

    Args:
        arrays: (examples, ...) for each input; the first 300 are used.
        fixed: examples that the model takes at once; None: any number.

    Yields:
        (size, ...) for each input: all parts have one size, and the last one starts again with examples of the one
        before where they do not come out even.

    Raises:
        ValueError: fewer examples than the model takes at once.
    """
    count = min(len(arrays[0]), max(MOST_EXAMPLES, fixed or 0))
    size = fixed or min(_BATCH, count)
    if count < size:
        raise ValueError(
            f"expected at least {size} examples, which the model takes at once, got {count}; pass {size} or more, or "
            "export a model whose batch is free"
        )
    progress = Progress("calibrate", -(-count // size))
    for start in range(0, count, size):
        first = min(start, count - size)
        yield [values[first : first + size] for values in arrays]
        progress.step()


class _Run:
    """Runs a file on typical inputs, so that every tensor can be read in between."""

    def __init__(self, data: bytes, model: Any) -> None:
        self.interpreter = all_tensors_interpreter(data, 1)
        self.is_finite = True  # all inputs so far
        self._graphs = {flatbuffer.text(s.signatureKey): s.subgraphIndex for s in model.signatureDefs or ()}

    def all(self, data: Any) -> Iterator[int]:
        """The subgraph that was run, after each inference."""
        if callable(data):
            for inputs in model_inputs.yielded(data):
                yield self._one(inputs)
            return
        fixed = {int(detail["shape_signature"][0]) for detail in model_inputs.input_details(self.interpreter)} - {-1}
        for part in batches(model_inputs.arrays(self.interpreter, data), max(fixed, default=None)):
            yield self._feed(part)

    def _feed(self, arrays: list[np.ndarray]) -> int:
        self._look(arrays)
        model_inputs.feed(self.interpreter, arrays)
        self.interpreter.invoke()
        return 0

    def _look(self, arrays: Iterable[np.ndarray]) -> None:
        floats = [values for values in arrays if np.issubdtype(values.dtype, np.floating)]
        self.is_finite = self.is_finite and all(np.isfinite(values).all() for values in floats)

    def _one(self, inputs: Any) -> int:
        is_signature = isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], str)
        if not is_signature:
            return self._feed(model_inputs.arrays(self.interpreter, inputs))
        key, values = inputs
        if key not in self._graphs or not isinstance(values, Mapping):
            raise ValueError(
                f"expected pairs of a signature of {sorted(self._graphs)} and a dict of inputs, got {key!r}"
            )
        arrays = {name: np.asarray(array) for name, array in values.items()}
        self._look(arrays.values())
        self.interpreter.get_signature_runner(key)(**arrays)
        return self._graphs[key]


def step(largest: float | None, name: str, function: str) -> float:
    """One step of a layer's inputs: ``largest / 127``.

    Args:
        largest: their largest magnitude; None where there were none.
        name: of the layer.
        function: the public function, for the error.

    Returns:
        A float32 whose inverse is finite, which float32's smallest numbers' are not.

    Raises:
        ValueError: there is none.
    """
    if largest is not None and np.isfinite(largest) and largest >= _SMALLEST:
        return float(np.float32(largest) / LARGEST)
    got, advice = "nothing but zeros", "pass typical inputs"
    if largest is None:
        got = "none"
        advice = "pass a function that yields inputs, with several signatures pairs (signature, {input: array})"
    elif not np.isfinite(largest):
        got = "NaN or infinity"
    raise ValueError(
        f"{function}: expected representative_data that gives every packed layer inputs, got {got} for {name}; "
        f"{advice}, or leave representative_data out: each row then gets its scale while the model runs"
    )


def _name(model: Any, place: Place, op: Any) -> str:
    tensors = model.subgraphs[place[0]].tensors
    indices: Iterable[int] = itertools.chain(flatbuffer.indices(op.inputs)[1:2], flatbuffer.indices(op.outputs))
    names = [flatbuffer.text(tensors[index].name) for index in indices if index >= 0]
    return repr(next(filter(None, names), f"operator {place[1]} of subgraph {place[0]}"))
