"""Removal of pruned channels: a smaller, plain model."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune.gradients import optimizers_of, slots
from keras_prune.graph import Dependencies, dependencies
from keras_prune.graph.calls import as_functional, long_chains
from keras_prune.graph.shared import check_shared, held
from keras_prune.graph.trace import Fold
from keras_prune.layer_axes import layers_within
from keras_prune.masks import apply_masks, check_model, named
from keras_prune.surgery import strip
from keras_prune.wrappers import compile_as, wrappers


def shrink(model: Any, *, round_to: int = 1, minimum: int = 1, exact: bool = True, history: Any = None) -> Any:
    """Makes a smaller model without the channels that are exactly zero, with the same outputs up to rounding.

    A channel is removed where all that makes it is zero, in all layers that a sum or another operator ties together:
    after ``PruneCallback(pattern=Channel())`` or ``prune(model, 0.4, pattern=Channel())``, or whatever made it zero.
    Where a removed channel was a constant (a sigmoid of zero) the next bias takes what it contributed.

    Args:
        model: a Keras 3 model, Sequential or functional, that is built.
        round_to: the number of channels that a layer keeps is a multiple of this; zero channels fill it up.
        minimum: channels that each layer keeps at least.
        exact: as in `keras_prune.dependencies`; False, if the channels were pruned so.
        history: a `ShrinkHistory`, which remembers what is removed.

    Returns:
        A new plain model without masks: same inputs, outputs and names, with the weights; compiled as the model was,
        with the optimizer's state, but for what it keeps of sums over channels (Adafactor). It is of Keras's own
        class: a `train_step` of a subclass of `keras.Model` is not in it.

    Raises:
        TypeError: not a Keras 3 model, or a history that is none.
        ValueError: a model that is not built, a subclassed one, of which only the code knows what follows what, or a
            layer with weights that several models in the model share, which Keras cannot build anew.
        RecursionError: more layers in a row than Keras can connect.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10), keras.layers.Dense(2)])
        >>> keras_prune.shrink(keras_prune.prune(model, 0.4, pattern=keras_prune.Channel())).count_params()
        44
    """
    check_model(model)
    if history is not None and not hasattr(history, "add"):
        raise TypeError(
            f"history: expected a keras_prune.ShrinkHistory, got {history!r:.100}; make one, and save it behind shrink"
        )
    plain = strip(model) if wrappers(model) else model
    apply_masks(named(plain, plain.variables))
    found = dependencies(plain, round_to=round_to, minimum=minimum, exact=exact)
    removed = ~found.keep(found.zero_units())
    if not removed.any():
        logging.warning("shrink: no channel that may go is zero in %r; prune with pattern=Channel() first.", model.name)
    small = remove_units(found, removed)
    if history is not None:
        history.add(found, removed)
    return small


def remove_units(found: Dependencies, removed: np.ndarray) -> Any:
    """Makes the model without some units, whatever their weights are.

    Args:
        found: the model's dependencies.
        removed: (num_units,) bool.

    Returns:
        A new plain model, as `shrink` returns it.
    """
    kept = ~np.asarray(removed, bool)
    new = _rebuild(found, kept)
    indices = _indices(found, kept)
    folded = {id(fold.bias): fold for fold in found.trace.folds.values()}
    for old, variable in zip(found.model.variables, new.variables, strict=True):
        values = np.asarray(old)
        if id(old) in folded:
            values = values + _contribution(folded[id(old)], found, kept).astype(values.dtype)
        variable.assign(_taken(values, indices.get(id(old), {})))
    with keras.saving.custom_object_scope(_own_objects(found.model)):
        compile_as(found.model, new)
    _carry_optimizers(found.model, new, indices)
    return new


def _indices(found: Dependencies, kept: np.ndarray) -> dict[int, dict[int, np.ndarray]]:
    """``id(variable)`` -> axis -> bool array of the indices that stay."""
    result: dict[int, dict[int, np.ndarray]] = {}
    for part in found.parts:
        result.setdefault(id(part.variable), {})[part.axis] = np.append(kept, True)[part.units]
    return result


def _taken(values: np.ndarray, axes: Mapping[int, np.ndarray]) -> np.ndarray:
    """The array with only the indices that stay, on each axis."""
    for axis, keep in axes.items():
        values = np.compress(keep, values, axis)
    return values


def _contribution(fold: Fold, found: Dependencies, kept: np.ndarray) -> np.ndarray:
    """What the constants of removed channels add to the bias, (outputs,)."""
    constant = np.where(found.kept_ids(kept)(fold.ids), 0.0, fold.values)
    kernel = np.moveaxis(np.asarray(fold.kernel, np.float64), fold.axis, 0)
    return np.tensordot(constant, kernel, 1).reshape(-1, kernel.shape[-1]).sum(axis=0)


def _rebuild(found: Dependencies, kept: np.ndarray) -> Any:
    """A model of the new sizes, with fresh weights."""
    model = found.model
    check_shared(model)
    source = model if _is_of_keras(model) else as_functional(model)
    config = _config(source, found, found.kept_ids(kept))
    config["name"] = model.name
    with keras.saving.custom_object_scope(_own_objects(model)), long_chains(model):
        if not isinstance(source, keras.Sequential):
            return type(source).from_config(config)
        # Its from_config connects all layers anew with each that it adds: of 900 layers in a square of the time.
        return keras.Sequential(
            [keras.saving.deserialize_keras_object(one) for one in config["layers"]], name=model.name
        )


def _own_objects(model: Any) -> dict[str, Any]:
    """Name -> class or function of the user's own, as configurations name them.

    Raises:
        ValueError: two have the same name.
    """
    found: dict[str, Any] = {_function_name(one): one.function for one in _lambdas(model)}
    holders = [*layers_within(model), *optimizers_of(model)]
    for one in [*holders, *(value for holder in holders for value in _attributes(holder))]:
        thing = one if isinstance(one, types.FunctionType) else type(one)
        if _is_of_keras(one) or (thing is not one and not hasattr(one, "get_config")):
            continue
        if found.setdefault(thing.__name__, thing) is not thing:
            raise ValueError(
                f"shrink: expected classes and functions of different names, got two with the name {thing.__name__!r}; "
                "give them different ones"
            )
    return found


def _attributes(holder: Any) -> list[Any]:
    """What an object holds, but for what stands in for its methods: in training, layers gather there."""
    return [value for name, value in vars(holder).items() if not callable(getattr(type(holder), name, None))]


def _lambdas(model: Any) -> list[Any]:
    return [layer for layer in layers_within(model) if isinstance(layer, keras.layers.Lambda)]


def _function_name(layer: Any) -> str:
    """By what the configuration names a Lambda's function, which cannot be written down."""
    return f"function of {layer.name} {id(layer)}"


