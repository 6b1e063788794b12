"""Removal of units that pruning has cut off: those without any input or without any output connection."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_prune.graph import Graph, make_graph
from keras_prune.masks import Layers, apply_masks, attach, check_model, mask_constraint, named, prunable
from keras_prune.wrappers import compile_as, wrappers

_layers = keras.layers
_CONVOLUTIONS = (_layers.Conv1D, _layers.Conv2D, _layers.Conv3D)
# Layers that compute each channel by itself, without weights, and give a constant for a constant.
_CHANNEL_BY_CHANNEL = (
    *(_layers.ReLU, _layers.LeakyReLU, _layers.ELU, _layers.Dropout, _layers.GaussianDropout, _layers.GaussianNoise),
    *(_layers.AlphaDropout, _layers.ActivityRegularization),
    *(_layers.MaxPooling1D, _layers.MaxPooling2D, _layers.MaxPooling3D),
    *(_layers.AveragePooling1D, _layers.AveragePooling2D, _layers.AveragePooling3D),
    *(_layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D, _layers.GlobalMaxPooling3D),
    *(_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D, _layers.GlobalAveragePooling3D),
)
_PADDING = (_layers.ZeroPadding1D, _layers.ZeroPadding2D, _layers.ZeroPadding3D)
_ELEMENTWISE_NAMES = (
    "linear relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid hard_sigmoid hard_silu hard_tanh softplus "
    "softsign exponential"
).split()
_ELEMENTWISE = [getattr(keras.activations, name) for name in _ELEMENTWISE_NAMES if hasattr(keras.activations, name)]


def remove_dead_units(model: Any, *, layers: Layers = None) -> Any:
    """Makes a smaller model without the units (neurons, filters) that have no input or no output connection.

    A unit without output connections is dropped. A unit without input connections gives a constant: what the layers
    behind it make of ``activation(bias)`` goes into the bias of the next layer,
    ``b_next += f(activation(bias)) * sum of the unit's weights there``. This goes on until no unit is left to remove:
    a unit without outputs takes the last output of others. Outputs are equal up to rounding.

    Units are removed from Dense, Conv1D, Conv2D and Conv3D layers whose output goes through activations, dropout,
    batch normalization, pooling or Flatten to one other such layer. A layer keeps one unit at least. A constant that
    is not zero stays where zero padding comes after it, as it is no constant at the borders.

    Args:
        model: a Keras 3 model, Sequential or functional, that has been built, with or without masks.
        layers: kernels whose units may be removed: names, regular expressions, or a function of the variable; None:
            all.

    Returns:
        A new model; masks are carried over. A compiled model is compiled with the same arguments and a new optimizer.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one.
        ValueError: units without inputs in layers of which it cannot be told where their output goes, by name; or
            layers in `Prune` wrappers.

    Example:
        >>> import keras, numpy as np
        >>> stack = [keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(1, name="out")]
        >>> model = keras.Sequential([keras.Input((2,)), *stack])
        >>> _ = stack[0].kernel.assign([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
        >>> _ = stack[0].bias.assign([0.0, 4.0, 0.0])
        >>> _ = stack[1].kernel.assign([[1.0], [0.5], [0.0]])
        >>> [weight.numpy().tolist() for weight in remove_dead_units(model).weights]
        [[[1.0], [1.0]], [0.0], [[1.0]], [2.0]]

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.5
    (https://arxiv.org/abs/1506.02626).
    """
    check_model(model)
    graph = make_graph(model)
    if graph is None:
        raise TypeError(
            f"remove_dead_units: expected a Sequential or functional model, got {type(model).__name__}, of which only "
            "its code knows what follows a layer"
        )
    if wrappers(model):
        raise ValueError("remove_dead_units: expected plain layers, got Prune wrappers; call keras_prune.strip first")
    chosen = {id(variable) for variable in prunable(model, layers).values()}
    states = {name: _state(layer) for name, layer in graph.layers.items() if _is_unit_layer(layer)}
    starts = [name for name in states if id(graph.layers[name].kernel) in chosen and name not in graph.outputs]
    norms = {name: _norm(layer) for name, layer in graph.layers.items() if _is_norm(layer)}
    refused: dict[str, str] = {}
    chains = {name: _trace(graph, name, refused) for name in starts}
    # Backwards: a unit that goes leaves those before it without outputs. Then again, for constants that moved on.
    while any([_shrink(states, norms, chain) for chain in reversed(list(chains.values())) if chain]):  # noqa: C419
        pass
    stuck = [name for name, chain in chains.items() if chain is None and states[name].without_inputs().any()]
    if stuck:
        raise ValueError(
            "remove_dead_units: expected to know where the output of units without inputs goes, got "
            + "; ".join(f"{name!r} (followed by {refused[name]})" for name in stuck)
            + "; give layers=... without these to remove the others"
        )
    return _rebuild(model, states, norms)


@dataclasses.dataclass
class _Units:
    """The arrays of a Dense or convolution layer: kernel (..., inputs, units), bias (units,), masks of their shapes."""

    kernel: np.ndarray
    bias: np.ndarray | None
    mask: np.ndarray | None
    bias_mask: np.ndarray | None

    @property
    def count(self) -> int:
        return self.kernel.shape[-1]

    def without_inputs(self) -> np.ndarray:
        """(units,) bool."""
        return np.logical_not(np.any(self.kernel.reshape(-1, self.count), axis=0))

    def take_units(self, keep: np.ndarray) -> None:
        self.kernel = self.kernel[..., keep]
        self.bias = None if self.bias is None else self.bias[keep]
        self.mask = None if self.mask is None else self.mask[..., keep]
        self.bias_mask = None if self.bias_mask is None else self.bias_mask[keep]

    def by_input(self, count: int) -> np.ndarray:
        """(places, inputs, units): places are a convolution's, or those that Flatten put side by side."""
        return self.kernel.reshape(-1, count, self.count)

    def take_inputs(self, keep: np.ndarray) -> None:
        """Keeps some input channels, in each place."""

        def take(array: np.ndarray) -> np.ndarray:
            width = array.shape[-2] // len(keep)
            kept = array.reshape(*array.shape[:-2], width, len(keep), array.shape[-1])[..., keep, :]
            return kept.reshape(*array.shape[:-2], -1, array.shape[-1])

        self.kernel = take(self.kernel)
        self.mask = None if self.mask is None else take(self.mask)

    def add_constant(self, constant: np.ndarray) -> None:
        """Adds to the bias what constant input channels (inputs,) contribute; not zero ones need a bias."""
        added = np.einsum("pcu,c->u", self.by_input(len(constant)).astype(np.float64), constant)
        if self.bias is not None or added.any():
            bias = np.zeros(self.count) if self.bias is None else self.bias
            self.bias = (bias + added).astype(self.kernel.dtype)


@dataclasses.dataclass
class _Chain:
    """The way from a layer to the next one with units."""

    first: str
    activation: Any
    between: list[tuple[str, Any]]  # names and layers
    last: str
    padded: bool  # whether zeros come to the borders on the way


def _is_unit_layer(layer: Any) -> bool:
    if type(layer) in _CONVOLUTIONS:  # a subclass may compute something else
        return layer.groups == 1 and layer.data_format == "channels_last" and layer.built
    return type(layer) is _layers.Dense and layer.built


def _is_norm(layer: Any) -> bool:
    return isinstance(layer, _layers.BatchNormalization) and layer.axis in (-1, len(layer.input.shape) - 1)


def _state(layer: Any) -> _Units:
    mask = _mask(layer.kernel)
    kernel = layer.kernel.numpy()
    if layer.bias is None:
        bias = bias_mask = None
    else:
        bias, bias_mask = layer.bias.numpy(), _mask(layer.bias)
    return _Units(kernel if mask is None else np.where(mask, kernel, 0), bias, mask, bias_mask)


def _mask(variable: Any) -> np.ndarray | None:
    constraint = mask_constraint(variable)
    return None if constraint is None else constraint.mask.numpy()


_MASK = " mask"  # after a weight's name


def _norm(layer: Any) -> dict[str, np.ndarray]:
    """The arrays of batch normalization, in the order of its weights, then the masks of those that have one."""
    arrays = {weight.name: weight.numpy() for weight in layer.weights}
    masks = {f"{weight.name}{_MASK}": _mask(weight) for weight in layer.weights}
    return arrays | {name: mask for name, mask in masks.items() if mask is not None}


def _trace(graph: Graph, first: str, refused: dict[str, str]) -> _Chain | None:
    """Follows a layer's output; None if it cannot, with the reason in `refused`."""
    layer = graph.layers[first]
    chain = _Chain(first, layer.activation, [], "", False)
    if layer.activation not in _ELEMENTWISE:
        refused[first] = f"activation {getattr(layer.activation, '__name__', layer.activation)!r}"
        return None
    name, flat = graph.next(first), False
    while name is not None:
        layer = graph.layers[name]
        if _is_unit_layer(layer):
            chain.last = name
            chain.padded |= isinstance(layer, _CONVOLUTIONS) and layer.padding != "valid" and _is_wide(layer)
            return chain
        if not _passes(layer) or (flat and isinstance(layer, _layers.BatchNormalization)):
            refused[first] = f"{name!r}, {type(layer).__name__}"
            return None
        flat |= isinstance(layer, _layers.Flatten)
        chain.padded |= isinstance(layer, _PADDING)
        chain.between.append((name, layer))
        name = graph.next(name)
    followers = graph.consumers(chain.between[-1][0] if chain.between else first)
    refused[first] = f"{', '.join(map(repr, followers)) or 'the output'}, which is not one layer with this input alone"
    return None


def _is_wide(layer: Any) -> bool:
    return any(size > 1 for size in layer.kernel_size)


def _passes(layer: Any) -> bool:
    """Whether a layer computes each channel by itself, channels on the last axis."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return False
    if isinstance(layer, _layers.Activation):
        return layer.activation in _ELEMENTWISE
    return _is_norm(layer) or isinstance(layer, (*_CHANNEL_BY_CHANNEL, *_PADDING, _layers.Flatten))


def _shrink(states: dict[str, _Units], norms: dict[str, dict[str, np.ndarray]], chain: _Chain) -> bool:
    """Removes dead units of the chain's first layer; returns whether there were any."""
    units, last = states[chain.first], states[chain.last]
    constant = _constant(units, norms, chain)
    without_outputs: np.ndarray = np.logical_not(np.any(last.by_input(units.count), axis=(0, 2)))
    foldable = units.without_inputs() & ((constant == 0) | (not chain.padded)) & np.isfinite(constant)
    removed = without_outputs | foldable
    if not removed.any() or (units.count == 1 and without_outputs[0]):
        return False
    last.add_constant(np.where(removed & ~without_outputs, constant, 0.0))
    if removed.all():  # a layer of no units cannot be made: one stays, without outputs
        removed[0] = False
        last.kernel = np.zeros_like(last.kernel)
    units.take_units(~removed)
    for name, _ in chain.between:
        if name in norms:
            norms[name] = {key: value[~removed] for key, value in norms[name].items()}
    last.take_inputs(~removed)
    return True


def _constant(units: _Units, norms: dict[str, dict[str, np.ndarray]], chain: _Chain) -> np.ndarray:
    """What reaches the next layer of each unit if it has no inputs, (units,) float64."""
    start = np.zeros(units.count, np.float32) if units.bias is None else units.bias.astype(np.float32)
    value = keras.ops.convert_to_numpy(chain.activation(keras.ops.convert_to_tensor(start))).astype(np.float64)
    for name, layer in chain.between:
        if name in norms:
            arrays = norms[name]
            value = (value - arrays["moving_mean"]) / np.sqrt(arrays["moving_variance"] + layer.epsilon)
            value = value * arrays.get("gamma", 1.0) + arrays.get("beta", 0.0)
        elif isinstance(layer, (_layers.Activation, _layers.ReLU, _layers.LeakyReLU, _layers.ELU)):
            value = keras.ops.convert_to_numpy(layer(value.astype(np.float32)[np.newaxis])[0]).astype(np.float64)
    return value


def _rebuild(model: Any, states: dict[str, _Units], norms: dict[str, dict[str, np.ndarray]]) -> Any:
    """The model with layers of the new sizes, with their weights and masks."""
    pairs = []

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        units = states.get(layer.name)
        if units is not None:
            config["units" if "units" in config else "filters"] = units.count
            config["use_bias"] = units.bias is not None
        new = type(layer).from_config(config)
        if isinstance(layer, keras.Layer):  # not an operation such as x + y
            pairs.append((layer, new))
        return new

    copy = keras.models.clone_model(model, clone_function=clone)
    if not copy.built:
        copy.build(model.input_shape)
    masks: dict[int, np.ndarray] = {}
    for old, new in pairs:
        units, norm = states.get(old.name), norms.get(old.name)
        if units is not None:
            values = [units.kernel] if units.bias is None else [units.kernel, units.bias]
            if units.mask is not None:
                masks[id(new.kernel)] = units.mask
            if units.bias_mask is not None:
                masks[id(new.bias)] = units.bias_mask
        elif norm is not None:
            values = [norm[weight.name] for weight in new.weights]
            masks.update({id(w): norm[w.name + _MASK] for w in new.weights if w.name + _MASK in norm})
        else:
            values = old.get_weights()
            found = zip(old.weights, new.weights, strict=True)
            masks.update({id(b): mask for a, b in found if (mask := _mask(a)) is not None})
        new.set_weights(values)
    masked = {path: variable for path, variable in named(copy, copy.weights).items() if id(variable) in masks}
    attach(masked)
    for variable in masked.values():
        variable.constraint.mask.assign(masks[id(variable)])
    apply_masks(masked)
    compile_as(model, copy)
    return copy
