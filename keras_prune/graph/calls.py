"""The calls of a functional model's layers and operators in order, read from its configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any

import keras

from keras_prune.graph.rules import is_graph

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A tensor of the graph: the output `tensor` of the call `index` of the layer `name`."""

    name: str
    index: int
    tensor: int
    shape: Shape = dataclasses.field(compare=False, default=())


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operator.

    Attributes:
        layer: the layer, or the operator (``x + y``) as Keras keeps it.
        index: how many times it was called before, in its model's configuration.
        args: positional arguments with a `Ref` in the place of each tensor.
        kwargs: named arguments, likewise.
    """

    layer: Any
    index: int
    args: list[Any]
    kwargs: dict[str, Any]

    @functools.cached_property
    def refs(self) -> list[Ref]:
        """The tensors among the arguments, in order."""
        return [value for value in keras.tree.flatten([self.args, self.kwargs]) if isinstance(value, Ref)]


@dataclasses.dataclass(frozen=True)
class Calls:
    """What a model computes.

    Attributes:
        inputs: the model's input tensors, flat.
        sources: the input layers, likewise.
        calls: each after those whose results it takes.
        outputs: the model's output tensors, flat.
    """

    inputs: list[Ref]
    sources: list[Any]
    calls: list[Call]
    outputs: list[Ref]


def as_functional(model: Any) -> Any:
    """A functional model over the same layers: that of a Sequential one, or one without its own class's behaviour.

    Raises:
        ValueError: only the code of a subclassed model knows what follows what, or it is not built.
        RecursionError: more layers in a row than Python allows calls within calls.
    """
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"model: expected one that is built, got {model.name!r}, which does not know its inputs yet; begin it with "
            "keras.Input(shape), or call it on data first"
        )
    if not is_graph(model):
        raise ValueError(
            f"model: expected a Sequential or functional model that is built, got {type(model).__name__} "
            f"{model.name!r}, of which only its code knows what follows a layer; build it with keras.Model(inputs, "
            "outputs)"
        )
    with long_chains(model):
        return keras.Model(list(model.inputs), list(model.outputs), name="trace")


@contextlib.contextmanager
def long_chains(model: Any) -> Iterator[None]:
    """Says what to do where Keras, which goes back from each layer to those before it by recursion, ends in it."""
    try:
        yield
    except RecursionError as error:
        limit = sys.getrecursionlimit()
        raise RecursionError(
            f"model: expected fewer layers in a row than the {limit} calls within calls that Python allows, for Keras "
            f"connects them by recursion, got {model.name!r} with {len(model.layers)} layers; raise the limit before: "
            f"sys.setrecursionlimit({max(10 * limit, 10_000)})"
        ) from error


def read_calls(model: Any) -> Calls:
    """The calls of a Sequential or functional model.

    Args:
        model: a Keras 3 model that is built.

    Raises:
        ValueError: a subclassed model, or a layer that has no configuration.
    """
    functional = as_functional(model)
    try:
        config = functional.get_config()
    except NotImplementedError as error:
        raise ValueError(
            f"model: expected layers that can be saved (get_config), got one that cannot: {error}"
        ) from None
    layers = {operation.name: operation for operation in functional.operations}
    nodes = [
        Call(layers[entry["name"]], index, _resolve(node["args"]), _resolve(node["kwargs"]))
        for entry in config["layers"]
        for index, node in enumerate(entry["inbound_nodes"])
    ]
    inputs = _with_shapes(config["input_layers"], model.inputs)
    outputs = [_renumbered(ref, layers) for ref in _with_shapes(config["output_layers"], model.outputs)]
    _check_made(outputs, [*inputs, *(Ref(node.layer.name, node.index, 0) for node in nodes)])
    return Calls(inputs, [layers[ref.name] for ref in inputs], list(_sorted(nodes, inputs)), outputs)


def _renumbered(ref: Ref, layers: dict[str, Any]) -> Ref:
    """An output by its place among the calls: Keras counts those of functional models from 1 here, elsewhere from 0."""
    functional = any(cls.__name__ == "Functional" for cls in type(layers[ref.name]).__mro__)
    return dataclasses.replace(ref, index=ref.index - 1) if functional else ref


def _check_made(outputs: list[Ref], made: list[Ref]) -> None:
    """What nothing makes would seem to have no channels, and those of the output would go."""
    known = {(ref.name, ref.index) for ref in made}
    unknown = [ref for ref in outputs if (ref.name, ref.index) not in known]
    if unknown:
        raise AssertionError(f"outputs {unknown} are of no call of the model")


def _with_shapes(entries: Any, tensors: Any) -> list[Ref]:
    """The model's inputs or outputs."""
    pairs = zip(_histories(entries), tensors, strict=True)
    return [Ref(name, index, tensor, tuple(t.shape)) for (name, index, tensor), t in pairs]


def _sorted(nodes: list[Call], inputs: list[Ref]) -> Iterator[Call]:
    """Each call after those that it depends on: a shared layer's calls may lie far apart."""
    done = {(ref.name, ref.index) for ref in inputs}
    waiting: dict[tuple[str, int], list[Call]] = {}
    missing = {}
    ready = []
    for node in nodes:
        needed = {(ref.name, ref.index) for ref in node.refs} - done
        missing[node.layer.name, node.index] = len(needed)
        for name in needed:
            waiting.setdefault(name, []).append(node)
        if not needed and (node.layer.name, node.index) not in done:
            ready.append(node)
    for node in ready:  # grows while it is read
        yield node
        for follower in waiting.get((node.layer.name, node.index), ()):
            missing[follower.layer.name, follower.index] -= 1
            if not missing[follower.layer.name, follower.index]:
                ready.append(follower)


def _histories(entries: Any) -> list[list[Any]]:
    """Flat [name, call, tensor] of a nested structure of them."""
    if isinstance(entries, dict):
        entries = [entries[key] for key in sorted(entries)]
    if entries and isinstance(entries[0], str):
        return [list(entries)]
    return [history for entry in entries for history in _histories(entry)]


def _resolve(value: Any) -> Any:
    """Arguments as they were, with a `Ref` for each tensor."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        config = value["config"]
        name, index, tensor = config["keras_history"]
        return Ref(name, index, tensor, tuple(config["shape"]))
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _resolve(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(entry) for entry in value)
    return value
