"""How channels pass layers and operators of several tensors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_prune.graph.calls import Call, Shape
from keras_prune.graph.flow import FIXED, Flow
from keras_prune.graph.rules import layer_rule, operator_rule
from keras_prune.graph.trace import Kept, Trace

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Subtract": np.subtract, "Multiply": np.multiply, "Maximum": np.maximum, "Minimum": np.minimum,
    "Divide": np.divide, "TrueDivide": np.divide, "Power": np.power,
}  # fmt: skip


@layer_rule("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average")
@operator_rule("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Divide", "TrueDivide", "Power")
def merge(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Place by place, with broadcasting: channels at the same place go together."""
    name = type(call.layer).__name__
    operands = call.args[0] if isinstance(call.args[0], (list, tuple)) else [*call.args, *call.kwargs.values()]
    result, *others = [_operand(trace, value) for value in operands]
    if isinstance(call.layer, keras.Layer):  # layers add missing axes behind the batch
        result, *others = _of_same_rank([result, *others])
    for other in others:
        result = _merge(trace, result, other, name="Add" if name == "Average" else name)
    if name == "Average":
        result = dataclasses.replace(result, value=result.value / len(operands))
    return result


def _of_same_rank(flows: list[Flow]) -> list[Flow]:
    rank = max(flow.rank for flow in flows)

    def longer(flow: Flow) -> Flow:
        axes = tuple(range(1, 1 + rank - flow.rank))
        shape = (*flow.shape[:1], *[1] * len(axes), *flow.shape[1:])
        return Flow(shape, np.expand_dims(flow.ids, axes), np.expand_dims(flow.values(), axes))

    return [longer(flow) if flow.rank < rank else flow for flow in flows]


