"""Layers that rest while others retrain: no gradients are computed for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from keras_prune.allocation import matches
from keras_prune.graph import unwrapped
from keras_prune.layer_axes import layers_within
from keras_prune.masks import check_model, reset_train_function
from keras_prune.rewinding import leaf_layers

_layers = keras.layers
KINDS: dict[str, tuple[type, ...]] = {
    "convolutions": (
        *(_layers.Conv1D, _layers.Conv2D, _layers.Conv3D),
        *(_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose),
        *(_layers.SeparableConv1D, _layers.SeparableConv2D, _layers.DepthwiseConv1D, _layers.DepthwiseConv2D),
        *(_layers.ConvLSTM1D, _layers.ConvLSTM2D, _layers.ConvLSTM3D),
    ),
    "dense": (_layers.Dense, _layers.EinsumDense),
}

# Kinds ("convolutions", "dense"), names or regular expressions of layers, or a function of the layer.
Which = str | Sequence[str] | Callable[[Any], bool]


@contextlib.contextmanager
def frozen(model: Any, layers: Which) -> Iterator[Any]:
    """Freezes layers inside of a ``with`` block: they are not trained, and nothing is back-propagated for them only.

    The training step is compiled anew at the beginning and at the end. Masks of frozen layers stay as they are.

    Args:
        model: a Keras 3 model that has been built.
        layers: ``"convolutions"``, ``"dense"``, layers' names or regular expressions, several of these, or a function
            of the layer. ``"dense"`` are Dense and EinsumDense layers, also in `Prune`, TimeDistributed or
            Bidirectional.

    Yields:
        The model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: no layer is meant, none would be left to train, or the optimizer averages weights
            (``use_ema=True``), which Keras cannot do for a part of them.

    Example:
        >>> import keras
        >>> layers = [keras.layers.Conv1D(2, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
        >>> model = keras.Sequential([keras.Input((8, 1)), *layers])
        >>> with frozen(model, "convolutions"):
        ...     print([weight.path.split("/")[-2] for weight in model.trainable_weights])
        ['dense', 'dense']

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.2
    (https://arxiv.org/abs/1506.02626): fully connected layers are fixed while convolutions retrain, and the reverse.
    """
    before = _freeze(model, layers)
    try:
        yield model
    finally:
        _thaw(model, before)


class FreezeCallback(keras.callbacks.Callback):
    """Freezes layers from one epoch of ``fit`` to another, as `frozen` does.

    A `PruneCallback` in the same ``fit`` goes on changing the masks of layers that are frozen during it.

    Args:
        layers: as for `frozen`.
        begin_epoch: the first epoch in which they are frozen.
        end_epoch: the first epoch in which they are trained again; None: the end of this ``fit``.

    Raises:
        ValueError: an end that is not after the beginning, and what `frozen` raises.

    Example:
        >>> FreezeCallback("convolutions", begin_epoch=2).begin_epoch
        2
    """

    def __init__(self, layers: Which, begin_epoch: int = 0, *, end_epoch: int | None = None) -> None:
        super().__init__()
        if begin_epoch < 0 or (end_epoch is not None and end_epoch <= begin_epoch):
            raise ValueError(
                f"FreezeCallback: expected 0 <= begin_epoch < end_epoch, got begin_epoch={begin_epoch}, "
                f"end_epoch={end_epoch}"
            )
        self.layers = layers
        self.begin_epoch = begin_epoch
        self.end_epoch = end_epoch
        self._before: _Trainable | None = None  # while they are frozen

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Freezes and thaws."""
        inside = self.begin_epoch <= epoch and (self.end_epoch is None or epoch < self.end_epoch)
        if inside and self._before is None:
            self._before = _freeze(self.model, self.layers)
            self.model.make_train_function(force=True)
        elif not inside and self._before is not None:
            self._end()
            self.model.make_train_function(force=True)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Thaws what is still frozen."""
        if self._before is not None:
            self._end()

    def _end(self) -> None:
        if self._before is not None:
            _thaw(self.model, self._before)
        self._before = None


# Layers and variables, each with whether it was trainable; layers before those in them.
_Trainable = list[tuple[Any, bool]]


def _freeze(model: Any, which: Which) -> _Trainable:
    """Freezes the layers that are meant; returns how those were that are frozen now and were not before."""
    check_model(model)
    if not model.weights:
        raise ValueError("frozen: expected a model that has weights, got one not built yet; call it on a batch of data")
    meant = [layer for layer in leaf_layers(model) if _is_meant(layer, which)]
    if not meant:
        names = ", ".join(layer.name for layer in leaf_layers(model))
        raise ValueError(
            f"frozen: expected {', '.join(map(repr, KINDS))}, or names of layers, got {which!r}, which means no layer; "
            f"this model has: {names}"
        )
    _build_optimizer(model)
    chosen = [layer for layer in meant if layer.trainable]
    # Setting it on a layer sets it on all that is in it, also on what a user has frozen there.
    before = [(part, part.trainable) for layer in chosen for part in (*layers_within(layer), *layer.variables)]
    for layer in chosen:
        layer.trainable = False
    if not model.trainable_variables:
        _thaw(model, before)
        raise ValueError(f"frozen: expected some layers left to train, got all of them by {which!r}; freeze fewer")
    reset_train_function(model)
    return before


def _thaw(model: Any, before: _Trainable) -> None:
    for part, trainable in before:
        part.trainable = trainable
    reset_train_function(model)


def _is_meant(layer: Any, which: Which) -> bool:
    if not isinstance(which, (str, Sequence)):
        return bool(which(layer))
    for key in [which] if isinstance(which, str) else which:
        if key in KINDS:
            if isinstance(_innermost(layer), KINDS[key]):
                return True
        elif matches(key, layer.name) or matches(key, unwrapped(layer).name):
            return True
    return False


def _innermost(layer: Any) -> Any:
    """The layer inside of wrappers."""
    while isinstance(layer, keras.layers.Wrapper):
        layer = layer.layer
    return layer


def _build_optimizer(model: Any) -> None:
    """Makes the optimizer know all variables before some are frozen: it takes no new ones later."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    if getattr(optimizer, "inner_optimizer", optimizer).use_ema:
        raise ValueError(
            "frozen: expected an optimizer without use_ema, got one that averages all weights, which Keras cannot do "
            "while some are frozen; compile with use_ema=False, or freeze before compiling"
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
