"""Dropout that fits the smaller capacity of a pruned model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_prune.graph import Graph, make_graph
from keras_prune.masks import check_model, is_kernel, mask_constraint, reset_train_function

# The rate that a dropout layer had while its model was dense; kept on the layer, so that a second call starts there.
_ATTRIBUTE = "keras_prune_dense_rate"


def rescale_dropout(model: Any, rates: Mapping[str, float] | None = None) -> dict[str, float]:
    """Lowers the rates of dropout layers with the connections of the layer before them.

    ``rate = rate_dense * sqrt(C_r / C_o)``, where C_o counts the connections (weights of the kernels) of the nearest
    layers with kernels before the dropout, and C_r those that are kept. Calling it again, after more pruning or not,
    starts from the dense rates. These are remembered as long as the layers live, but are not saved with the model:
    after loading one, give them as ``rates``.

    Args:
        model: a Keras 3 model, Sequential or functional, that has been built. Models in it are included.
        rates: names of dropout layers -> their rates in the dense model, in [0, 1); for others their first rate
            counts.

    Returns:
        Names of the dropout layers -> their new rates. A dropout without a kernel before it keeps its rate.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one.
        ValueError: a name that is not a dropout layer of the model, or a rate out of range.

    Example:
        >>> import keras, keras_prune
        >>> layers = [keras.layers.Dense(10), keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(1)]
        >>> model = keras_prune.prune(keras.Sequential([keras.Input((10,)), *layers]), 0.75)
        >>> rescale_dropout(model)
        {'drop': 0.25}

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.2, equation 2
    (https://arxiv.org/abs/1506.02626).
    """
    check_model(model)
    given = dict(rates or {})
    result = _rescale(model, given)
    if given:
        raise ValueError(f"rates: expected names of dropout layers: {list(result)}; got {list(given)}")
    reset_train_function(model)
    return result


@dataclasses.dataclass(frozen=True)
class _Place:
    """A layer in its model, and where that model is in another."""

    graph: Graph
    name: str
    outer: _Place | None

    @property
    def layer(self) -> Any:
        return self.graph.layers[self.name]

    def before(self) -> list[_Place]:
        """What feeds the layer; for one that takes its model's input what feeds that."""
        names = sorted({name for call in self.graph.inputs[self.name] for name in call})
        if not names and self.outer is not None:
            return self.outer.before()
        return [_Place(self.graph, name, self.outer) for name in names]

    def ends(self) -> list[_Place]:
        """The layers whose outputs the layer gives: of a model those in it, else itself."""
        graph = make_graph(self.layer) if isinstance(self.layer, keras.Model) else None
        if graph is None:
            return [self]
        return [end for name in sorted(graph.outputs) for end in _Place(graph, name, self).ends()]


def _rescale(model: Any, given: dict[str, float], outer: _Place | None = None) -> dict[str, float]:
    """Rescales one model and those in it; takes what it used out of `given`."""
    graph = make_graph(model)
    if graph is None:
        raise TypeError(
            f"rescale_dropout: expected a Sequential or functional model, got {type(model).__name__}, of which only "
            "its code knows which layer comes before a dropout; set layer.rate there"
        )
    result = {}
    for name, layer in graph.layers.items():
        place = _Place(graph, name, outer)
        if isinstance(layer, keras.Model):
            result.update(_rescale(layer, given, place))
        elif hasattr(layer, "rate") and isinstance(layer, _DROPOUT):
            dense_rate = given.pop(name, None)
            dense_rate = getattr(layer, _ATTRIBUTE, layer.rate) if dense_rate is None else dense_rate
            if not 0.0 <= dense_rate < 1.0:
                raise ValueError(f"rates[{name!r}]: expected a rate in [0, 1), got {dense_rate!r}")
            setattr(layer, _ATTRIBUTE, dense_rate)
            kept, total = _connections(place)
            layer.rate = result[name] = dense_rate * math.sqrt(kept / total) if total else dense_rate
    return result


# SpatialDropout layers are Dropout layers.
_DROPOUT = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)


def _connections(place: _Place) -> tuple[int, int]:
    """How many weights are kept, of how many, in the nearest layers with kernels before a layer."""
    kept = total = 0
    open_places = place.before()
    seen: set[int] = set()
    while open_places:
        for end in open_places.pop().ends():
            if id(end.layer) in seen:
                continue
            seen.add(id(end.layer))
            kernels = [v for v in getattr(end.layer, "weights", ()) if _counts(v)]
            for kernel in kernels:
                constraint = mask_constraint(kernel)
                kept += int(np.count_nonzero((kernel if constraint is None else constraint.mask).numpy()))
                total += math.prod(kernel.shape)
            if not kernels:
                open_places += end.before()
    return kept, total


def _counts(variable: Any) -> bool:
    return is_kernel(variable) and keras.backend.is_float_dtype(variable.dtype)
