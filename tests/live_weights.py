"""Which weights of a model do anything: the ones that are not zero and read something that is not always the same.

That is what a shrunk model should consist of, counted on the masked model as it runs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import layers

from keras_prune.layer_axes import layers_within

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


@dataclasses.dataclass(frozen=True)
class Live:
    """What of one kernel is at work.

    Attributes:
        name: of its layer.
        weights: how many weights are not zero and read an input that is not always the same.
        macs: multiplications with them for one example.
        size: all weights of the kernel.
    """

    name: str
    weights: int
    macs: int
    size: int


def live_weights(model: Any, x: Any) -> list[Live]:
    """The kernels of convolutions and Dense layers, in the order of the model's variables, as it runs on ``x``."""
    kinds = (*_TRANSPOSED, *_DEPTHWISE, *_CONVOLUTIONS, layers.Dense)
    found: dict[int, Live] = {}
    with _recorded([layer for layer in layers_within(model) if isinstance(layer, kinds)]) as seen:
        model(x, training=False)
    for layer, inputs, results in seen:
        alive = np.ptp(np.concatenate([values.reshape(-1, values.shape[-1]) for values in inputs]), axis=0) != 0
        used = (layer.kernel.numpy() != 0) & _readers(layer, alive)
        macs = int(used.sum()) * sum(_positions(layer, a, b) for a, b in zip(inputs, results, strict=True))
        found[id(layer.kernel)] = Live(layer.name, int(used.sum()), macs, used.size)
    return [found[id(variable)] for variable in model.variables if id(variable) in found]


@contextmanager
def _recorded(watched: list[Any]) -> Iterator[list[tuple[Any, list[np.ndarray], list[np.ndarray]]]]:
    """Inside it, each layer's inputs and outputs are noted at all of its calls."""
    seen: list[tuple[Any, list[np.ndarray], list[np.ndarray]]] = []
    for layer in watched:
        inputs: list[np.ndarray] = []
        results: list[np.ndarray] = []
        seen.append((layer, inputs, results))
        layer.call = _noting(layer.call, inputs, results)
    yield seen
    for layer in watched:
        del layer.call
    seen[:] = [entry for entry in seen if entry[1]]


def _noting(call: Any, inputs: list[np.ndarray], results: list[np.ndarray]) -> Any:
    def noting(x: Any, *args: Any, **options: Any) -> Any:
        result = call(x, *args, **options)
        inputs.append(np.asarray(x))
        results.append(np.asarray(result))
        return result

    return noting


def _readers(layer: Any, alive: np.ndarray) -> np.ndarray:
    """For each weight of a kernel, whether the input that it is multiplied with lives; broadcasts to its shape."""
    if isinstance(layer, _TRANSPOSED):  # (..., outputs, inputs)
        return alive
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, _DEPTHWISE) or groups == 1:
        return alive[:, np.newaxis]
    # Output o reads the inputs of its group, of which the kernel counts only its own.
    return alive.reshape(groups, -1).T.repeat(layer.kernel.shape[-1] // groups, axis=1)


def _positions(layer: Any, x: np.ndarray, y: np.ndarray) -> int:
    """How often one example uses each weight."""
    return math.prod((x if isinstance(layer, _TRANSPOSED) else y).shape[1:-1])
