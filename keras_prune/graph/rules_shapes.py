"""How channels pass layers and operators that only move places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune.graph.calls import Call, Shape
from keras_prune.graph.flow import Flow
from keras_prune.graph.rules import layer_rule, operator_rule
from keras_prune.graph.rules_kernels import output_shape
from keras_prune.graph.trace import Kept, Trace


def reshaped(trace: Trace, flow: Flow, shape: Shape) -> Flow:
    """The flow in another shape, each place where the same number of places comes before it.

    Args:
        trace: the trace.
        flow: with its batch first.
        shape: the new one, with None where it is unknown.
    """
    flow = trace.compress(flow)
    if flow.shape == shape:
        return flow
    if flow.varies(0):
        trace.stop([flow], f"{trace.path!r} reshapes a tensor with channels on its first axis")
        return Flow.fixed(shape)
    if not any(flow.varies(axis) for axis in range(flow.rank)):
        trace.stop([flow], f"{trace.path!r} gives a single channel another shape")
        return Flow.fixed(shape)
    blocks, left = _blocks(flow.shape[1:], shape[1:])
    if any(flow.varies(axis + 1) for axis in range(left)):
        trace.stop([flow], f"{trace.path!r} reshapes axes of unknown length")
        return Flow.fixed(shape)
    form, target = [1] * (1 + left), [1] * (len(shape) - sum(len(new) for _, new in blocks))
    for old, new in blocks:
        varies = any(flow.varies(axis + 1) for axis in old)
        form += [int(flow.shape[axis + 1] or 1) if varies else 1 for axis in old]
        target += [int(shape[axis + 1] or 1) if varies else 1 for axis in new]
    ids = np.broadcast_to(flow.ids, form).reshape(target)
    value = np.broadcast_to(flow.values(), form).reshape(target)
    return trace.rectangular(Flow(shape, ids, value))


def _blocks(old: Sequence[int | None], new: Sequence[int | None]) -> tuple[list[tuple[range, range]], int]:
    """Which axes become which: runs of axes of equal products; and how many old axes are left before them.

    They are found from the last axis on, up to unknown lengths: what is behind an axis fixes a place on it, whatever
    is before it, even where the batch takes part.
    """
    blocks: list[tuple[range, range]] = []
    i, j = len(old), len(new)
    while i or j:
        first, second = max(i - 1, 0), max(j - 1, 0)
        while (a := _size(old[first:i])) != (b := _size(new[second:j])):
            if a is None or b is None or not (first if a < b else second):
                return blocks[::-1], i
            first, second = (first - 1, second) if a < b else (first, second - 1)
        if a is None:
            return blocks[::-1], i
        blocks.append((range(first, i), range(second, j)))
        i, j = first, second
    return blocks[::-1], 0


def _size(shape: Sequence[int | None]) -> int | None:
    return None if None in shape else math.prod(n for n in shape if n is not None)


def _edit_shape(trace: Trace, layer: Any, flow: Flow, *, key: str) -> None:
    """Remembers the lengths of axes with channels in a hard-coded shape."""
    lines = {axis: trace.line(flow, axis, repr(trace.path)) for axis in range(1, flow.rank) if flow.varies(axis)}

    def change(config: dict[str, Any], kept: Kept) -> None:
        form = list(config[key])
        for axis, ids in lines.items():
            place = axis - flow.rank + len(form)  # with or without the batch
            if form[place] != -1:
                form[place] = int(kept(ids).sum())
        config[key] = tuple(form)

    if lines:
        trace.edit(layer, key, change)


@layer_rule("Flatten")
def flatten(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """All axes but the batch become one."""
    flow = flows[0]
    if call.layer.data_format == "channels_first" and flow.rank > 2:
        flow = permuted(flow, [0, *range(2, flow.rank), 1])
    return reshaped(trace, flow, output_shape(call.layer, flow))


@layer_rule("Reshape")
def reshape_layer(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A shape without the batch."""
    result = reshaped(trace, flows[0], output_shape(call.layer, flows[0]))
    _edit_shape(trace, call.layer, result, key="target_shape")
    return result