def _is_of_keras(layer: Any) -> bool:
    """Whether a layer or model is of Keras' own class: others may take arguments that a configuration does not tell."""
    return (layer if isinstance(layer, types.FunctionType) else type(layer)).__module__.startswith("keras.")


def _config(layer: Any, found: Dependencies, kept: Any) -> dict[str, Any]:
    """The configuration of a layer or model with the new sizes, and of all layers in it."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.Lambda):
        name = _function_name(layer)
        config["function"] = {"class_name": "function", "config": name, "registered_name": name}
    _forget_arrays(config)
    for (owner, _), change in found.trace.config_edits.items():
        if owner == id(layer):
            change(config, kept)
    if isinstance(layer, keras.Model) and "layers" in config:
        _keep_single(config, layer)
        inner = {one.name: one for one in as_functional(layer).operations}
        if layer is not found.model:
            config.pop("build_input_shape", None)  # a Sequential model is built when it is called
        for entry in config["layers"]:
            # Keras 3.4 names an operator beside its configuration only, and a Sequential model's layers in it only.
            one = inner.get(entry.get("name") or entry["config"]["name"])
            if one is None:
                continue
            entry["config"] = _config(one, found, kept)
            entry.pop("build_config", None)  # shapes of before
            for number, node in enumerate(entry.get("inbound_nodes", [])):
                edit = found.trace.call_edits.get((id(one), number))
                if edit is not None:
                    node["args"] = list(node["args"])
                    edit(node["args"], node["kwargs"], kept)
    for key, one in held(layer).items():
        if isinstance(config.get(key), dict):
            config[key]["config"] = _config(one, found, kept)
            config[key].pop("build_config", None)
    return config


def _forget_arrays(config: dict[str, Any]) -> None:
    """Weights that begin as a given array (word vectors) begin as zeros: the array has the sizes of before."""
    for key, value in config.items():
        held_value = value["config"].get("value") if _is_initializer(key, value) else None
        if isinstance(held_value, dict | list | tuple):
            config[key] = keras.saving.serialize_keras_object(keras.initializers.Zeros())


def _is_initializer(key: str, value: Any) -> bool:
    return key.endswith("_initializer") and isinstance(value, dict) and isinstance(value.get("config"), dict)


def _keep_single(config: dict[str, Any], model: Any) -> None:
    """Keras 3.4 writes one input or output as a list of one, and makes a model of lists from it."""
    for key, name in (("input_layers", "input"), ("output_layers", "output")):
        if len(config.get(key, ())) == 1 and not isinstance(getattr(model, name), list | tuple | dict):
            (config[key],) = config[key]


def _carry_optimizers(old: Any, new: Any, indices: Mapping[int, Mapping[int, np.ndarray]]) -> None:
    """The new optimizers go on with what the old ones remember of the weights that stay."""
    for before, after in zip(optimizers_of(old), optimizers_of(new), strict=False):
        if not before.built:
            continue
        after.build(new.trainable_variables)
        owned = slots(before, old.variables)  # also of those frozen since the optimizer was built
        owners = {id(slot): owner for owner, found in owned.items() for slot in found}
        left = [slot for slot in before.variables if owners.get(id(slot), 0) not in _frozen(old)]
        carried = next((found for found in (before.variables, left) if len(found) == len(after.variables)), None)
        if carried is None:  # built when other weights were trained: what it remembers cannot be told apart
            after.iterations.assign(before.iterations)
            continue
        for slot, fresh in zip(carried, after.variables, strict=True):
            values = _taken(np.asarray(slot), indices.get(owners.get(id(slot), 0), {}))
            if values.shape == tuple(fresh.shape):  # else of sums over channels (Adafactor), which begin anew
                fresh.assign(values)


def _frozen(model: Any) -> set[int]:
    return {id(variable) for variable in model.non_trainable_variables}
