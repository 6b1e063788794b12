"""Dense and convolutional layers, embeddings, pooling, normalization, activations, merging."""

from __future__ import annotations

import math
from typing import Any

from keras_prune.layer_axes import output_letters
from keras_prune.layer_costs.calls import Call
from keras_prune.layer_costs.work import Term, Work, activation_flops, bias_and_activation, each, layer_rule


def _size(variable: Any) -> int:
    return math.prod(variable.shape)


@layer_rule("Dense")
def _dense(call: Call) -> Work:
    kernel = call.layer.kernel
    units = call.layer.units
    macs = call.inputs[0].size * units
    return Work((Term(macs, kernel),), bias_and_activation(call), ((kernel, (1,), units),), units)


@layer_rule("EinsumDense")
def _einsum_dense(call: Call) -> Work:
    """Multiplications: of each element of the input with all elements of the kernel that share its letters."""
    kernel = call.layer.kernel
    letters = call.layer.equation.replace(" ", "").split("->")[0].split(",")[1]
    outputs = output_letters(call.layer.equation)
    sizes = dict(zip(letters, kernel.shape, strict=True))
    new = [letter for letter in outputs if letter not in call.layer.equation.split(",")[0]]
    macs = call.inputs[0].size * math.prod(sizes[letter] for letter in new)
    axes = tuple(letters.index(letter) for letter in outputs)
    units = math.prod(sizes[letter] for letter in outputs)
    return Work((Term(macs, kernel),), bias_and_activation(call), ((kernel, axes, units),), units)