@operator_rule("Reshape")
def reshape_operator(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A shape with the batch, which must stay first."""
    flow = flows[0]
    shape = tuple(call.layer.compute_output_spec(_tensor(flow)).shape)
    if len(shape) == 0 or shape[0] != flow.shape[0]:
        trace.stop([flow], f"{trace.path!r} reshapes the batch")
        return Flow.fixed(shape)
    result = reshaped(trace, flow, shape)
    _edit_shape(trace, call.layer, result, key="newshape")
    return result


def _tensor(flow: Flow) -> Any:
    return keras.KerasTensor(flow.shape)


def permuted(flow: Flow, axes: Sequence[int]) -> Flow:
    """The flow with its axes in another order."""
    return Flow(tuple(flow.shape[axis] for axis in axes), flow.ids.transpose(axes), flow.values().transpose(axes))


@layer_rule("Permute")
def permute(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Axes counted from 1."""
    return permuted(flows[0], [0, *call.layer.dims])


@operator_rule("Transpose")
def transpose(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Axes with the batch."""
    flow = flows[0]
    return permuted(flow, call.layer.axes or range(flow.rank)[::-1])


@operator_rule("Swapaxes", "Moveaxis")
def moved_axes(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Some axes in other places."""
    flow, layer = flows[0], call.layer
    axes = np.empty(range(flow.rank))  # as long as their numbers
    if hasattr(layer, "axis1"):
        return permuted(flow, np.swapaxes(axes, layer.axis1, layer.axis2).shape)
    return permuted(flow, np.moveaxis(axes, layer.source, layer.destination).shape)


@layer_rule("RepeatVector")
def repeat_vector(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A new axis of time."""
    flow = flows[0]
    shape = (flow.shape[0], call.layer.n, flow.shape[1])
    return Flow(shape, flow.ids[:, np.newaxis], flow.values()[:, np.newaxis])


@operator_rule("Flip", "Repeat")
def along_axes(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Places of some axes, without that of the channels, in another order or several times."""
    flow, given = trace.compress(flows[0]), call.layer.axis
    axes = range(flow.rank) if given is None else np.ravel(given) % flow.rank
    return _moved(trace, call, flow, axes=axes)


@operator_rule("Tile")
def tile(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Whole axes several times, without that of the channels."""
    flow, repeats = trace.compress(flows[0]), np.ravel(call.layer.repeats)
    new = len(repeats) > flow.rank
    axes = range(flow.rank) if new else flow.rank - len(repeats) + np.flatnonzero(repeats != 1)
    return _moved(trace, call, flow, axes=axes)


def _moved(trace: Trace, call: Call, flow: Flow, *, axes: Iterable[int]) -> Flow:
    """The flow where an operator moves places along these axes."""
    shape = tuple(call.layer.compute_output_spec(_tensor(flow)).shape)
    if len(shape) == flow.rank and not any(flow.varies(axis) or axis == 0 for axis in axes):
        return Flow(shape, flow.ids, flow.values())
    trace.stop([flow], f"{trace.path!r} ({type(call.layer).__name__}) moves places along their axis or the batch's")
    return Flow.fixed(shape)


@operator_rule("ExpandDims")
def expand_dims(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """A new axis of length 1."""
    flow, axis = flows[0], call.layer.axis
    axes = [a % (flow.rank + 1) for a in ([axis] if isinstance(axis, int) else axis)]
    shape = list(flow.shape)
    for a in sorted(axes):
        shape.insert(a, 1)
    return Flow(tuple(shape), np.expand_dims(flow.ids, axes), np.expand_dims(flow.values(), axes))


@operator_rule("Squeeze")
def squeeze(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Without axes of length 1."""
    flow, axis = flows[0], call.layer.axis
    given = (
        [i for i, n in enumerate(flow.shape) if n == 1] if axis is None else [axis] if isinstance(axis, int) else axis
    )
    axes = tuple(a % flow.rank for a in given)
    if axis is None:  # a single channel that is left is no axis to lose
        trace.edit(call.layer, "axis", lambda config, kept: config.update(axis=axes))
    shape = tuple(n for i, n in enumerate(flow.shape) if i not in axes)
    return Flow(shape, np.squeeze(flow.ids, axes), np.squeeze(flow.values(), axes))


@operator_rule("Mean", "Sum", "Max", "Min", "Amax", "Amin")
def reduce(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Over axes; over that of the channels only with all of them."""
    layer, flow = call.layer, trace.compress(flows[0])
    given = getattr(layer, "axis", None)
    axes = (
        tuple(range(flow.rank))
        if given is None
        else tuple(a % flow.rank for a in ([given] if isinstance(given, int) else given))
    )
    kept = tuple(1 if i in axes else n for i, n in enumerate(flow.shape))
    if any(flow.varies(axis) for axis in axes):
        trace.stop([flow], f"{trace.path!r} ({type(layer).__name__}) computes over all of them")
        flow = Flow.fixed(kept)
    value = np.where(flow.values() == 0, 0.0, np.nan if type(layer).__name__ == "Sum" else flow.values())
    if getattr(layer, "initial", None) is not None:  # of maxima and minima
        value = np.full_like(value, np.nan)
    if getattr(layer, "keepdims", False):
        return Flow(kept, flow.ids, value)
    shape = tuple(n for i, n in enumerate(flow.shape) if i not in axes)
    return Flow(shape, np.squeeze(flow.ids, axes), np.squeeze(value, axes))


@operator_rule("Pad")
def pad(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Zeros on any axis; on that of the channels new ones, which nothing makes, come beside them."""
    layer, flow = call.layer, trace.compress(flows[0])
    widths = [tuple(width) for width in layer.pad_width]
    widths = widths * flow.rank if len(widths) == 1 else widths
    shape = tuple(None if n is None else n + sum(width) for n, width in zip(flow.shape, widths, strict=True))
    filling = call.kwargs.get("constant_values") or 0
    zeros = layer.mode == "constant" and not filling
    axes = [axis for axis in range(flow.rank) if sum(widths[axis]) and flow.varies(axis)]
    if axes and not zeros:
        trace.stop([flow], f"{trace.path!r} pads them with other values than zero")
        return Flow.fixed(shape)
    if not axes:
        return Flow(shape, flow.ids, np.where((flow.values() == 0) & zeros, 0.0, np.nan))
    (axis,) = axes
    before, after = widths[axis]
    line = trace.line(flow, axis, repr(trace.path))
    front, back = _padding(trace, layer, widths[axis])

    def change(config: dict[str, Any], kept: Kept) -> None:
        new = [list(width) for width in widths]
        new[axis] = [int(kept(front).sum()), int(kept(back).sum())]
        config["pad_width"] = new

    trace.edit(layer, "pad_width", change)
    values = trace.line_values(flow, axis, len(line))
    if any(sum(width) for i, width in enumerate(widths) if i != axis):  # zeros beside a constant
        values = np.where(values == 0, 0.0, np.nan)
    ids = np.concatenate([front, line, back])
    return Flow.along(shape, axis, ids, value=np.concatenate([np.zeros(before), values, np.zeros(after)]))


def _padding(trace: Trace, layer: Any, widths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The channels of the zeros on both sides, the same at each call."""
    known = trace.paddings.get(id(layer))
    if known is None:
        known = trace.paddings[id(layer)] = (trace.channels.fresh(widths[0]), trace.channels.fresh(widths[1]))
    return known
