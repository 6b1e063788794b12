"""How far each layer's weights and outputs are from those of the float model, on the device runtime."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_prune_export import files, flatbuffer, model_inputs, runtime
from keras_prune_export.layer_report import weights_shape
from keras_prune_export.operators import Operator, operators, pairs
from keras_prune_export.progress import Progress
from keras_prune_export.targets import packed
from keras_prune_export.text_table import text_table
from keras_prune_export.transformations.densify import densify

MOST_EXAMPLES = 256  # they need every intermediate result in memory; the largest error hardly changes after some 100


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far one layer is from the float model's; 0 where nothing differs.

    Attributes:
        name: of the layer's weights.
        kind: the operator.
        weight_error: largest difference of a weight, relative to the largest weight of the float layer.
        output_error: largest difference of an output, relative to the largest output of the float layer, over all
            examples. Errors of the layers before are in it.
        output_rms_error: root of the mean squared difference, relative to the same.
    """

    name: str
    kind: str
    weight_error: float
    output_error: float
    output_rms_error: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return dataclasses.asdict(self)


def layer_errors(
    model: Any, reference: Any, x: Any, *, num_threads: int = 1, batch_size: int = 256
) -> tuple[LayerError, ...]:
    """Compares each operator with weights with that of the float file; the two run on the same examples.

    Both run with the runtime's built-in kernels instead of XNNPACK, which keeps no intermediate results; packed
    layers compute as always. Quantized values are compared as the real numbers that they stand for.

    Args:
        model: path or bytes.
        reference: path or bytes of the float file of the same network.
        x: examples, as `model_inputs.arrays` takes them; the first `MOST_EXAMPLES` are used.
        num_threads: of the runtime.
        batch_size: examples at once.

    Returns:
        One for each operator with weights in the file's first subgraph, in its order.

    Raises:
        ValueError: the files are not of the same network, or ``x`` does not fit them.
    """
    sides = [_Side(source, num_threads) for source in (model, reference)]
    matched = pairs(*(side.layers for side in sides))
    sums = [_Difference() for _ in matched]
    examples = [model_inputs.arrays(side.interpreter, x) for side in sides]
    count = min(MOST_EXAMPLES, len(examples[0][0]))
    progress = Progress("layer errors", -(-count // batch_size))
    for start in range(0, count, batch_size):
        for side, values in zip(sides, examples, strict=True):
            side.run([array[start : min(start + batch_size, count)] for array in values])
        for difference, pair in zip(sums, matched, strict=True):
            got, want = (side.value(op.outputs[0]) for side, op in zip(sides, pair, strict=True))
            difference.add(got, want, pair[0].name)
        progress.step()
    return tuple(_error(sides, pair, difference) for pair, difference in zip(matched, sums, strict=True))


def error_table(errors: Sequence[LayerError]) -> str:
    """The errors as a table, in percent."""
    rows = [["layer", "operator", "weight error %", "output error %", "rms %"]]
    for error in errors:
        parts = (error.weight_error, error.output_error, error.output_rms_error)
        rows.append([error.name, error.kind, *(f"{100 * value:.4f}" for value in parts)])
    return text_table(rows)


def _error(sides: Sequence[_Side], pair: tuple[Operator, Operator], outputs: _Difference) -> LayerError:
    weights = [0.0]
    for tensors in zip(*(op.weights for op in pair), strict=True):
        difference = _Difference()
        values = [side.weights(op, i) for side, op, i in zip(sides, pair, tensors, strict=True)]
        difference.add(values[0], values[1], pair[0].name)
        weights.append(difference.largest)
    return LayerError(pair[0].name, pair[0].kind, max(weights), outputs.largest, outputs.rms)


class _Difference:
    """The largest and the mean squared difference of what was added, relative to the largest reference."""

    def __init__(self) -> None:
        self.error = self.scale = self.squares = 0.0
        self.count = 0

    def add(self, got: np.ndarray, want: np.ndarray, name: str) -> None:
        """Adds values and what they should be."""
        if got.shape != want.shape:
            raise ValueError(
                f"layer {name!r}: expected the shape of the reference, {want.shape}, got {got.shape}; pass the float "
                "file that this one was made from"
            )
        difference = np.abs(got - want)
        self.error = max(self.error, float(difference.max(initial=0)))
        self.scale = max(self.scale, float(np.abs(want).max(initial=0)))
        self.squares += float(np.square(difference).sum())
        self.count += difference.size

    def relative(self, value: float) -> float:
        """A difference divided by the largest reference; 0 for none."""
        return value / self.scale if self.scale else (math.inf if value else 0.0)

    @property
    def largest(self) -> float:
        """Relative to the largest reference."""
        return self.relative(self.error)

    @property
    def rms(self) -> float:
        """Likewise, of the root of the mean square."""
        return self.relative(math.sqrt(self.squares / self.count)) if self.count else 0.0


class _Side:
    """One file, run so that every tensor can be read."""

    def __init__(self, source: Any, num_threads: int) -> None:
        data = files.read_tflite(source)
        self.model = flatbuffer.read(data)
        self.layers = [op for op in operators(self.model) if op.weights and op.outputs]
        self.interpreter = all_tensors_interpreter(data, num_threads)
        self.details: dict[int, dict[str, Any]] = {}

    def run(self, examples: Sequence[np.ndarray]) -> None:
        """One inference."""
        model_inputs.feed(self.interpreter, examples)
        self.interpreter.invoke()
        self.details = {detail["index"]: detail for detail in self.interpreter.get_tensor_details()}

    def value(self, index: int) -> np.ndarray:
        """A tensor's real values, float64."""
        return real_values(self.interpreter.get_tensor(index), self.details[index])

    def weights(self, op: Operator, index: int) -> np.ndarray:
        """The dense weights, float64."""
        tensor = self.model.subgraphs[0].tensors[index]
        if op.kind in packed.STANDS_FOR:
            data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8)
            values = packed.decode(data).astype(np.float64)
            shape = weights_shape(self.model, self.model.subgraphs[0].operators[op.index], data)
            return values if shape is None else values.reshape(shape)
        if tensor.sparsity is not None:
            return real_values(densify(self.model, tensor), self.details[index])
        return self.value(index)


def all_tensors_interpreter(data: bytes, num_threads: int) -> Any:
    """An interpreter whose intermediate results can be read after an inference; without XNNPACK."""
    kernels = runtime.runtime_module()
    resolver = getattr(kernels, "OpResolverType", None) or kernels.experimental.OpResolverType
    return runtime.load_interpreter(
        data,
        num_threads=num_threads,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )


def real_values(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """The real numbers that a tensor's values stand for, ``scale * (value - zero_point)``.

    Args:
        values: as the runtime gives them.
        details: of the tensor, as the runtime gives them.

    Returns:
        float64.
    """
    parameters, numbers = details["quantization_parameters"], values.astype(np.float64)
    scales, points = parameters["scales"], parameters["zero_points"]
    if not len(scales) or not np.issubdtype(values.dtype, np.integer):
        return numbers
    shape = [1] * numbers.ndim
    if len(scales) > 1:
        shape[parameters["quantized_dimension"]] = len(scales)
    return (numbers - points.astype(np.float64).reshape(shape)) * scales.astype(np.float64).reshape(shape)
