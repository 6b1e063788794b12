"""Layers that several models or wrappers within a model hold: Keras cannot build such a model anew."""

from __future__ import annotations

from typing import Any

import keras


def check_shared(model: Any) -> None:
    """Raises ValueError for a layer with weights that stands in two models or wrappers of the model."""
    first: dict[int, Any] = {}  # id(layer) -> what it was found in first
    holders = [model]
    for holder in holders:  # grows while it is read
        for layer in [*held(holder).values(), *getattr(holder, "layers", ())]:
            if id(layer) not in first:
                first[id(layer)] = holder
                holders.append(layer)
            elif layer.variables:
                raise ValueError(
                    f"model: expected each layer with weights in one model alone, got {layer.name!r} in "
                    f"{first[id(layer)].name!r} and in {holder.name!r}, of which Keras makes two layers when it builds "
                    "a model anew, as to remove channels, saves or clones it; call the layer in one functional model "
                    "only, without the models or wrappers around it"
                )


def held(layer: Any) -> dict[str, Any]:
    """Entries of a wrapper's configuration -> the layers in them."""
    if isinstance(layer, keras.layers.Bidirectional):
        return {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    return {"layer": layer.layer} if isinstance(layer, keras.layers.Wrapper) else {}
