"""One layer, dense and on packed weights, and the times of both through the real interpreter."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import layer_files
import numpy as np

from keras_prune import tensor_format
from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.kernel_terms import Work
from keras_prune_export.transformations import constants, dense_int8
from keras_prune_export.transformations.computing import pack_computing, sums_are_exact
from keras_prune_export.transformations.int8_activations import set_activations
from keras_prune_export.transformations.tidy import tidy

_BLOCK_NS = 2e6  # of calls between two looks at the clock


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer with random weights.

    Attributes:
        rows: outputs, or output channels.
        channels: inputs, or input channels.
        density: of the weights.
        size: height and width of the image; 0: a fully connected layer.
        kernel: height and width of the kernel.
        stride: of a convolution; its padding is "same".
        batch: rows of a fully connected layer, or images.
        values: of the codebook, zero included.
    """

    rows: int
    channels: int
    density: float
    size: int = 0
    kernel: int = 1
    stride: int = 1
    batch: int = 1
    values: int = layer_files.CODEBOOK_SIZE

    @property
    def cols(self) -> int:
        """Of the weights' matrix."""
        return self.channels * self.kernel**2

    @property
    def pixels(self) -> int:
        """Of all outputs."""
        return self.batch * (-(-self.size // self.stride)) ** 2 if self.size else self.batch

    @property
    def work(self) -> Work:
        """As the exporter sees it."""
        kept = round(self.rows * self.cols * self.density)
        inputs = self.batch * self.size**2 * self.channels
        exact = _sums_are_exact((self.rows, self.cols), self.density, self.values)
        return Work(self.rows, self.cols, kept, self.pixels, inputs, self.values, exact)

    @property
    def name(self) -> str:
        """For tables."""
        image = f"{self.size}x{self.size} k{self.kernel} s{self.stride} " if self.size else ""
        values = f" {self.values} values" if self.values != layer_files.CODEBOOK_SIZE else ""
        return f"{image}{self.rows}x{self.channels} {100 * self.density:g} % batch {self.batch}{values}"


@functools.cache
def _sums_are_exact(shape: tuple[int, int], density: float, values: int) -> bool:
    return sums_are_exact(layer_files.random_layer(shape, density, values=values).weights())


def files(layer: Layer) -> dict[str, bytes]:
    """The layer in each form that `kernel_terms.FORMS` names."""
    made = layer_files.random_layer((layer.rows, layer.cols), layer.density, values=layer.values)
    if layer.size:
        return _convolutions(layer, made)
    packed = [layer_files.packed_bytes(made)]
    return {
        "packed": layer_files.packed_file([made], packed),
        "dense": layer_files.float32_file([made]),
        "packed_int8": layer_files.packed_file([made], packed, activations="int8"),
        "dense_int8": layer_files.int8_file([made]),
    }


def _convolutions(layer: Layer, made: layer_files.Layer) -> dict[str, bytes]:
    """By the exporter's own steps."""
    dense = flatbuffer.write(_convolution(layer, made))
    model, view = _view(dense)
    pack_computing(model, view, tensor_format.encode_codes(made.codes, made.codebook))
    packed = _written(model)
    set_activations(model, "int8")
    return {"packed": packed, "dense": dense, "packed_int8": _written(model), "dense_int8": _dense_int8(dense, made)}


def _dense_int8(dense: bytes, made: layer_files.Layer) -> bytes:
    """The weights stand in the file as they are: that they are expanded at load is no part of a call."""
    model, view = _view(dense)
    codes, scale = dense_int8.quantized(made.weights())
    dense_int8.make_int8(model, view, scale)
    number, index = view.places[0]
    model.subgraphs[number].tensors[index].buffer = edits.add_buffer(model, codes.tobytes())
    return _written(model)


def _view(data: bytes) -> tuple[Any, constants.View]:
    """A model of one convolution, and its weights."""
    model = flatbuffer.read(data)
    return model, next(c.views[-1] for c in constants.find(model) if constants.computes(model, c.views[-1]))


def _written(model: Any) -> bytes:
    tidy(model)
    return flatbuffer.write(model)


def _convolution(layer: Layer, made: layer_files.Layer) -> Any:
    """A model of one CONV_2D."""
    model, graph, op, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    side = -(-layer.size // layer.stride)
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 1
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
    op.builtinOptions.strideH = op.builtinOptions.strideW = layer.stride
    shapes = [
        (layer.batch, layer.size, layer.size, layer.channels),
        (layer.rows, layer.kernel, layer.kernel, layer.channels),
        (layer.rows,),
        (layer.batch, side, side, layer.rows),
    ]
    model.buffers, graph.tensors = [schema.BufferT()], []
    for name, shape, value in zip("xwby", shapes, [None, made.weights(), made.bias, None], strict=True):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.array(shape, np.int32), schema.TensorType.FLOAT32
        tensor.buffer = 0 if value is None else edits.add_buffer(model, np.ascontiguousarray(value).tobytes())
        graph.tensors.append(tensor)
    op.inputs, op.outputs = np.array([0, 1, 2], np.int32), np.array([3], np.int32)
    graph.inputs, graph.outputs, graph.operators = np.array([0], np.int32), np.array([3], np.int32), [op]
    return model


def times(layer: Layer, *, rounds: int) -> dict[str, np.ndarray]:
    """Nanoseconds of each form of a layer, see `best_in_turn`; one thread."""
    cases = {form: layer_files.interpreter_call(file, layer.batch) for form, file in files(layer).items()}
    return best_in_turn(cases, rounds=rounds)


def smallest(layers: Sequence[Layer], *, rounds: int, passes: int) -> list[dict[str, float]]:
    """Nanoseconds of each form of each layer: the smallest of some passes over all, so that slow minutes do not count.

    Args:
        layers: what to time.
        rounds: as in `times`, of each pass.
        passes: how often all layers are timed.
    """
    found: list[dict[str, float]] = [{} for _ in layers]
    for number in range(passes):
        for layer, best in zip(layers, found, strict=True):
            for form, values in times(layer, rounds=rounds).items():
                best[form] = min(best.get(form, math.inf), float(values.min()))
        print(f"pass {number + 1} of {passes}", flush=True)
    return found


def best_in_turn(cases: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, np.ndarray]:
    """Nanoseconds of this thread's own time, by case, (rounds,); cases take turns in blocks of calls.

    Other work on the machine slows a block, never speeds it: the smallest is the one to read.
    """
    counts = {}
    for name, call in cases.items():
        call()
        start = time.thread_time_ns()
        call()
        counts[name] = max(1, round(_BLOCK_NS / max(1, time.thread_time_ns() - start)))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            call()  # not timed: fills the caches with this case's weights
            start = time.thread_time_ns()
            for _ in range(counts[name]):
                call()
            samples[name].append((time.thread_time_ns() - start) / counts[name])
    return {name: np.array(values) for name, values in samples.items()}
