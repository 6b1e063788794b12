"""Each FULLY_CONNECTED with pruned weights becomes one custom operator on packed weights (docs/format.md)."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import Any

import numpy as np

from keras_prune.quantization import Codebook
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.progress import Progress
from keras_prune_export.targets import packed as target

OPTIONS_VERSION = 1
_KEEP_NUM_DIMS = 1
# TFLite's activations that the operator has; the numbers are the same in its options.
_ACTIVATIONS = {
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU_N1_TO_1,
    schema.ActivationFunctionType.RELU6,
}


@dataclasses.dataclass
class _Site:
    """One FULLY_CONNECTED operator and its tensors."""

    number: int
    position: int
    op: Any
    inputs: list[Any]  # tensors: activations, weights and, or None, bias
    output: Any

    @property
    def buffer(self) -> int:
        """Of the weights."""
        return self.inputs[1].buffer


def options_bytes(activation: int, keep_num_dims: bool) -> bytes:
    """The operator's custom options.

    Args:
        activation: fused activation, 0 to 3, numbered as in TFLite's schema.
        keep_num_dims: keep the leading dimensions of the input.

    Returns:
        The 8 bytes that docs/format.md describes.
    """
    head = struct.pack("<BBBB", OPTIONS_VERSION, activation, _KEEP_NUM_DIMS if keep_num_dims else 0, 0)
    return head + struct.pack("<I", zlib.crc32(head))


@dataclasses.dataclass
class Choice:
    """What to do with one weight matrix.

    Attributes:
        name: of the weights.
        shape: (outputs, inputs).
        values: the dense weights; None when they are no float32 matrix.
        packed: the bytes that take their place; None when they stay.
        reason: why they stay; empty when they are packed.
        sites: the operators that read them.
    """

    name: str
    shape: tuple[int, ...]
    values: np.ndarray | None
    packed: bytes | None
    reason: str
    sites: list[_Site]


def choose(model: Any, weights: Codebook, *, min_sparsity: float) -> list[Choice]:
    """Decides, and packs, without changing the model.

    Args:
        model: ``ModelT`` object.
        weights: how kept weights are quantized.
        min_sparsity: least fraction of exact zeros of a layer that is packed, 0 to 1.

    Returns:
        One choice for each weight matrix, in the order of the file; weights that operators share appear once.
    """
    users, sites = flatbuffer.tensor_users(model), _sites(model)
    choices = []
    progress = Progress("pack", len(sites))
    for buffer, group in sites.items():
        tensor = group[0].inputs[1]
        name, shape = flatbuffer.text(tensor.name), tuple(flatbuffer.indices(tensor.shape))
        reason = _why_not_shared(group, users[buffer]) or next(filter(None, map(_why_not, group)), "")
        values = packed = None
        if not reason:
            values = flatbuffer.constant(model, tensor)
            packed, reason = target.store(values, weights, min_sparsity)
        choices.append(Choice(name, shape, values, packed, reason, group))
        progress.step()
    return choices


def pack_fully_connected(model: Any, choices: list[Choice]) -> list[target.Layer]:
    """Packs fully connected layers, in all subgraphs of a model.

    Args:
        model: ``ModelT`` object, edited in place; `flatbuffer.drop_unused` then drops the dense weights.
        choices: what `choose` decided for this model.

    Returns:
        What became of each weight matrix, in the order of the file.
    """
    layers = []
    for choice in choices:
        if choice.packed is None:
            layers.append(target.Layer(choice.name, choice.shape, reason=choice.reason))
        else:
            _replace(model, choice.sites, choice.packed)
            layers.append(target.describe(choice.name, choice.packed))
    return layers


def _sites(model: Any) -> dict[int, list[_Site]]:
    """The FULLY_CONNECTED operators by the buffer of their weights."""
    sites: dict[int, list[_Site]] = {}
    for number, graph in enumerate(model.subgraphs):
        for position, op in enumerate(graph.operators or ()):
            inputs, outputs = flatbuffer.indices(op.inputs), flatbuffer.indices(op.outputs)
            is_fc = flatbuffer.builtin_code(model, op) == schema.BuiltinOperator.FULLY_CONNECTED
            if is_fc and len(inputs) >= 2 and min(inputs[:2]) >= 0 and outputs and outputs[0] >= 0:
                if model.buffers[graph.tensors[inputs[1]].buffer].data is None:
                    continue  # the weights are computed: nothing to pack
                tensors = [graph.tensors[index] if index >= 0 else None for index in [*inputs, -1][:3]]
                site = _Site(number, position, op, tensors, graph.tensors[outputs[0]])
                sites.setdefault(site.buffer, []).append(site)
    return sites


def _why_not_shared(group: list[_Site], users: set[tuple[int, int | str]]) -> str:
    """Why weights cannot go from the file; empty when all that read them are fully connected and alike."""
    if users != {(site.number, site.position) for site in group}:
        return "another operator, or the caller, also reads its weights"
    if len({tuple(flatbuffer.indices(site.inputs[1].shape)) for site in group}) > 1:
        return "several operators read its weights in different shapes"
    return ""


def _why_not(site: _Site) -> str:
    """Why one operator cannot be replaced; empty when it can."""
    activations, weights, bias = site.inputs
    shape = flatbuffer.indices(weights.shape)
    options = site.op.builtinOptions
    float32 = schema.TensorType.FLOAT32
    checks = {
        "its activations are not float32": activations.type == float32 and site.output.type == float32,
        "its weights are not a float32 matrix": weights.type == float32 and len(shape) == 2 and min(shape) >= 1,
        "its weights are a variable or TFLite-sparse": not weights.isVariable and weights.sparsity is None,
        "its weights are shuffled": not getattr(options, "weightsFormat", 0),
        "its bias is not float32 of the outputs' size": bias is None
        or (bias.type == float32 and flatbuffer.indices(bias.shape) == shape[:1]),
        "its fused activation is not none, ReLU, ReLU6 or ReLU -1...1": getattr(options, "fusedActivationFunction", 0)
        in _ACTIVATIONS,
        "it has several outputs": len(site.op.outputs) == 1,
    }
    return next((reason for reason, holds in checks.items() if not holds), "")


def _replace(model: Any, group: list[_Site], packed: bytes) -> None:
    """Turns the operators into custom ones and their weight tensors into the packed bytes."""
    buffer = flatbuffer.add_buffer(model, packed)
    code = flatbuffer.custom_code(model, target.OPERATOR)
    for site in group:
        weights, op = site.inputs[1], site.op
        weights.buffer, weights.type = buffer, schema.TensorType.UINT8
        weights.shape, weights.shapeSignature = np.array([len(packed)], np.int32), None
        weights.quantization = None
        options = op.builtinOptions
        data = options_bytes(getattr(options, "fusedActivationFunction", 0), bool(getattr(options, "keepNumDims", 0)))
        op.opcodeIndex, op.builtinOptionsType, op.builtinOptions = code, 0, None
        op.customOptions = np.frombuffer(data, np.uint8)
        op.inputs = np.array([*flatbuffer.indices(op.inputs), -1][:3], np.int32)


def packed_layers(model: Any) -> list[target.Layer]:
    """What the packed weights of a model hold, from the file alone; shared weights count once.

    Args:
        model: ``ModelT`` object.

    Raises:
        FormatError: packed weights that are damaged.
    """
    layers = {}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            inputs = flatbuffer.indices(op.inputs)
            if flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode) == target.OPERATOR and len(inputs) > 1:
                tensor = graph.tensors[inputs[1]]
                data = model.buffers[tensor.buffer].data
                layers[tensor.buffer] = target.describe(
                    flatbuffer.text(tensor.name), np.asarray([] if data is None else data, np.uint8)
                )
    return list(layers.values())
