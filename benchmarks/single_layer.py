"""Files of one layer, dense and computing on packed weights, and their times through the real interpreter."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import keras_prune
from keras_prune import tensor_format
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.kernel_costs import Work
from keras_prune_export.transformations import constants
from keras_prune_export.transformations.computing import pack_computing
from keras_prune_export.transformations.tidy import tidy

_BLOCK_NS = 2e6  # of calls between two looks at the clock
_CODES = 16  # of a codebook, the zero included


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
    """

    rows: int
    channels: int
    density: float
    size: int = 0
    kernel: int = 1
    stride: int = 1
    batch: int = 1

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
        return Work(self.rows, self.cols, round(self.rows * self.cols * self.density), self.pixels)

    @property
    def name(self) -> str:
        """For tables."""
        image = f"{self.size}x{self.size} k{self.kernel} s{self.stride} " if self.size else ""
        return f"{image}{self.rows}x{self.channels} {100 * self.density:g} % batch {self.batch}"


def files(layer: Layer, seed: int = 0) -> dict[str, bytes]:
    """The layer as two files: "dense", float32, and "packed", which computes the same on packed weights."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, _CODES, (layer.rows, layer.cols), dtype=np.uint8)
    codes *= rng.random(codes.shape, dtype=np.float32) < layer.density
    codebook = np.linspace(-0.1, 0.1, _CODES, dtype=np.float32)
    codebook[0] = 0
    dense = flatbuffer.write(_model(layer, codebook[codes]))
    model = flatbuffer.read(dense)
    constant = next(c for c in constants.find(model) if constants.computes(model, c.views[-1]))
    pack_computing(model, constant.views[-1], tensor_format.encode_codes(codes, codebook))
    tidy(model)
    return {"dense": dense, "packed": flatbuffer.write(model)}


def _model(layer: Layer, weights: np.ndarray) -> Any:
    """A model of one operator."""
    model, graph, op, code = schema.ModelT(), schema.SubGraphT(), schema.OperatorT(), schema.OperatorCodeT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    side = -(-layer.size // layer.stride)
    if layer.size:
        number = schema.BuiltinOperator.CONV_2D
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT()
        op.builtinOptions.strideH = op.builtinOptions.strideW = layer.stride
        shapes = [
            (layer.batch, layer.size, layer.size, layer.channels),
            (layer.rows, layer.kernel, layer.kernel, layer.channels),
            (layer.rows,),
            (layer.batch, side, side, layer.rows),
        ]
    else:
        number = schema.BuiltinOperator.FULLY_CONNECTED
        op.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        op.builtinOptions = schema.FullyConnectedOptionsT()
        shapes = [(layer.batch, layer.channels), (layer.rows, layer.channels), (layer.rows,), (layer.batch, layer.rows)]
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 1
    values = [None, weights, np.zeros(layer.rows, np.float32), None]
    model.buffers, graph.tensors = [schema.BufferT()], []
    for name, shape, value in zip("xwby", shapes, values, strict=True):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, np.array(shape, np.int32), 0, 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    op.inputs, op.outputs = np.array([0, 1, 2], np.int32), np.array([3], np.int32)
    graph.inputs, graph.outputs, graph.operators = np.array([0], np.int32), np.array([3], np.int32), [op]
    return model


def calls(data: Mapping[str, bytes], seed: int = 1) -> dict[str, Callable[[], Any]]:
    """`invoke` of an interpreter of each file, which has its input already."""
    made = {}
    for name, file in data.items():
        interpreter = keras_prune.load_interpreter(file, num_threads=1)
        detail = interpreter.get_input_details()[0]
        x = np.random.default_rng(seed).normal(size=detail["shape"]).astype(np.float32)
        interpreter.set_tensor(detail["index"], x)
        made[name] = interpreter.invoke
    return made


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
