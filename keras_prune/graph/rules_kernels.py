"""How channels pass layers with kernels: dense, convolution, embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune.graph.calls import Call
from keras_prune.graph.elementwise import value_after, why_unknown
from keras_prune.graph.flow import FIXED, Flow
from keras_prune.graph.rules import layer_rule
from keras_prune.graph.trace import Trace


def channel_axis(layer: Any) -> int:
    """The axis of a layer's channels: the last, or 1 with ``channels_first``."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def output_shape(layer: Any, flow: Flow) -> tuple[int | None, ...]:
    """The shape of a layer's output for this input."""
    return tuple(layer.compute_output_shape(flow.shape))


def activated(trace: Trace, layer: Any, ids: np.ndarray) -> float:
    """What the layer's activation makes of a pruned channel; those that it compares with others must stay."""
    result = value_after(layer.activation, 0.0)
    if result is None:
        trace.channels.protect(ids, f"{trace.path!r} has {why_unknown(layer.activation)}")
        return 0.0
    return result


@layer_rule("Dense")
def dense(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """(inputs, units)."""
    layer, (flow,) = call.layer, flows[:1]
    trace.take(layer.kernel, 0, flow, bias=layer.bias)
    ids = trace.make(layer.kernel, 1)
    trace.part(layer.bias, 0, ids, kind="bias")
    trace.edit_count(layer, "units", ids)
    value = activated(trace, layer, ids)
    return Flow.along((*flow.shape[:-1], len(ids)), -1, ids, value=value)


@layer_rule("Conv1D", "Conv2D", "Conv3D")
def convolution(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """(..., inputs / groups, filters)."""
    layer, (flow,) = call.layer, flows[:1]
    axis, rank = channel_axis(layer), len(layer.kernel.shape)
    if layer.groups == 1:
        trace.take(layer.kernel, rank - 2, flow, flow_axis=axis, bias=layer.bias if _sees_no_zeros(layer) else None)
        ids = trace.make(layer.kernel, rank - 1)
    else:
        ids = _grouped(trace, layer, flow)
    trace.part(layer.bias, 0, ids, kind="bias")
    trace.edit_count(layer, "filters", ids)
    return Flow.along(output_shape(layer, flow), axis, ids, value=activated(trace, layer, ids))


def _sees_no_zeros(layer: Any) -> bool:
    """Whether a convolution adds no zeros at the borders, where a constant would be none."""
    return layer.padding == "valid" or all(size == 1 for size in layer.kernel_size)


def _grouped(trace: Trace, layer: Any, flow: Flow) -> np.ndarray:
    """Groups stay equally large: the channels at one place of all groups go together; groups of one go as a whole."""
    groups, rank, axis = layer.groups, len(layer.kernel.shape), channel_axis(layer)
    inputs = trace.line(flow, axis, repr(trace.path))
    values = trace.line_values(flow, axis, len(inputs))
    constant = (inputs != FIXED) & (values != 0)
    trace.channels.protect(inputs[constant], f"{trace.path!r} takes them where they are not zero when they are pruned")
    ids = trace.make(layer.kernel, rank - 1, kind="depthwise" if len(inputs) == groups else "kernel")
    if len(inputs) == groups:
        trace.channels.unite(ids.reshape(groups, -1), inputs[:, np.newaxis], f"{trace.path!r} takes channels that stay")
        trace.edit_count(layer, "groups", inputs)
        return ids
    places = inputs.reshape(groups, -1)
    trace.channels.unite(places, places[:1], f"{trace.path!r} takes channels that stay")
    trace.part(layer.kernel, rank - 2, places[0], kind="follow")
    made = ids.reshape(groups, -1)
    trace.channels.unite(made, made[:1], trace.path)
    return ids


@layer_rule("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def transposed(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """(..., filters, inputs)."""
    layer, (flow,) = call.layer, flows[:1]
    axis, rank = channel_axis(layer), len(layer.kernel.shape)
    trace.take(layer.kernel, rank - 1, flow, flow_axis=axis)
    ids = trace.make(layer.kernel, rank - 2)
    trace.part(layer.bias, 0, ids, kind="bias")
    trace.edit_count(layer, "filters", ids)
    return Flow.along(output_shape(layer, flow), axis, ids, value=activated(trace, layer, ids))


def _depthwise(trace: Trace, layer: Any, flow: Flow, *, kernel: Any) -> np.ndarray:
    """The channels behind a depthwise kernel (..., inputs, multiplier): those of each input stay with it."""
    axis, rank = channel_axis(layer), len(kernel.shape)
    inputs = trace.line(flow, axis, repr(trace.path))
    trace.part(kernel, rank - 2, inputs, kind="depthwise")
    return np.repeat(inputs, int(kernel.shape[-1]))


@layer_rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """(..., inputs, multiplier)."""
    layer, (flow,) = call.layer, flows[:1]
    ids = _depthwise(trace, layer, flow, kernel=layer.kernel)
    trace.part(layer.bias, 0, ids, kind="bias")
    return Flow.along(output_shape(layer, flow), channel_axis(layer), ids, value=activated(trace, layer, ids))


@layer_rule("SeparableConv1D", "SeparableConv2D")
def separable(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A depthwise kernel, then (..., inputs * multiplier, filters)."""
    layer, (flow,) = call.layer, flows[:1]
    rank = len(layer.pointwise_kernel.shape)
    between = _depthwise(trace, layer, flow, kernel=layer.depthwise_kernel)
    trace.part(layer.pointwise_kernel, rank - 2, between, kind="follow")
    ids = trace.make(layer.pointwise_kernel, rank - 1)
    trace.part(layer.bias, 0, ids, kind="bias")
    trace.edit_count(layer, "filters", ids)
    return Flow.along(output_shape(layer, flow), channel_axis(layer), ids, value=activated(trace, layer, ids))


@layer_rule("Embedding")
def embedding(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """(words, outputs)."""
    layer, (flow,) = call.layer, flows[:1]
    ids = trace.make(layer.embeddings, 1)
    trace.edit_count(layer, "output_dim", ids)
    return Flow.along((*flow.shape, len(ids)), -1, ids)


@layer_rule("ReversibleEmbedding")
def reversible(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """As an embedding; in reverse, scores of all words: by the same (words, outputs) or a kernel (outputs, words)."""
    layer, (flow,) = call.layer, flows[:1]
    if not call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False):
        return embedding(trace, call, flows)
    if layer.tie_weights:
        trace.make(layer.embeddings, 1)  # which may be called the other way later
        trace.take(layer.embeddings, 1, flow)
    else:
        trace.take(layer.reverse_embeddings, 0, flow)
        trace.part(layer.reverse_embeddings, 0, trace.make(layer.embeddings, 1), kind="follow")
    return Flow.fixed((*flow.shape[:-1], int(layer.input_dim)))


@layer_rule("EinsumDense")
def einsum_dense(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A product by an equation: the first axis of new outputs may shrink, and the axes that are summed."""
    layer, (flow,) = call.layer, flows[:1]
    given, letters, results = _letters(layer.equation, flow.rank)
    shape = output_shape(layer, flow)
    flow = trace.compress(flow)
    moving = [axis for axis in range(flow.rank) if flow.varies(axis)]
    for axis in moving:
        if given[axis] in letters and given[axis] not in results:
            trace.take(layer.kernel, letters.index(given[axis]), flow, flow_axis=axis)
        else:
            trace.stop([flow], f"{trace.path!r} works across another axis than theirs")
    for axis in set(range(flow.rank)) - set(moving):
        if given[axis] in letters and given[axis] not in results:  # of this call none; of another one perhaps
            place = letters.index(given[axis])
            trace.part(layer.kernel, place, np.full(layer.kernel.shape[place], FIXED), kind="follow")
    new = [letter for letter in letters if letter in results and letter not in given]
    if not new:
        return Flow.fixed(shape)
    letter = new[0]
    ids = trace.make(layer.kernel, letters.index(letter))
    axis = results.index(letter)
    if layer.bias is not None:
        if letter not in (layer.bias_axes or ""):
            trace.channels.protect(ids, f"{trace.path!r} has a bias that does not count them")
        else:
            trace.part(layer.bias, axis - len(results), ids, kind="bias")

    def change(config: dict[str, Any], kept: Any) -> None:
        form = config["output_shape"]
        form = [form] if isinstance(form, int) else list(form)
        form[axis - len(results)] = int(kept(ids).sum())  # without the batch
        config["output_shape"] = form

    trace.edit(layer, "output_shape", change)
    return Flow.along(shape, axis, ids, value=activated(trace, layer, ids))


def _letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of input, kernel and result, with capitals in the place of dots."""
    left, results = equation.replace(" ", "").split("->")
    given, kernel = left.split(",")
    dots = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: rank - len(given.replace("...", ""))]
    return given.replace("...", dots), kernel, results.replace("...", dots)
