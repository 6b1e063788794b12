"""Files of dense layers with random weights, without Keras and the converter: any size is made in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import keras_prune
from keras_prune import sparse_format, tensor_format
from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets.fully_connected import Options
from keras_prune_export.targets.packed import COMPUTE

CODEBOOK_SIZE = 16  # 15 values and zero: 4-bit codes, what the exporter makes of dense layers
_FEWEST_INT8 = 1024  # weights that the converter quantizes
_FLOAT32_VERSION, _DYNAMIC_VERSION = 1, 9  # of FULLY_CONNECTED, as the converter writes it
_ROWS_AT_ONCE = 1 << 24  # weights drawn at once: bounds the temporary memory


@dataclasses.dataclass(frozen=True)
class Layer:
    """One dense layer.

    Attributes:
        codes: (rows, cols) = (outputs, inputs) uint8, 0 pruned.
        codebook: (up to 256,) float32, the first one zero.
        bias: (rows,) float32.
        activation: 0 none, 1 ReLU, as in TFLite's schema.
    """

    codes: np.ndarray
    codebook: np.ndarray
    bias: np.ndarray
    activation: int = 0

    @property
    def kept(self) -> int:
        """Weights that are not zero."""
        return int(np.count_nonzero(self.codes))

    def weights(self) -> np.ndarray:
        """The dense weights, (rows, cols) float32."""
        return self.codebook.take(self.codes)


def random_layer(
    shape: tuple[int, int], density: float, *, seed: int = 0, activation: int = 0, values: int = CODEBOOK_SIZE
) -> Layer:
    """A layer whose weights are kept at random.

    Args:
        shape: (rows, cols) = (outputs, inputs).
        density: share of the weights that is kept.
        seed: of positions, values and bias.
        activation: as in `Layer`.
        values: of the codebook, zero included: 2 to 256.
    """
    rng = np.random.default_rng(seed)
    codes = np.zeros(shape[0] * shape[1], np.uint8)
    for start in range(0, codes.size, _ROWS_AT_ONCE):
        part = codes[start : start + _ROWS_AT_ONCE]
        kept = np.flatnonzero(rng.random(part.size, np.float32) < density)
        part[kept] = rng.integers(1, values, kept.size, np.uint8)
    shared = rng.normal(size=values - 1) / np.sqrt(max(1.0, density * shape[1]))
    codebook = np.concatenate([[0], shared]).astype(np.float32)
    return Layer(codes.reshape(shape), codebook, rng.normal(size=shape[0]).astype(np.float32), activation)


def random_network(inputs: int, layers: Sequence[tuple[int, float]], *, seed: int = 0) -> list[Layer]:
    """Layers one after another, with ReLU between them.

    Args:
        inputs: of the first.
        layers: (outputs, density) of each.
        seed: of all.
    """
    made = []
    for index, (outputs, density) in enumerate(layers):
        is_last = index == len(layers) - 1
        made.append(random_layer((outputs, inputs), density, seed=seed + index, activation=int(not is_last)))
        inputs = outputs
    return made


def packed_bytes(layer: Layer) -> bytes:
    """The weights in the storage format: of its two versions the smaller one, as the exporter chooses."""
    fixed = sparse_format.encode(layer.codes, layer.codebook)
    return min(tensor_format.encode_codes(layer.codes, layer.codebook), fixed, key=len)


def float32_file(layers: Sequence[Layer]) -> bytes:
    """The converter's file of the dense layers."""
    return _File().write(layers, lambda file, layer: file.dense(layer, int8=False))


def int8_file(layers: Sequence[Layer]) -> bytes:
    """The converter's file with dynamic-range quantization: int8 weights, activations quantized while it runs."""
    return _File().write(layers, lambda file, layer: file.dense(layer, int8=True))


def packed_file(layers: Sequence[Layer], packed: Sequence[bytes], *, activations: str = "float32") -> bytes:
    """The file that computes on packed weights, whether the exporter would choose that or not.

    Args:
        layers: the layers.
        packed: `packed_bytes` of each.
        activations: "float32" or "int8".
    """
    left = iter(packed)
    return _File().write(layers, lambda file, layer: file.packed(layer, next(left), activations))


