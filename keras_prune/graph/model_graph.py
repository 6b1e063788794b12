"""Which layer feeds which: the graph of a Sequential or functional model, read from its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from keras_prune.layer_axes import layers_within, output_letters


@dataclasses.dataclass(frozen=True)
class Graph:
    """Layers of one model by name; nested models are layers of it.

    Attributes:
        layers: name -> layer, in the model's order.
        inputs: name -> for each time that the layer is called, the names of the layers that feed it.
        outputs: names of layers whose outputs are the model's.
    """

    layers: dict[str, Any]
    inputs: dict[str, list[list[str]]]
    outputs: frozenset[str]

    def consumers(self, name: str) -> list[str]:
        """Names of the layers that the output of a layer feeds, once for each call that takes it."""
        return [other for other, calls in self.inputs.items() for names in calls if name in names]

    def next(self, name: str) -> str | None:
        """The one layer that takes this layer's output and nothing else; None if there is none, or more."""
        followers = self.consumers(name)
        if name in self.outputs or len(followers) != 1 or len(self.inputs[name]) > 1:
            return None
        return followers[0] if self.inputs[followers[0]] == [[name]] else None


def make_graph(model: Any) -> Graph | None:
    """The graph of a Sequential or functional model; None for other models, whose layers only their code connects."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        inputs: dict[str, list[list[str]]] = {
            name: [[before]] if before else [[]] for name, before in zip(names, ["", *names], strict=False)
        }
        return Graph({layer.name: layer for layer in model.layers}, inputs, frozenset(names[-1:]))
    if not hasattr(model, "operations"):  # which functional models have
        return None
    try:
        config = model.get_config()
    except NotImplementedError:  # a layer of the user's own that cannot be saved
        return None
    layers = {operation.name: operation for operation in model.operations}
    inputs = {
        layer["name"]: [list(_producers(node)) for node in layer["inbound_nodes"]] for layer in config.get("layers", [])
    }
    if inputs.keys() != layers.keys():  # a subclass with a configuration of its own
        return None
    return Graph(layers, inputs, frozenset(_histories(config["output_layers"])))


def _producers(node: Any) -> Iterator[str]:
    """Names of the layers whose tensors are among the arguments of a call."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
        else:
            for value in node.values():
                yield from _producers(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _producers(value)


def _histories(outputs: Any) -> Iterator[str]:
    """Names in a nested structure of [name, call, tensor]."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if outputs and isinstance(outputs[0], str):
        yield outputs[0]
    else:
        for value in outputs:
            yield from _histories(value)


def unwrapped(layer: Any) -> Any:
    """The layer inside `Prune`, or the layer itself."""
    return layer.layer if type(layer).__name__ == "Prune" and isinstance(layer, keras.layers.Wrapper) else layer


def channel_followers(model: Any, variable: Any) -> list[Any]:
    """The variables with one value for each output channel of a kernel: they are zero where the channel is pruned.

    These are the bias of the kernel's layer (also inside of others, as in attention) and, where batch normalization
    takes the layer's output directly, its gamma and beta: then a pruned channel is zero behind the normalization too.

    Args:
        model: a Keras 3 model that has been built. In models that are neither Sequential nor functional only the bias
            is found, as their code alone knows what follows.
        variable: a kernel of one of its layers.

    Returns:
        The variables, each of shape (channels,) in the kernel's order of outputs, or its bias of several dimensions.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
        >>> [follower.name for follower in channel_followers(model, model.weights[0])]
        ['bias', 'gamma', 'beta']
    """
    for graph, name, layer in _called_layers(model):
        inner = unwrapped(layer)
        if isinstance(inner, _CHANNEL_LAYERS) and _output_kernel(inner) is variable:
            return [*_bias(inner), *_normalization(graph, name, inner)]
    for layer in layers_within(model):  # in TimeDistributed, in attention, in a layer of the user's own
        if isinstance(layer, (*_CHANNEL_LAYERS, keras.layers.EinsumDense)) and _output_kernel(layer) is variable:
            return _bias(layer)
    return []


def _bias(layer: Any) -> list[Any]:
    """The layer's bias, if it has one value for each channel, in the kernel's order."""
    bias = getattr(layer, "bias", None)
    if isinstance(layer, keras.layers.EinsumDense) and layer.bias_axes != output_letters(layer.equation):
        return []
    return [] if bias is None else [bias]


def _output_kernel(layer: Any) -> Any:
    """The kernel whose outputs are the layer's; None if it has none yet."""
    if not layer.built:
        return None
    pointwise = getattr(layer, "pointwise_kernel", None)
    return layer.kernel if pointwise is None else pointwise


# Layers whose output has the channels of their kernel on its last axis, and no place for another meaning.
_CHANNEL_LAYERS = (
    *(keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D),
    *(keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
)


def _called_layers(model: Any) -> Iterator[tuple[Graph | None, str, Any]]:
    """Every layer of a model and the models in it, with the graph in which it is called."""
    graph = make_graph(model)
    for layer in model.layers if graph is None else graph.layers.values():
        if isinstance(layer, keras.Model):
            yield from _called_layers(layer)
        elif isinstance(layer, keras.Layer):
            yield graph, layer.name, layer


def _normalization(graph: Graph | None, name: str, layer: Any) -> list[Any]:
    """Gamma and beta of batch normalization over the channels that the layer alone feeds."""
    follower = graph.next(name) if graph else None
    norm = graph.layers[follower] if graph and follower else None
    first = getattr(layer, "data_format", None) == "channels_first"
    if not isinstance(norm, keras.layers.BatchNormalization):
        return []
    rank = len(norm.input.shape)
    if norm.axis % rank != (1 if first else rank - 1):
        return []
    return [scale for scale in (getattr(norm, name, None) for name in ("gamma", "beta")) if scale is not None]