@layer_rule("Conv1D", "Conv2D", "Conv3D")
def _conv(call: Call) -> Work:
    """The kernel at each place of the output; a group's kernel has only its own inputs."""
    kernel, filters = call.layer.kernel, call.layer.filters
    macs = _size(kernel) * (call.outputs[0].size // filters)
    return Work((Term(macs, kernel),), bias_and_activation(call), ((kernel, (-1,), filters),), filters)


@layer_rule("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _transposed(call: Call) -> Work:
    """The kernel at each place of the input."""
    kernel, filters = call.layer.kernel, call.layer.filters
    macs = _size(kernel) * (call.inputs[0].size // kernel.shape[-1])
    return Work((Term(macs, kernel),), bias_and_activation(call), ((kernel, (-2,), filters),), filters)


@layer_rule("DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise(call: Call) -> Work:
    """Each input's own kernel at each place of the output; its channels are those of the layer before: no new units."""
    kernel = call.layer.kernel
    channels = kernel.shape[-2] * kernel.shape[-1]
    macs = _size(kernel) * (call.outputs[0].size // channels)
    return Work((Term(macs, kernel),), bias_and_activation(call), ((kernel, (-2, -1), channels),))


@layer_rule("SeparableConv1D", "SeparableConv2D")
def _separable(call: Call) -> Work:
    depthwise, pointwise = call.layer.depthwise_kernel, call.layer.pointwise_kernel
    filters = call.layer.filters
    places = call.outputs[0].size // filters
    macs = tuple(Term(_size(kernel) * places, kernel) for kernel in (depthwise, pointwise))
    return Work(macs, bias_and_activation(call), ((pointwise, (-1,), filters),), filters)


@layer_rule("Embedding", "ReversibleEmbedding")
def _embedding(call: Call) -> Work | None:
    """Rows are read, nothing is computed."""
    if call.kwargs.get("reverse") or any(value is True for value in call.args):
        return None
    table = call.layer.embeddings
    return Work(outputs=((table, (1,), table.shape[1]),), rows=call.outputs[0].size)


@layer_rule(*(f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)))
def _pooling(call: Call) -> Work:
    """Each element of the output looks at a window."""
    return Work(flops=each(call, math.prod(call.layer.pool_size)))


@layer_rule(
    *(f"{kind}Pooling{rank}D" for kind in ("GlobalMax", "GlobalAverage") for rank in (1, 2, 3)),
    *(f"{kind}Pooling{rank}D" for kind in ("AdaptiveMax", "AdaptiveAverage") for rank in (1, 2, 3)),
)
def _global_pooling(call: Call) -> Work:
    """Each element of the input is added or compared once."""
    return Work(flops=(Term(call.inputs[0].size),))


@layer_rule("BatchNormalization")
def _batch_normalization(call: Call) -> Work:
    """One multiplication, one addition: in inference scale and offset are known beforehand."""
    return Work(flops=each(call, 2))


@layer_rule("LayerNormalization", "GroupNormalization")
def _layer_normalization(call: Call) -> Work:
    """Mean (1 an element), squared differences and their mean (3), minus mean, divided (2), gamma, beta (1 each)."""
    scaled = [getattr(call.layer, name, None) is not None for name in ("gamma", "beta")]
    return Work(flops=each(call, 6 + sum(scaled)))


@layer_rule("RMSNormalization", "UnitNormalization")
def _rms_normalization(call: Call) -> Work:
    """Squares (1 an element), their sum (1), divided (1), scale (1)."""
    return Work(flops=each(call, 3 + (getattr(call.layer, "scale", None) is not None)))


@layer_rule("Normalization", "Rescaling")
def _rescaling(call: Call) -> Work:
    return Work(flops=each(call, 2))


@layer_rule("LayerScale")
def _layer_scale(call: Call) -> Work:
    """Of keras.applications (ConvNeXt): x · gamma."""
    return Work(flops=each(call))


@layer_rule("CustomScaleLayer")
def _scaled_sum(call: Call) -> Work:
    """Of keras.applications (Inception-ResNet): x + scale · y."""
    return Work(flops=each(call, 2))


@layer_rule("Masking")
def _masking(call: Call) -> Work:
    """Compared with the mask value, any over the features, multiplied."""
    return Work(flops=each(call, 3))


@layer_rule("Activation")
def _activation(call: Call) -> Work:
    return Work(flops=each(call, activation_flops(call.layer.activation)))


@layer_rule("ReLU", "LeakyReLU", "PReLU", "ELU")
def _relu(call: Call) -> Work:
    return Work(flops=each(call))


@layer_rule("Softmax")
def _softmax(call: Call) -> Work:
    return Work(flops=each(call, 5))


@layer_rule("Add", "Subtract", "Multiply", "Maximum", "Minimum")
def _merge(call: Call) -> Work:
    return Work(flops=each(call, _count(call) - 1))


@layer_rule("Average")
def _average(call: Call) -> Work:
    return Work(flops=each(call, _count(call)))


def _count(call: Call) -> int:
    """How many tensors are merged: one may come twice."""
    return len(call.args[0] if call.args else call.kwargs["inputs"])


@layer_rule("Dot")
def _dot(call: Call) -> Work:
    first = call.inputs[0]
    axes = call.layer.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return Work(macs=each(call, first.shape[axis]))


@layer_rule(
    *("Concatenate", "Permute", "RepeatVector", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    *("Cropping1D", "Cropping2D", "Cropping3D", "UpSampling1D", "UpSampling3D", "CenterCrop"),
)
def _copy(call: Call) -> Work:
    """Elements are moved, not changed."""
    del call
    return Work()


@layer_rule("UpSampling2D", "Resizing")
def _resize(call: Call) -> Work | None:
    """Nearest neighbours are copied; bilinear interpolation weighs 4 of them."""
    macs = {"nearest": 0, "bilinear": 4}.get(call.layer.interpolation)
    return None if macs is None else Work(macs=each(call, macs))


@layer_rule(
    *("Reshape", "Flatten", "Identity", "InputLayer", "ActivityRegularization", "Dropout", "AlphaDropout"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"),
    "StochasticDepth",  # of keras.applications (ConvNeXt)
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
)
def _view(call: Call) -> Work:
    """In inference the same elements in the same order."""
    del call
    return Work(copies=False)