def interpreter_call(data: bytes, batch: int, *, num_threads: int = 1) -> Callable[[], Any]:
    """`invoke` of an interpreter of a file, which has its random input already.

    Args:
        data: the file.
        batch: rows of the input.
        num_threads: of the interpreter.
    """
    interpreter = keras_prune.load_interpreter(data, num_threads=num_threads)
    detail = interpreter.get_input_details()[0]
    x = random_input(batch, *detail["shape"][1:])
    interpreter.resize_tensor_input(detail["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], x)
    return interpreter.invoke


def random_input(*shape: int) -> np.ndarray:
    """Of this shape, float32."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


class _File:
    """A .tflite file that grows by one operator at a time."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []
        self.last = -1  # the tensor that the next operator reads

    def write(self, layers: Sequence[Layer], add: Callable[[_File, Layer], None]) -> bytes:
        """The bytes of a file with these layers."""
        self.last = self._tensor("x", (1, layers[0].codes.shape[1]), batched=True)
        self.graph.inputs = np.array([self.last], np.int32)
        for layer in layers:
            add(self, layer)
        self.graph.outputs = np.array([self.last], np.int32)
        return flatbuffer.write(self.model)

    def dense(self, layer: Layer, *, int8: bool) -> None:
        """FULLY_CONNECTED."""
        is_int8 = int8 and layer.codes.size >= _FEWEST_INT8
        name = f"weights{len(self.graph.operators)}"
        if is_int8:
            used = layer.codebook[np.unique(layer.codes)]
            scale = np.abs(used).max() / np.float32(127)
            values = np.rint(layer.codebook / scale).astype(np.int8).take(layer.codes)
            index = self._tensor(name, values.shape, kind=schema.TensorType.INT8, data=values)
            self.graph.tensors[index].quantization = _scale(scale)
        else:
            index = self._tensor(name, layer.codes.shape, data=layer.weights())
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction, options.asymmetricQuantizeInputs = layer.activation, is_int8
        op = self._operator(layer, index, self._code(_DYNAMIC_VERSION if int8 else _FLOAT32_VERSION))
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options

    def packed(self, layer: Layer, packed: bytes, activations: str) -> None:
        """The operator on packed weights."""
        data = np.frombuffer(packed, np.uint8)
        name = f"weights{len(self.graph.operators)}"
        index = self._tensor(name, data.shape, kind=schema.TensorType.UINT8, data=data)
        op = self._operator(layer, index, edits.custom_code(self.model, COMPUTE))
        options = Options(layer.activation, activations=activations).to_bytes()
        op.customOptions = np.frombuffer(options, np.uint8)

    def _operator(self, layer: Layer, weights: int, code: int) -> Any:
        bias = self._tensor(f"bias{len(self.graph.operators)}", layer.bias.shape, data=layer.bias)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs = code, np.array([self.last, weights, bias], np.int32)
        self.last = self._tensor(f"y{len(self.graph.operators)}", (1, len(layer.bias)), batched=True)
        op.outputs = np.array([self.last], np.int32)
        self.graph.operators.append(op)
        return op

    def _code(self, version: int) -> int:
        """The index of FULLY_CONNECTED, which no other operator joins."""
        if self.model.operatorCodes:
            return 0
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        kind: int = schema.TensorType.FLOAT32,
        data: np.ndarray | None = None,
        batched: bool = False,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.hasRank = name, np.array(shape, np.int32), kind, True
        if batched:
            tensor.shapeSignature = np.array([-1, *shape[1:]], np.int32)
        tensor.buffer = 0 if data is None else edits.add_buffer(self.model, np.ascontiguousarray(data).tobytes())
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


def _scale(scale: np.float32) -> Any:
    """One scale for all weights, as our converter asks for it."""
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint = np.array([scale], np.float32), np.array([0], np.int64)
    return made
