"""How channels pass layers and operators that compute each channel by itself, without weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_prune.graph.calls import Call
from keras_prune.graph.elementwise import evaluate, value_after, why_unknown
from keras_prune.graph.flow import FIXED, Flow
from keras_prune.graph.rules import layer_rule, operator_rule
from keras_prune.graph.rules_kernels import channel_axis, output_shape
from keras_prune.graph.trace import Trace


@layer_rule("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization", "Identity")
@layer_rule("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
@operator_rule("layer StochasticDepth", "Identity", "Cast", "StopGradient")
def unchanged(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """In inference the input itself."""
    return flows[0]


@layer_rule("ReLU", "LeakyReLU", "ELU", "Rescaling")
@operator_rule(
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Mish", "Tanh", "Sigmoid", "HardSigmoid"
)
@operator_rule("HardSilu", "HardTanh", "Softplus", "Softsign", "LogSigmoid", "Exp", "Expm1", "Log", "Log1p", "Abs")
@operator_rule("Absolute", "Negative", "Square", "Sqrt", "Rsqrt", "Reciprocal", "Sin", "Cos", "Sign", "Floor", "Ceil")
@operator_rule("Round", "Clip")
def elementwise(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A function of each place, the layer's own."""
    (flow,) = flows[:1]
    if np.size(getattr(call.layer, "scale", 0.0)) > 1 or np.size(getattr(call.layer, "offset", 0.0)) > 1:
        trace.stop([flow], f"{trace.path!r} has a number of its own for each channel")
        return Flow.fixed(flow.shape)
    return dataclasses.replace(flow, value=evaluate(call.layer, np.asarray(flow.value)))


@layer_rule("Normalization", "Masking", "Discretization", "CategoryEncoding", "RandomFlip", "RandomRotation")
def of_data(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """What stands before the first kernel."""
    trace.stop(flows, f"{trace.path!r} ({type(call.layer).__name__}) prepares data; it cannot lose channels")
    return Flow.fixed(output_shape(call.layer, flows[0]))


@layer_rule("Activation")
def activation(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A function by name, of the user's own, or a layer's."""
    (flow,) = flows[:1]
    if value_after(call.layer.activation, 0.0) is None:
        trace.stop([flow], f"{trace.path!r} is {why_unknown(call.layer.activation)}")
        return Flow.fixed(flow.shape)
    return dataclasses.replace(flow, value=evaluate(call.layer.activation, np.asarray(flow.value)))


@layer_rule("Softmax")
def softmax(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Compares the places of its axes."""
    (flow,) = flows[:1]
    axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else [call.layer.axis]
    if any(trace.compress(flow).varies(axis) for axis in axes):
        trace.stop([flow], f"{trace.path!r} compares them (softmax)")
        return Flow.fixed(flow.shape)
    return dataclasses.replace(flow, value=np.where(flow.value == 0, np.nan, np.nan))


@layer_rule("PReLU")
def prelu(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Slopes of each place but for the shared axes."""
    layer, flow = call.layer, trace.compress(flows[0])
    varying = [axis for axis in range(1, flow.rank) if flow.varies(axis)]
    for axis in varying:
        if layer.alpha.shape[axis - 1] > 1:
            trace.part(layer.alpha, axis - 1, trace.line(flow, axis, repr(trace.path)), kind="follow")
    return dataclasses.replace(flow, value=np.where(flow.value == 0, 0.0, np.nan))


@layer_rule("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D")
@layer_rule("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D")
@layer_rule("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D")
@layer_rule(
    "UpSampling1D", "UpSampling2D", "UpSampling3D", "Cropping1D", "Cropping2D", "Cropping3D", "Resizing", "CenterCrop"
)
def spatial(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Works within each channel's map; a constant stays one."""
    flow = _maps(trace, call.layer, flows[0])
    if getattr(call.layer, "pad_to_aspect_ratio", False):  # with another value beside a constant
        flow = dataclasses.replace(flow, value=np.full_like(flow.values(), np.nan))
    return dataclasses.replace(flow, shape=output_shape(call.layer, flow))


@operator_rule("Resize")
def resize(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A batch of maps in another size; a constant stays one, but beside what is padded."""
    layer, flow = call.layer, _maps(trace, call.layer, flows[0])
    shape = tuple(layer.compute_output_spec(keras.KerasTensor(flow.shape)).shape)
    if flow.rank != 4:
        trace.stop([flow], f"{trace.path!r} takes them for the images of no batch")
        return Flow.fixed(shape)
    if getattr(layer, "pad_to_aspect_ratio", False):
        zero = np.nan if getattr(layer, "fill_value", 0.0) else 0.0
        flow = dataclasses.replace(flow, value=np.where(flow.values() == 0, zero, np.nan))
    return dataclasses.replace(flow, shape=shape)


@layer_rule("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def padding(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Zeros at the borders: only a zero stays a constant."""
    flow = _maps(trace, call.layer, flows[0])
    return Flow(output_shape(call.layer, flow), flow.ids, np.where(flow.value == 0, 0.0, np.nan))


@layer_rule("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")
@layer_rule("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")
def global_pooling(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """One number for each channel's map."""
    layer, flow = call.layer, _maps(trace, call.layer, flows[0])
    shape = output_shape(layer, flow)
    if len(shape) == flow.rank:
        return dataclasses.replace(flow, shape=shape)
    axis = channel_axis(layer) % flow.rank
    others = tuple(i for i in range(1, flow.rank) if i != axis)
    return Flow(shape, np.squeeze(flow.ids, others), np.squeeze(flow.values(), others))


def _maps(trace: Trace, layer: Any, flow: Flow) -> Flow:
    """The flow, if its channels lie where the layer counts them."""
    flow = trace.compress(flow)
    axis = channel_axis(layer) % flow.rank
    if any(flow.varies(i) for i in range(flow.rank) if i != axis):
        trace.stop([flow], f"{trace.path!r} works across another axis than theirs")
        return Flow.fixed(flow.shape)
    if not flow.varies(axis) and flow.shape[axis] != 1 and flow.ids.flat[0] != FIXED:
        trace.stop([flow], f"{trace.path!r} works across another axis than theirs")
    return flow
