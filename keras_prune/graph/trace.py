"""The way of channels through a model: who makes them, what shrinks with them, what goes with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune.graph.calls import Call, Calls, Ref, read_calls
from keras_prune.graph.flow import FIXED, Channels, Flow
from keras_prune.graph.rules import find_rule

# ids -> bool array of their shape: which of them are kept.
Kept = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass
class TracedPart:
    """An axis of a variable and the channel at each index of it.

    Attributes:
        kind: ``"kernel"`` (makes the channel), ``"depthwise"``, ``"recurrent"``, ``"bias"``, ``"scale"``, ``"shift"``,
            ``"mean"`` (all of them zero where the channel is pruned), or ``"follow"`` (only shrinks with it).
        layer: the layer's path, for names.
    """

    variable: Any
    axis: int
    ids: np.ndarray
    kind: str
    layer: str


@dataclasses.dataclass
class Fold:
    """Channels that are constants when they are pruned, and the layer whose bias takes what they contribute.

    Attributes:
        kernel: the layer's kernel.
        axis: its axis of inputs; the last axis counts its outputs.
        ids: (inputs,) the channels.
        values: (inputs,) the constants.
        bias: the layer's bias.
    """

    kernel: Any
    axis: int
    ids: np.ndarray
    values: np.ndarray
    bias: Any


class Trace:
    """Follows the channels of one model; the rules add to it.

    Args:
        exact: whether channels stay where zeros would change the statistics of a normalization over them.
    """

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self.channels = Channels()
        self.parts: dict[tuple[int, int], TracedPart] = {}
        self.config_edits: dict[tuple[int, str], Callable[[dict[str, Any], Kept], None]] = {}  # by id(layer)
        self.call_edits: dict[
            tuple[int, int], Callable[[list[Any], dict[str, Any], Kept], None]
        ] = {}  # id(layer), call
        self.folds: dict[int, Fold] = {}  # by id(kernel)
        self.paddings: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by id(operator): channels that padding makes
        self.inputs: dict[int, dict[int, np.ndarray]] = {}  # by id(input layer): axis -> channels
        self.untraced: dict[str, str] = {}  # layers with weights that no rule looks into -> why
        self.flows: list[tuple[Any, str, Flow]] = []  # (layer, path, its first output) in order
        self.tensors: list[Flow] = []  # all results
        self.chains: list[tuple[str, str]] = []  # (layer's path, path of the only layer that takes its output)
        self._path: list[str] = []

    # What rules ask for.

    @property
    def path(self) -> str:
        """Where the layer that is traced now is: ``"encoder/conv1"``."""
        return "/".join(self._path)

    def line(self, flow: Flow, axis: int, what: str) -> np.ndarray:
        """The channels along one axis, (shape[axis],); those that change along another one must stay.

        Args:
            flow: of a tensor.
            axis: any sign.
            what: who cannot do with the others, for the reason.
        """
        axis %= flow.rank
        flow = self.compress(flow)
        others = [i for i in range(flow.rank) if i != axis and flow.varies(i)]
        size = flow.shape[axis]
        if others:
            self.channels.protect(flow.ids, f"{what} works across another axis than theirs")
            flow = Flow.fixed(flow.shape)
        ids = flow.ids.reshape(-1)
        if len(ids) == 1 and size is not None and size > 1:
            if ids[0] != FIXED:
                self.channels.protect(ids, f"{what} works across another axis than theirs")
            return np.full(size, FIXED)
        return ids

    def line_values(self, flow: Flow, axis: int, count: int) -> np.ndarray:
        """The values beside `line`, (count,)."""
        values = np.moveaxis(flow.values(), axis, 0)
        values = values.reshape(values.shape[0], -1)
        same = (values == values[:, :1]).all(axis=1)
        return np.broadcast_to(np.where(same, values[:, 0], np.nan), (count,))

    def make(self, variable: Any, axis: int, *, repeat: int = 1, kind: str = "kernel") -> np.ndarray:
        """The channels that a kernel makes on one of its axes: new ones at the layer's first call.

        Args:
            variable: the kernel.
            axis: which axis counts outputs, any sign.
            repeat: how many times each channel occurs on it, side by side: the gates of a recurrent layer.
            kind: of the part.

        Returns:
            (shape[axis] // repeat,) int.
        """
        count = int(variable.shape[axis]) // repeat
        known = self.parts.get((id(variable), axis % len(variable.shape)))
        if known is not None:
            return known.ids[:count]
        ids = self.channels.fresh(count)
        self.part(variable, axis, np.tile(ids, repeat), kind=kind)
        return ids

    def part(self, variable: Any, axis: int, ids: np.ndarray, *, kind: str) -> None:
        """Says which channel each index of a variable's axis belongs to; at a later call both go together."""
        if variable is None:
            return
        axis %= len(variable.shape)
        if len(ids) != variable.shape[axis]:
            raise AssertionError(f"{self.path}: {len(ids)} channels for axis {axis} of {variable.path}")
        known = self.parts.get((id(variable), axis))
        if known is not None:
            self.channels.unite(known.ids, ids, f"{self.path!r} is called with tensors whose channels stay")
            known.ids = np.where(known.ids == FIXED, ids, known.ids)
            return
        self.parts[id(variable), axis] = TracedPart(variable, axis, ids, kind, self.path)

    def take(self, kernel: Any, axis: int, flow: Flow, *, flow_axis: int = -1, bias: Any = None) -> None:
        """Lets a kernel's axis of inputs shrink with the channels that come in.

        A channel that is a constant when it is pruned goes into the bias, if one is given; else it must stay.
        """
        ids = self.line(flow, flow_axis, repr(self.path))
        values = self.line_values(flow, flow_axis, len(ids))
        constant = (ids != FIXED) & (values != 0)  # also NaN
        new = Fold(kernel, axis % len(kernel.shape), ids, np.where(constant, values, 0.0), bias)
        known = self.folds.setdefault(id(kernel), new)  # of the layer's first call, also where nothing is constant
        same = np.array_equal(known.values, new.values)  # NaN is not
        if constant.any() and (bias is None or not np.isfinite(new.values).all()):
            self._refuse_constants(ids[constant])
        elif not same:
            differs = known.values != new.values
            self._refuse_constants(np.concatenate([ids[differs], known.ids[differs]]))
        self.part(kernel, axis, ids, kind="follow")

    def _refuse_constants(self, ids: np.ndarray) -> None:
        self.channels.protect(ids, f"{self.path!r} takes them where they are not zero when they are pruned")

    def compress(self, flow: Flow) -> Flow:
        """The flow with length 1 wherever channels do not change along an axis."""
        ids, value = self.channels.roots(flow.ids), flow.values()
        for axis in range(flow.rank):
            if ids.shape[axis] > 1:
                first = ids.take([0], axis)
                if (ids == first).all():
                    ids, same = first, value.take([0], axis)
                    value = np.where((value == same).all(axis=axis, keepdims=True), same, np.nan)
        return Flow(flow.shape, ids, value)

    def rectangular(self, flow: Flow) -> Flow:
        """Unites channels so that they change along one axis only, the last: what is left then is a whole tensor."""
        flow = self.compress(flow)
        varying = [axis for axis in range(flow.rank) if flow.varies(axis)]
        for axis in varying[:-1]:
            reason = f"{self.path!r} puts them beside places that stay"
            self.channels.unite(flow.ids, flow.ids.take([0], axis), reason)
        return self.compress(flow)

    def stop(self, flows: Iterable[Flow], reason: str) -> None:
        """All channels that come here must stay."""
        for flow in flows:
            self.channels.protect(flow.ids, reason)

    def edit(self, layer: Any, key: str, change: Callable[[dict[str, Any], Kept], None]) -> None:
        """Remembers how a layer's configuration changes with the channels that are kept."""
        self.config_edits[id(layer), key] = change

    def edit_count(self, layer: Any, key: str, ids: np.ndarray) -> None:
        """Remembers that an entry of the configuration is the number of channels kept."""

        def change(config: dict[str, Any], kept: Kept) -> None:
            config[key] = int(kept(ids).sum())

        self.edit(layer, key, change)

    def edit_call(self, call: Call, change: Callable[[list[Any], dict[str, Any], Kept], None]) -> None:
        """Remembers how the arguments of a call change, as they are in the model's configuration."""
        self.call_edits[id(call.layer), call.index] = change

    # How it goes through a model.

    def model(self, model: Any, flows: Sequence[Flow]) -> list[Flow]:
        """Traces a model's layers in order.

        Args:
            model: Sequential or functional.
            flows: of its inputs, flat.

        Returns:
            The flows of its outputs, flat.
        """
        calls = read_calls(model)
        known = dict(zip(calls.inputs, flows, strict=True))
        self._resize_inputs(calls, known)
        for call in calls.calls:
            results = self.layer(call, known)
            for number, flow in enumerate(results if isinstance(results, (list, tuple)) else [results]):
                known[Ref(call.layer.name, call.index, number)] = flow
                self.tensors.append(flow)
        self._note_chains(calls)
        return [known.get(ref, Flow.fixed(ref.shape)) for ref in calls.outputs]

    def _resize_inputs(self, calls: Calls, known: dict[Ref, Flow]) -> None:
        """Remembers how the inputs of a model in a model shrink."""
        for ref, layer in zip(calls.inputs, calls.sources, strict=True):
            flow = self.compress(known[ref])
            lines = {axis: self.line(flow, axis, repr(self.path)) for axis in range(flow.rank) if flow.varies(axis)}
            known_lines = self.inputs.setdefault(id(layer), lines)
            for axis, ids in lines.items():  # of a later call
                self.channels.unite(
                    known_lines.get(axis, np.array([FIXED])), ids, f"{self.path!r} is called with others"
                )

            def change(config: dict[str, Any], kept: Kept, lines: dict[int, np.ndarray] = known_lines) -> None:
                shape = list(config["batch_shape"])
                for axis, ids in lines.items():
                    shape[axis] = int(kept(ids).sum())
                config["batch_shape"] = tuple(shape)

            if known_lines:
                self.edit(layer, "batch_shape", change)

    def layer(self, call: Call, known: dict[Ref, Flow]) -> Any:
        """Traces one call of a layer by its rule; what has none keeps its channels."""

        def bind(value: Any) -> Any:
            return known.get(value, Flow.fixed(value.shape)) if isinstance(value, Ref) else value

        args, kwargs = (keras.tree.map_structure(bind, values) for values in (call.args, call.kwargs))
        self._path.append(call.layer.name)
        try:
            results = self.apply(dataclasses.replace(call, args=args, kwargs=kwargs))
            first = next(iter(results), None) if isinstance(results, (list, tuple)) else results
            if first is not None:
                self.flows.append((call.layer, self.path, first))
        finally:
            self._path.pop()
        return results

    def apply(self, call: Call) -> Any:
        """The rule for a bound call (flows in the place of tensors), also for layers inside of others."""
        named = {name: value for name, value in call.kwargs.items() if not name.endswith("mask")}
        flows = [value for value in keras.tree.flatten([call.args, named]) if isinstance(value, Flow)]
        rule = find_rule(call.layer)
        if rule is not None:
            return rule(self, call, flows)
        kind = type(call.layer).__name__
        self.stop(flows, f"{self.path!r} ({kind}) is a layer that no rule knows")
        if getattr(call.layer, "weights", None):
            self.untraced[self.path] = f"no rule knows what a {kind} computes"
        return []

    def _note_chains(self, calls: Calls) -> None:
        """Remembers where one layer's only result goes to one other layer alone."""
        users: dict[tuple[str, int], list[Call]] = {}
        count: dict[str, int] = {}
        for call in calls.calls:
            count[call.layer.name] = count.get(call.layer.name, 0) + 1
            for ref in call.refs:
                users.setdefault((ref.name, ref.index), []).append(call)
        ends = {(ref.name, ref.index) for ref in calls.outputs}
        prefix = [*self._path]
        for (name, index), takers in users.items():
            if len(takers) == 1 and (name, index) not in ends and count.get(name) == 1 and len(takers[0].refs) == 1:
                self.chains.append(("/".join([*prefix, name]), "/".join([*prefix, takers[0].layer.name])))
