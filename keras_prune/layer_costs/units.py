"""What each unit contributes to a model's costs, and what is left without some of them; no smaller model is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_prune.layer_costs.calls import Tensor
from keras_prune.layer_costs.entries import Entry, entries
from keras_prune.layer_costs.table import item_bytes
from keras_prune.layer_costs.work import Term

QUANTITIES = ("macs", "flops", "parameters", "bytes", "activations", "memory", "bandwidth")

# Unit -> the fraction of an axis, or of a tensor's elements, that goes with it.
Shares = dict[int, float]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelCosts:
    """Costs as a sum of products: amount · fraction kept of one axis · fraction kept of another ...

    Attributes:
        num_units: units are numbered 0 ... num_units - 1.
        factors: (units, shares) of each axis or tensor: int and float arrays (n,).
        terms: which factors each amount is multiplied by.
        amounts: (terms, quantities), of the whole model.
    """

    num_units: int
    factors: tuple[tuple[np.ndarray, np.ndarray], ...]
    terms: tuple[tuple[int, ...], ...]
    amounts: np.ndarray

    def totals(self, kept: np.ndarray | None = None) -> dict[str, int]:
        """Costs of the model without some of its units: what `costs` says of the model that `shrink` makes.

        Exact for parameters and bytes. What layers without weights compute is in proportion to the channels of the
        tensors that they take: after a split of channels each part is taken to lose the same fraction.

        Args:
            kept: (num_units,) bool, as `Dependencies.keep` gives it; None: all.

        Returns:
            ``"macs"``, ``"flops"``, ``"parameters"``, ``"bytes"`` of parameters, ``"activations"`` (elements),
            ``"memory"`` (bytes of parameters and activations), ``"bandwidth"`` (bytes read and written).

        Raises:
            ValueError: not one truth value for each unit.
        """
        kept = np.ones(self.num_units, bool) if kept is None else np.asarray(kept)
        if kept.shape != (self.num_units,) or kept.dtype != bool:
            raise ValueError(
                f"kept: expected an array of {self.num_units} truth values, one for each unit, got {kept.dtype} of "
                f"shape {kept.shape}; give what Dependencies.keep returns"
            )
        left = [1.0 - shares[~kept[units]].sum() for units, shares in self.factors]
        products = np.array([math.prod(left[factor] for factor in term) for term in self.terms])
        sums = products @ self.amounts if len(products) else np.zeros(len(QUANTITIES))
        return {name: int(value) for name, value in zip(QUANTITIES, np.rint(sums), strict=True)}

    def units(self) -> dict[str, np.ndarray]:
        """What is saved when each unit is removed alone: quantity -> float array (num_units,)."""
        saved = np.zeros((self.num_units, len(QUANTITIES)))
        for term, amounts in zip(self.terms, self.amounts, strict=True):
            found = (
                np.unique(np.concatenate([self.factors[factor][0] for factor in term])) if term else np.array([], int)
            )
            left = np.ones(len(found))
            for factor in term:
                units, shares = self.factors[factor]
                np.multiply.at(left, np.searchsorted(found, units), 1.0 - shares)
            saved[found] += (1.0 - left)[:, None] * amounts
        saved = saved.round(6)  # without the last digits of 1 - share
        return {name: saved[:, place] for place, name in enumerate(QUANTITIES)}


def unit_costs(model: Any, dependencies: Any, input_shape: Any = None) -> dict[str, np.ndarray]:
    """What each unit contributes to a model's costs: what is saved when it alone is removed.

    Removing several saves a little less than the sum, as a kernel's inputs and outputs are multiplied;
    `channel_costs` gives the exact total. For an objective such as score - lambda · share of the cost.

    Args:
        model: a Keras 3 model that is built.
        dependencies: of this model, from `keras_prune.graph.dependencies`.
        input_shape: as for `costs`.

    Returns:
        Each of `QUANTITIES` -> float array (num_units,); ``"memory"`` is bytes of parameters and activations.

    Raises:
        ValueError: as `costs`, or the operations of a layer are unknown.

    Paper: Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    section 2.2 (FLOPs regularization).

    Example:
        >>> import keras
        >>> from keras_prune.graph import dependencies
        >>> layers = [keras.layers.Dense(3, use_bias=False), keras.layers.Dense(2, use_bias=False)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> unit_costs(model, dependencies(model))["macs"].tolist()  # 4 inputs and 2 outputs for each of the first 3
        [6.0, 6.0, 6.0, 3.0, 3.0]
    """
    return channel_costs(model, dependencies, input_shape).units()


def channel_costs(model: Any, dependencies: Any, input_shape: Any = None) -> ChannelCosts:
    """Costs of a model as a function of the units that it keeps: made once, then cheap to ask again and again.

    Args:
        model: a Keras 3 model that is built.
        dependencies: of this model, from `keras_prune.graph.dependencies`.
        input_shape: as for `costs`.

    Raises:
        ValueError: as `costs`, or the operations of a layer are unknown.

    Example:
        >>> import keras
        >>> from keras_prune.graph import dependencies
        >>> layers = [keras.layers.Dense(3, use_bias=False), keras.layers.Dense(2, use_bias=False)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> channel_costs(model, dependencies(model)).totals(np.array([True, True, False, True, True]))["macs"]
        12
    """
    found = entries(model, input_shape)
    unknown = [entry.name for entry in found if entry.work is None]
    if unknown:
        raise ValueError(f"model: expected layers whose operations are known, got unknown ones in {unknown}")
    builder = _Builder(dependencies)
    for entry in found:
        builder.add(entry)
    return builder.build(dependencies.num_units)


class _Builder:
    """Follows the units through the calls."""

    def __init__(self, dependencies: Any) -> None:
        self._axes = {(id(part.variable), part.axis): _shares(part.units) for part in dependencies.parts}
        self._tensors: dict[int, Shares] = {}
        self._factors: dict[tuple[tuple[int, float], ...], int] = {}
        self._terms: dict[tuple[int, ...], np.ndarray] = {}

    def build(self, num_units: int) -> ChannelCosts:
        """All that was added."""
        factors = tuple((np.array([u for u, _ in key], int), np.array([s for _, s in key])) for key in self._factors)
        amounts = np.array(list(self._terms.values())).reshape(-1, len(QUANTITIES))
        return ChannelCosts(num_units, factors, tuple(self._terms), amounts)

    def add(self, entry: Entry) -> None:
        """One call, after those whose results it takes."""
        for variable in entry.new:
            size = math.prod(variable.shape)
            num_bytes = size * item_bytes(variable)
            self._term(self._of_variable(variable), parameters=size, bytes=num_bytes, memory=num_bytes)
        if entry.call is None:
            return
        self._follow(entry)
        self._operations(entry)
        self._traffic(entry)

    def _operations(self, entry: Entry) -> None:
        call, work = entry.call, entry.work
        assert call is not None
        assert work is not None
        for term in work.macs:
            self._term(self._of_term(term, call), macs=call.times * term.amount, flops=2 * call.times * term.amount)
        for term in work.flops:
            self._term(self._of_term(term, call), flops=call.times * term.amount)

    def _traffic(self, entry: Entry) -> None:
        call, work = entry.call, entry.work
        assert call is not None
        assert work is not None
        if work.rows is not None:
            read = call.times * work.rows * item_bytes(entry.weights[0])
            self._term(self._of_tensor(call.outputs[0]), bandwidth=read)
        else:
            for variable in entry.weights:
                num_bytes = math.prod(variable.shape) * item_bytes(variable)
                self._term(self._of_variable(variable), bandwidth=num_bytes)
        if not work.copies:
            return
        for tensor in call.inputs:
            self._term(self._of_tensor(tensor), bandwidth=call.times * tensor.num_bytes)
        for tensor in call.outputs:
            size, num_bytes = call.times * tensor.size, call.times * tensor.num_bytes
            self._term(self._of_tensor(tensor), activations=size, memory=num_bytes, bandwidth=num_bytes)

    def _follow(self, entry: Entry) -> None:
        """Which units the results of a call have."""
        call, work = entry.call, entry.work
        assert call is not None
        assert work is not None
        if work.outputs:
            shares = _mixed((self._product(variable, axes), number) for variable, axes, number in work.outputs)
        else:
            sizes = [tensor.size for tensor in call.inputs]
            labels = [self._tensors.get(tensor.number, {}) for tensor in call.inputs]
            joined = len(sizes) > 1 and sum(sizes) == sum(tensor.size for tensor in call.outputs)
            largest = max(zip(labels, sizes, strict=True), key=lambda pair: (bool(pair[0]), pair[1]), default=({}, 0))
            shares = _mixed(zip(labels, sizes, strict=True)) if joined else largest[0]
        for tensor in call.outputs:
            self._tensors.setdefault(tensor.number, shares)

    def _product(self, variable: Any, axes: Iterable[int]) -> Shares:
        """Shares of the elements on several axes of a variable."""
        left: Shares = {}
        for axis in axes:
            for unit, share in self._axes.get((id(variable), axis % len(variable.shape)), {}).items():
                left[unit] = left.get(unit, 1.0) * (1.0 - share)
        return {unit: 1.0 - kept for unit, kept in left.items()}

    def _of_variable(self, variable: Any, axes: Iterable[int] | None = None) -> list[Shares]:
        rank = len(variable.shape)
        return [self._axes.get((id(variable), axis % rank), {}) for axis in (range(rank) if axes is None else axes)]

    def _of_tensor(self, tensor: Tensor) -> list[Shares]:
        return [self._tensors.get(tensor.number, {})]

    def _of_term(self, term: Term, call: Any) -> list[Shares]:
        if term.variable is None:
            return self._of_tensor(call.outputs[0])
        return self._of_variable(term.variable, term.axes)

    def _term(self, shares: list[Shares], **amounts: int) -> None:
        """Adds amounts that are multiplied by the fraction kept of each."""
        keys = [tuple(sorted(found.items())) for found in shares if found]
        term = tuple(sorted(self._factors.setdefault(key, len(self._factors)) for key in keys))
        vector = self._terms.setdefault(term, np.zeros(len(QUANTITIES)))
        for name, amount in amounts.items():
            vector[QUANTITIES.index(name)] += amount


def _shares(units: np.ndarray) -> Shares:
    """Units of an axis -> the fraction of it that each has."""
    found, counts = np.unique(np.asarray(units), return_counts=True)
    return {int(unit): int(count) / len(units) for unit, count in zip(found, counts, strict=True) if unit >= 0}


def _mixed(parts: Iterable[tuple[Shares, int]]) -> Shares:
    """Shares of tensors that lie one after another, with their sizes."""
    parts = list(parts)
    total = sum(size for _, size in parts)
    mixed: Shares = {}
    for shares, size in parts:
        for unit, share in shares.items():
            mixed[unit] = mixed.get(unit, 0.0) + share * size / total
    return mixed
