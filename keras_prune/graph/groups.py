"""Which channels of which layers must go together: the dependency groups of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune.graph import (  # noqa: F401  each registers its rules
    rules_attention,
    rules_elementwise,
    rules_kernels,
    rules_merging,
    rules_normalization,
    rules_recurrent,
    rules_shapes,
    rules_slices,
    rules_wrappers,
)
from keras_prune.graph.flow import FIXED, Flow
from keras_prune.graph.parts import Group, Part, Site
from keras_prune.graph.trace import Trace
from keras_prune.names import matches

_LOOSE = ("follow",)
_Key = tuple[int, int]  # id(variable), axis


@dataclasses.dataclass(frozen=True, eq=False)
class Dependencies:
    """The units of a model, and where each of them lies.

    Attributes:
        model: the model.
        parts: of all variables that have units.
        groups: in the order in which the model makes them.
        num_units: units are numbered 0 ... num_units - 1.
        refused: path of a layer -> why its channels are left alone.
        round_to: how many channels a layer keeps is a multiple of it (or all).
        minimum: units that each group keeps at least.
        trace: what `shrink` changes in configurations and arguments.
        numbers: channel of the trace -> unit.
        tensors: units of slices and the like that nothing else is in: one of each stays, that they be not empty.
    """

    model: Any
    parts: tuple[Part, ...]
    groups: tuple[Group, ...]
    num_units: int
    refused: dict[str, str]
    round_to: int
    minimum: int
    trace: Trace
    numbers: dict[int, int]
    tensors: tuple[np.ndarray, ...] = ()

    @property
    def free(self) -> list[Group]:
        """The groups whose units may be removed."""
        return [group for group in self.groups if group.protected is None]

    def keep(self, removed: np.ndarray, scores: np.ndarray | None = None) -> np.ndarray:
        """Which units stay: all but those to be removed, and as many of these as `round_to` and `minimum` ask for.

        Args:
            removed: (num_units,) bool.
            scores: (num_units,) float: of those to be removed the highest stay; None: the first.

        Returns:
            (num_units,) bool.
        """
        kept = ~np.asarray(removed, bool)
        order = np.zeros(self.num_units) if scores is None else np.asarray(scores)
        for units in self.tensors:
            if not kept[units].any():
                kept[units[np.argmax(order[units])]] = True
        for group in self.groups:
            count, total = int(kept[group.units].sum()), len(group.units)
            wanted = total if group.protected is not None else self._wanted(count, total, group.width)
            gone = group.units[~kept[group.units]]
            kept[gone[np.argsort(-order[gone], kind="stable")][: wanted - count]] = True
        return kept

    def _wanted(self, count: int, total: int, width: int) -> int:
        """The number of units to keep instead of `count`."""
        wanted = max(count, min(self.minimum, total))
        while wanted < total and wanted * width % self.round_to:
            wanted += 1
        return wanted

    def zero_units(self) -> np.ndarray:
        """Which units are exactly zero in all their zeroed parts now, (num_units,) bool."""
        zero = np.ones(self.num_units, bool)
        for part in self.parts:
            if part.zeroed:
                values = np.moveaxis(np.asarray(part.variable), part.axis, 0)
                alive = np.any(values.reshape(len(part.units), -1) != 0, axis=1)
                zero[part.units[alive & (part.units >= 0)]] = False
        return zero

    def set_zero(self, removed: np.ndarray) -> None:
        """Sets the zeroed parts of units to zero, in place.

        Args:
            removed: (num_units,) bool.
        """
        for part in self.parts:
            gone = np.append(removed, False)[part.units]
            if part.zeroed and gone.any():
                values = part.variable.numpy().copy()
                np.moveaxis(values, part.axis, 0)[gone] = 0
                part.variable.assign(values)

    def kept_ids(self, kept: np.ndarray) -> Any:
        """``ids of the trace -> bool``, for its edits.

        Args:
            kept: (num_units,) bool.
        """

        def of(ids: np.ndarray) -> np.ndarray:
            roots = self.trace.channels.roots(ids)
            units = np.array([self.numbers.get(int(root), FIXED) for root in roots.ravel()], int).reshape(ids.shape)
            return np.append(kept, True)[units]

        return of

    def __str__(self) -> str:
        rows = [("group", "units", "protected")]
        rows += [(group.name, str(len(group.units)), group.protected or "") for group in self.groups]
        rows += [(layer, "", reason) for layer, reason in self.refused.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def dependencies(
    model: Any, *, protected: Sequence[str] = (), round_to: int = 1, minimum: int = 1, exact: bool = True
) -> Dependencies:
    """Finds which channels of a model must go together.

    Channels are followed from the layers that make them: those that a sum joins are one unit, with the bias, the
    scales of normalization, the depthwise kernels and the rows of the layers behind them. What ends in an output of
    the model stays, and so do channels that are compared with one another (softmax, layer normalization) or that come
    to a layer that no rule knows; `Dependencies.refused` and each group's `protected` say why.

    Args:
        model: a Keras 3 model that is built, Sequential or functional, with nested ones.
        protected: names of layers (or paths, or regular expressions for them) whose channels stay.
        round_to: the number of channels that a layer keeps is a multiple of this, as hardware likes it.
        minimum: units that each group keeps at least, >= 1.
        exact: whether channels stay where zeros would change the statistics of a normalization over them (layer, group
            and RMS normalization). Without it they may go, and the outputs change with the statistics: fine-tune.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: a subclassed model, one that is not built, an unknown name, or a number below 1.

    Example:
        >>> import keras
        >>> hidden, out = keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")
        >>> model = keras.Sequential([keras.Input((4,)), hidden, out])
        >>> print(dependencies(model))
        group  units  protected
        a          3
        b          2  the model's output

    The idea of dependency groups: Fang, Ma, Song, Mi and Wang 2023, "DepGraph: Towards Any Structural Pruning"
    (https://arxiv.org/abs/2301.12900).
    """
    for name, number in (("round_to", round_to), ("minimum", minimum)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}: expected a whole number >= 1, got {number!r}")
    if not isinstance(model, keras.Model):
        raise TypeError(f"model: expected a Keras 3 model (keras.Model), got {model!r:.100}; build it with Keras 3")
    trace = Trace(exact=exact)
    outputs = trace.model(model, [Flow.fixed(tuple(tensor.shape)) for tensor in getattr(model, "inputs", None) or []])
    trace.stop(outputs, "the model's output")
    _protect(trace, protected)
    return _collect(model, trace, round_to=round_to, minimum=minimum)


def _protect(trace: Trace, protected: Iterable[str]) -> None:
    """Channels of layers that the user wants whole."""
    keys = [protected] if isinstance(protected, str) else list(protected)
    for key in keys:
        found = [
            part for part in trace.parts.values() if part.kind == "kernel" and matches(key, f"{part.layer}/kernel")
        ]
        if not found:
            names = sorted({part.layer for part in trace.parts.values() if part.kind == "kernel"})
            raise ValueError(
                f"protected: expected names of layers with channels, got {key!r}; there are {', '.join(names)}"
            )
        for part in found:
            trace.channels.protect(part.ids, "protected by the user")


def _collect(model: Any, trace: Trace, *, round_to: int, minimum: int) -> Dependencies:
    """Numbers the units, and sorts them into groups by the kernels that make them."""
    channels = trace.channels
    makers: dict[int, list[_Key]] = {}  # root -> the kernels' parts that it has
    for key, part in trace.parts.items():
        part.ids = channels.roots(part.ids)
        if part.kind == "kernel":
            for root in np.unique(part.ids).tolist():
                if root != FIXED:
                    makers.setdefault(root, []).append(key)
    numbers = {root: number for number, root in enumerate(makers)}

    def units(ids: np.ndarray) -> np.ndarray:
        return np.array([numbers.get(int(root), FIXED) for root in channels.roots(ids).ravel()], int)

    parts = {
        key: Part(p.variable, p.axis, units(p.ids), p.kind not in _LOOSE, p.kind, p.layer)
        for key, p in trace.parts.items()
    }
    parts = {key: part for key, part in parts.items() if (part.units >= 0).any()}
    sites = _sites(trace, units)
    groups = _groups(trace, makers, numbers, parts=parts, sites=sites)
    values = (tuple(parts.values()), groups, len(numbers), dict(trace.untraced), round_to, minimum, trace, numbers)
    return Dependencies(model, *values, _tensors(trace, groups, units))


def _tensors(trace: Trace, groups: tuple[Group, ...], units: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Units of tensors that could become empty, though each group keeps one."""
    whole = [set(group.units.tolist()) for group in groups]
    found = {tuple(sorted(set(units(np.unique(trace.channels.roots(flow.ids))).tolist()))) for flow in trace.tensors}
    kept = [one for one in sorted(found) if FIXED not in one and not any(group <= set(one) for group in whole)]
    return tuple(np.array(one) for one in kept)


def _groups(
    trace: Trace,
    makers: dict[int, list[_Key]],
    numbers: dict[int, int],
    *,
    parts: dict[_Key, Part],
    sites: dict[str, Site],
) -> tuple[Group, ...]:
    """Units with the same makers, and the same reason to stay."""
    members: dict[Any, list[int]] = {}
    for root, keys in makers.items():
        members.setdefault((tuple(keys), trace.channels.reason(root)), []).append(numbers[root])
    scales: dict[int, list[Part]] = {}  # by unit
    for part in parts.values():
        for unit in np.unique(part.units).tolist() if part.kind == "scale" else ():
            scales.setdefault(unit, []).append(part)
    groups: list[Group] = []
    for (keys, reason), found in members.items():
        units = np.array(found)
        kernels = tuple(parts[key] for key in keys)
        names = list(dict.fromkeys(part.layer for part in kernels))
        own = tuple(part for part in scales.get(found[0], ()) if np.isin(units, part.units).all())
        seen = tuple(sites[name] for name in names if name in sites and np.isin(units, sites[name].units).all())
        width = max(int((part.units == units[0]).sum()) for part in kernels)
        name = "+".join(names)
        same = sum(1 for group in groups if group.name.partition("#")[0] == name)  # attention's heads and outputs
        groups.append(Group(f"{name}#{same + 1}" if same else name, units, kernels, own, seen, width, reason))
    return tuple(groups)


_OWN = (
    *("BatchNormalization", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "LayerScale", "Dropout", "Identity"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Tanh", "Sigmoid", "HardSilu", "HardSigmoid"),
)


def _sites(trace: Trace, units: Any) -> dict[str, Site]:
    """Path of a layer with a kernel -> the last layer behind it that changes its channels only one by one."""
    layers = {path: (layer, flow) for layer, path, flow in trace.flows}
    chains = dict(trace.chains)
    sites = {}
    for path in dict.fromkeys(part.layer for part in trace.parts.values() if part.kind == "kernel"):
        last = path
        while type(layers.get(chains.get(last, ""), (None,))[0]).__name__ in _OWN:
            last = chains[last]
        layer, flow = layers.get(last, (None, None))
        while not isinstance(layer, keras.Layer) and last != path:  # an operator cannot be observed
            last = next(before for before, after in chains.items() if after == last)
            layer, flow = layers[last]
        if flow is None or not isinstance(flow, Flow):
            continue
        flow = trace.compress(flow)
        varying = [axis for axis in range(flow.rank) if flow.varies(axis)]
        if len(varying) == 1:
            sites[path] = Site(layer, varying[0] - flow.rank, units(flow.ids.reshape(-1)), last)
    return sites
