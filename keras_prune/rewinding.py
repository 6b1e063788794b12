"""What the weights that are kept begin retraining with: earlier values, fresh ones, or those they have."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune.masks import apply_masks, check_model, mask_constraint, named
from keras_prune.wrappers import without_masks


def rewind(model: Any, weights: Any) -> Any:
    """Gives the kept weights the values of an earlier checkpoint; masks stay, pruned weights stay zero.

    ``w <- where(mask, w_earlier, 0)`` for kernels, ``w <- w_earlier`` for all else. The optimizer is left as it is:
    compile again for a fresh one. (To keep the trained values instead, do nothing: they are kept.)

    Args:
        model: a Keras 3 model that has been built.
        weights: what ``model.get_weights()`` returned earlier, before or after masks were there; a dict of paths
            (`masks.named`) to arrays, for some of the weights; or the path of a file that ``model.load_weights``
            takes.

    Returns:
        The model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: arrays that do not fit the model's weights.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> early = model.get_weights()
        >>> _ = rewind(keras_prune.prune(model, 0.5), early)
        >>> int((model.get_weights()[0] == early[0]).sum())
        6

    Frankle et al. 2019, "Stabilizing the Lottery Ticket Hypothesis" (https://arxiv.org/abs/1903.01611).
    """
    check_model(model)
    variables = named(model, without_masks(model.weights))
    if isinstance(weights, (str, os.PathLike)):
        _load(model, os.fspath(weights))
    else:
        values = _by_path(model, variables, weights)
        for path, value in values.items():
            if np.shape(value) != tuple(variables[path].shape):
                raise ValueError(
                    f"rewind: expected {path} of shape {tuple(variables[path].shape)}, got {np.shape(value)}; "
                    "give weights of this model"
                )
        for path, value in values.items():  # all or none
            variables[path].assign(value)
    apply_masks(variables)
    return model


def reinitialize(model: Any, seed: int) -> Any:
    """Gives the kept weights fresh values of their layers' own initializers; masks stay, pruned weights stay zero.

    Biases, scales and statistics begin anew too, but not what preprocessing layers have adapted to. An initializer with
    a seed of its own gives what it gave before. The optimizer is left as it is: compile again for a fresh one.

    Args:
        model: a Keras 3 model that has been built.
        seed: the same seed gives the same values.

    Returns:
        The model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: a layer that its configuration does not make again.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> _ = reinitialize(keras_prune.prune(model, 0.5), seed=1)
        >>> int((model.get_weights()[0] != 0).sum())
        6

    Zhou et al. 2019, "Deconstructing Lottery Tickets" (https://arxiv.org/abs/1905.01067).
    """
    check_model(model)
    state = random.getstate()  # Keras draws the seeds of initializers from Python's generator
    random.seed(seed)
    try:
        for layer in leaf_layers(model):
            _assign_fresh(layer)
    finally:
        random.setstate(state)
    apply_masks(named(model, model.weights))
    return model


def leaf_layers(model: Any) -> Iterator[Any]:
    """The layers of a model and of the models in it, each once; layers inside of other layers belong to those."""
    seen: set[int] = set()

    def walk(layers: Sequence[Any]) -> Iterator[Any]:
        for layer in layers:
            if id(layer) not in seen:
                seen.add(id(layer))
                if isinstance(layer, keras.Model):
                    yield from walk(layer.layers)
                elif isinstance(layer, keras.Layer):
                    yield layer

    return walk(model.layers)


def _assign_fresh(layer: Any) -> None:
    weights = without_masks(layer.weights)
    if not weights or hasattr(layer, "adapt"):  # as Normalization has, which knows the data's mean
        return
    fresh = type(layer).from_config(layer.get_config())
    config = layer.get_build_config()
    if not fresh.built and config:
        fresh.build_from_config(config)
    values = without_masks(fresh.weights)
    if [tuple(v.shape) for v in values] != [tuple(v.shape) for v in weights]:
        raise ValueError(
            f"reinitialize: expected layer {layer.name!r} to be made again by its get_config and get_build_config, got "
            f"{len(values)} weights for {len(weights)} or other shapes; write these methods, or use rewind"
        )
    for variable, value in zip(weights, values, strict=True):
        variable.assign(value)


def _load(model: Any, path: str) -> None:
    """Loads a file; masks and the optimizer's state in it do not count, and need not fit."""
    masks = [c.mask for c in map(mask_constraint, model.weights) if c is not None]
    values = [mask.numpy() for mask in masks]
    optimizer, model.optimizer = getattr(model, "optimizer", None), None
    try:
        model.load_weights(path)
    finally:
        model.optimizer = optimizer
    for mask, value in zip(masks, values, strict=True):
        mask.assign(value)


def _by_path(model: Any, variables: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """Arrays by path, from a dict or from what get_weights returned."""
    if isinstance(weights, Mapping):
        unknown = sorted(set(weights) - set(variables))
        if unknown:
            raise ValueError(f"rewind: expected weights of the model: {', '.join(variables)}; got {unknown}")
        return dict(weights)
    values = list(weights)
    if len(values) == len(model.weights) != len(variables):
        kept = {id(variable) for variable in variables.values()}
        values = [value for value, v in zip(values, model.weights, strict=True) if id(v) in kept]
    if len(values) != len(variables):
        raise ValueError(
            f"rewind: expected {len(variables)} arrays, as model.get_weights() returns, got {len(values)}; "
            "give the weights of this model"
        )
    return dict(zip(variables, values, strict=True))