@operator_rule("layer CustomScaleLayer")
def scaled_sum(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """``a + scale * b``, in Inception-ResNet."""
    return _merge(trace, *flows[:2], name="Add")


def _operand(trace: Trace, value: Any) -> Flow:
    """A flow; a constant is one of its own value, without channels."""
    if isinstance(value, Flow):
        return trace.compress(value)
    array = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
    return _Constant(array.shape, np.full((1,) * array.ndim, FIXED), array)


class _Constant(Flow):
    """A number or an array of the program."""


def _merge(trace: Trace, first: Flow, second: Flow, *, name: str) -> Flow:
    shape = _broadcast(first.shape, second.shape)
    a, b = _aligned(first, len(shape)), _aligned(second, len(shape))
    a, b = _protect_single(trace, a, b), _protect_single(trace, b, a)
    reason = f"{trace.path!r} joins them with places that stay"
    absorbing = name == "Multiply"
    ids_a, ids_b = np.broadcast_arrays(a.ids, b.ids)
    both = (ids_a != FIXED) & (ids_b != FIXED)
    trace.channels.unite(ids_a[both], ids_b[both], reason)
    for one, other, one_flow, other_flow in ((ids_a, ids_b, a, b), (ids_b, ids_a, b, a)):
        alone = (one != FIXED) & (other == FIXED)
        number = isinstance(other_flow, _Constant) and other_flow.value.size == 1
        if not number and (not absorbing or _has_axis(one_flow, other_flow)):
            trace.channels.protect(one[alone], reason)
    ids = np.where(ids_a == FIXED, ids_b, ids_a)
    value = _value(name, a, b)
    return trace.rectangular(Flow(shape, ids, np.broadcast_to(value, ids.shape)))


def _value(name: str, a: Flow, b: Flow) -> np.ndarray:
    """What is there when the channel is pruned; what stays is unknown, but for constants."""
    known = []
    for flow, ids in zip((a, b), np.broadcast_arrays(a.ids, b.ids), strict=True):
        constant = isinstance(flow, _Constant)
        value = np.broadcast_to(flow.value if flow.value.size == 1 or not constant else np.nan, ids.shape)
        known.append(value if constant else np.where(ids == FIXED, np.nan, value))
    with np.errstate(all="ignore"):
        value = _FUNCTIONS[name](*known)
    if name == "Multiply":  # whatever the other is, it is finite
        value = np.where((known[0] == 0) | (known[1] == 0), 0.0, value)
    return value


def _broadcast(first: Shape, second: Shape) -> Shape:
    """NumPy's rule, with unknown lengths."""
    rank = max(len(first), len(second))
    pairs = zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second, strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def _aligned(flow: Flow, rank: int) -> Flow:
    """The flow with axes of length 1 before its own."""
    new = (1,) * (rank - flow.rank)
    value = flow.value.reshape((1,) * (rank - flow.value.ndim) + flow.value.shape)
    return type(flow)((*new, *flow.shape), flow.ids.reshape((*new, *flow.ids.shape)), value)


def _protect_single(trace: Trace, flow: Flow, other: Flow) -> Flow:
    """A channel that is repeated beside several others must stay: its tensor would have no place left."""
    for axis in range(flow.rank):
        if flow.shape[axis] == 1 and other.varies(axis) and (flow.ids != FIXED).any():
            trace.channels.protect(flow.ids, f"{trace.path!r} repeats it beside other channels")
            return Flow.fixed(flow.shape)
    return flow


def _has_axis(flow: Flow, other: Flow) -> bool:
    """Whether the other tensor is as long where this one's channels lie: it could not shrink with them."""
    return any(flow.varies(axis) and other.shape[axis] != 1 for axis in range(flow.rank))


@layer_rule("Concatenate")
@operator_rule("Concatenate")
def concatenate(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """One after the other on the axis of channels; or channels at the same place go together."""
    if not _all_tensors(trace, call, flows):
        return []
    axis = call.layer.axis % flows[0].rank
    if not any(trace.compress(flow).varies(axis) for flow in flows):
        _unite_places(trace, flows)
    parts = [_expand(trace.compress(flow), axis) for flow in flows]
    if any(part is None for part in parts):  # of unknown length
        if any(trace.compress(flow).varies(axis) for flow in flows):
            raise AssertionError(f"{trace.path}: channels on an axis of unknown length")
        result = trace.compress(flows[0])
        size: int | None = None
        zero = np.logical_and.reduce(np.broadcast_arrays(*(flow.values() == 0 for flow in flows)))
        ids, value = result.ids, np.where(zero, 0.0, np.nan)
    else:
        form = list(np.broadcast_shapes(*(_without(part.ids.shape, axis) for part in parts)))
        ids = np.concatenate([_to(part.ids, form, axis) for part in parts], axis)
        value = np.concatenate([_to(part.values(), form, axis) for part in parts], axis)
        size = ids.shape[axis]
    shape = list(flows[0].shape)
    shape[axis] = size
    return trace.rectangular(Flow(tuple(shape), ids, value))


def _all_tensors(trace: Trace, call: Call, flows: list[Flow]) -> bool:
    """Whether what is joined are tensors of the model alone; beside constants channels must stay."""
    given = call.args[0] if call.args else next(iter(call.kwargs.values()))
    if isinstance(given, Flow) or all(isinstance(one, Flow) for one in given):
        return True
    trace.stop(flows, f"{trace.path!r} joins them with a constant")
    return False


def _unite_places(trace: Trace, flows: list[Flow]) -> None:
    """Channels at the same place of tensors go together."""
    for flow in flows[1:]:
        trace.channels.unite(flows[0].ids, flow.ids, f"{trace.path!r} joins them with places that stay")


def _expand(flow: Flow, axis: int) -> Any:
    """The flow with the axis at its full length; None if that is unknown."""
    size = flow.shape[axis]
    if size is None:
        return None
    form = [size if i == axis else n for i, n in enumerate(flow.ids.shape)]
    return Flow(flow.shape, np.broadcast_to(flow.ids, form), np.broadcast_to(flow.values(), form))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _to(array: np.ndarray, form: list[int], axis: int) -> np.ndarray:
    return np.broadcast_to(array, [array.shape[axis] if i == axis else n for i, n in enumerate(form)])


@operator_rule("Stack")
def stack(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """Beside one another on a new axis: channels at the same place go together."""
    if not _all_tensors(trace, call, flows):
        return []
    rank = flows[0].rank + 1
    axis = call.layer.axis % rank
    _unite_places(trace, flows)
    flows = [trace.compress(flow) for flow in flows]
    form = np.broadcast_shapes(*(flow.ids.shape for flow in flows))
    ids = np.stack([np.broadcast_to(flow.ids, form) for flow in flows], axis)
    value = np.stack([np.broadcast_to(flow.values(), form) for flow in flows], axis)
    shape = (*flows[0].shape[:axis], len(flows), *flows[0].shape[axis:])
    return trace.rectangular(Flow(shape, ids, value))


@operator_rule("Split")
def split(trace: Trace, call: Call, flows: list[Flow]) -> list[Flow]:
    """Slices of one axis."""
    layer, flow = call.layer, trace.compress(flows[0])
    axis, size = layer.axis % flow.rank, flows[0].shape[layer.axis]
    sections = layer.indices_or_sections
    if size is None:
        trace.stop([flow], f"{trace.path!r} splits an axis of unknown length")
        return []
    points = (
        [size // sections * i for i in range(1, sections)] if isinstance(sections, int) else [int(i) for i in sections]
    )
    bounds = [0, *points, size]
    if flow.varies(axis):
        line = trace.line(flow, axis, repr(trace.path))

        def change(config: dict[str, Any], kept: Kept) -> None:
            if not kept(line).all():
                config["indices_or_sections"] = [int(kept(line[:point]).sum()) for point in points]

        trace.edit(layer, "indices_or_sections", change)
    results = []
    for start, stop in itertools.pairwise(bounds):
        index = tuple(slice(start, stop) if i == axis and flow.varies(axis) else slice(None) for i in range(flow.rank))
        shape = tuple(stop - start if i == axis else n for i, n in enumerate(flow.shape))
        results.append(Flow(shape, flow.ids[index], flow.values()[index]))
    return results
