"""How channels pass slices: ``x[..., 4:8]``."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune.graph.calls import Call
from keras_prune.graph.flow import Flow
from keras_prune.graph.rules import operator_rule
from keras_prune.graph.trace import Kept, Trace


@operator_rule("GetItem")
def get_item(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """``x[..., 4:8]``: slices, single places, new axes."""
    flow = trace.compress(flows[0])
    key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    given = sum(1 for one in keys if one is not None and one is not Ellipsis)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    place = next(i for i, one in enumerate(keys) if one is Ellipsis)
    keys[place : place + 1] = [slice(None)] * (flow.rank - given)
    index: list[Any] = []
    shape: list[int | None] = []
    bounds: dict[int, tuple[np.ndarray, int, int]] = {}  # place among the keys -> the axis's channels and its slice
    axis = 0
    for number, one in enumerate(keys):
        if one is None:
            index.append(None)
            shape.append(1)
            continue
        size = flow.shape[axis]
        if isinstance(one, slice):
            length = None if size is None else len(range(size)[one])
            whole = one in (slice(None), slice(None, None, 1))
            if flow.varies(axis) and not whole and size is not None:
                start, stop, step = one.indices(size)
                line = trace.line(flow, axis, repr(trace.path))
                if step == 1:
                    bounds[number] = (line, start, stop)
                else:
                    _unite_steps(trace, line, one)
            index.append(one if flow.varies(axis) else slice(None))
            shape.append(size if whole else length)
        elif isinstance(one, int):
            if flow.varies(axis):
                trace.stop([flow], f"{trace.path!r} takes one of them by its number")
            index.append(one if flow.varies(axis) else 0)
        else:
            trace.stop([flow], f"{trace.path!r} takes places by {one!r}")
            return []
        axis += 1
    if bounds:
        _edit_slices(trace, call, count=len(keys), bounds=bounds)
    return Flow(tuple(shape), flow.ids[tuple(index)], flow.values()[tuple(index)])


def _unite_steps(trace: Trace, line: np.ndarray, taken: slice) -> None:
    """Of whole blocks as long as a step, the slice takes the same place in each, whichever are left."""
    step = abs(taken.step)
    from_first = taken.start is None or 0 <= taken.start < taken.step  # of its direction, within the first block
    if taken.stop is not None or not from_first:
        trace.channels.protect(line, f"{trace.path!r} takes some of them with steps of {taken.step}")
        return
    order = line if taken.step > 0 else line[::-1]
    for first in range(0, len(line), step):
        trace.channels.unite(order[first], order[first : first + step], f"{trace.path!r} takes them by steps")


def _edit_slices(trace: Trace, call: Call, *, count: int, bounds: dict[int, tuple[np.ndarray, int, int]]) -> None:
    """Remembers where slices of channels begin and end."""

    def change(args: list[Any], kwargs: dict[str, Any], kept: Kept) -> None:
        where: Any = args if len(args) > 1 else kwargs
        name = 1 if len(args) > 1 else "key"
        listed = isinstance(where[name], (list, tuple))
        keys = list(where[name]) if listed else [where[name]]
        places = [i for i, one in enumerate(keys) if isinstance(one, dict) and one.get("class_name") == "__ellipsis__"]
        for number, (line, start, stop) in bounds.items():
            behind = bool(places) and number > places[0]
            place = number - count + len(keys) if behind else number
            new = [int(kept(line[:point]).sum()) for point in (start, stop)]
            keys[place] = {"class_name": "__slice__", "config": {"start": new[0], "stop": new[1], "step": None}}
        where[name] = keys if listed else keys[0]

    trace.edit_call(call, change)
