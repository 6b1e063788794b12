"""The calls of a model's layers and operators, with the shapes at which they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_prune.layer_costs.input_specs import input_specs


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a call.

    Attributes:
        number: the same for the same data, also after a change of its dtype.
        shape: with the batch of 1.
        itemsize: bytes of an element.
    """

    number: int
    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.itemsize


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operator.

    Attributes:
        layer: the layer, or the operator (``x + y``) as Keras keeps it.
        name: its name, behind those of the models and layers that it is in: ``"encoder/conv1"``.
        times: how often `TimeDistributed` layers around it repeat it.
        inputs: its tensors, each once.
        outputs: its results, flat.
        args: positional arguments, with a `Tensor` in the place of each tensor.
        kwargs: named arguments, likewise.
        inner: the calls of layers in it, in order.
    """

    layer: Any
    name: str
    times: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inner: tuple[Call, ...]


def record_calls(model: Any, input_shape: Any = None) -> Call:
    """Calls a model on a batch of one in a graph that is thrown away, and says what called what.

    Args:
        model: a Keras 3 model that is built.
        input_shape: shape of one example without the batch; a list or dict of shapes for several inputs; None: the
            model's own.

    Returns:
        The call of the model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: it is not built, a dimension is unknown, or the model does not take the shape.
    """
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"model: expected a Keras 3 model (keras.Model), got {kind}")
    if not model.built:
        raise ValueError("model: expected one that is built, got one without weights yet; call it on data first")
    specs = input_specs(model, input_shape)
    if _is_graph(model):
        # The same layers in one that takes a list, whatever structure the model's inputs have.
        model = keras.Model(list(model.inputs), list(model.outputs))
    recorder = _Recorder()
    with recorder.listening(model):
        try:
            tf.function(lambda inputs: model(inputs, training=False), autograph=False).get_concrete_function(specs)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            shapes = keras.tree.map_structure(lambda spec: tuple(spec.shape)[1:], specs)
            raise ValueError(f"input_shape: the model cannot be called on one example of {shapes}: {error}") from error
    return recorder.calls[0]


def _is_graph(model: Any) -> bool:
    """Whether it is Sequential or functional, and no code of its own calls the layers."""
    kinds = [cls for cls in type(model).__mro__ if cls.__name__ in ("Functional", "Sequential")]
    return bool(kinds and model.inputs and type(model).call is getattr(kinds[0], "call", None))


class _Recorder:
    """Stands in the place of ``layer.call`` while a model is traced."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._path: list[str] = []
        self._times = 1
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is a tensor's own only as long as the tensor lives

    @contextlib.contextmanager
    def listening(self, model: Any) -> Iterator[None]:
        """Records calls of the model, all that is in it, and their operators."""
        operations = list({id(operation): operation for operation in _operations(model)}.values())
        before = [dict(vars(operation)) for operation in operations]
        try:
            for operation in operations:
                self._listen(operation, is_model=operation is model)
            yield
        finally:
            for operation, attributes in zip(operations, before, strict=True):
                for name in ("call", "quantized_call"):
                    vars(operation).pop(name, None)
                    if name in attributes:
                        vars(operation)[name] = attributes[name]

    def _listen(self, operation: Any, is_model: bool) -> None:
        name = "quantized_call" if getattr(operation, "quantization_mode", None) else "call"
        if isinstance(getattr(type(operation), name), property):
            return  # a wrapper that hands its layer's own call out
        original = getattr(operation, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            path = [] if is_model else [*self._path, operation.name]
            run = functools.partial(original, *args, **kwargs)
            if isinstance(operation, keras.layers.TimeDistributed):
                run = functools.partial(self._one_step, operation, args[0] if args else kwargs["inputs"])
            return self._record(operation, path, run=run, arguments=(args, kwargs))

        vars(operation)[name] = call  # not by setattr: Keras would look for layers in it

    def _record(self, operation: Any, path: list[str], *, run: Callable[[], Any], arguments: Any) -> Any:
        """Runs the call, and appends it to those of the layer around it."""
        outer, outer_path, times = self.calls, self._path, self._times
        self.calls, self._path = [], path
        try:
            outputs = run()
            args, kwargs = keras.tree.map_structure(self._symbol, arguments)
            inputs = {t.number: t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, Tensor)}
            results = [self._symbol(value) for value in keras.tree.flatten(outputs) if tf.is_tensor(value)]
            shapes = (tuple(inputs.values()), tuple(results))
            outer.append(Call(operation, "/".join(path), times, *shapes, args, kwargs, tuple(self.calls)))
        finally:
            self.calls, self._path, self._times = outer, outer_path, times
        return outputs

    def _one_step(self, operation: Any, inputs: Any) -> Any:
        """`TimeDistributed` with one of its steps traced: all are alike."""
        steps = int(inputs.shape[1])
        step = inputs[:, 0]
        self._same(step, inputs)
        self._times *= steps
        output = operation.layer(step)
        outputs = tf.stack([output] * steps, axis=1)
        self._same(outputs, output)
        return outputs

    def _same(self, tensor: Any, source: Any) -> None:
        """Says that a tensor has the channels of another."""
        self._numbers[id(tensor)] = self._number(source)
        self._alive.append(tensor)

    def _symbol(self, value: Any) -> Any:
        if not tf.is_tensor(value) or not hasattr(value, "dtype"):
            return value
        shape = tuple(int(size or 0) for size in value.shape)
        return Tensor(self._number(value), shape, value.dtype.size or 0)

    def _number(self, tensor: Any) -> int:
        if id(tensor) not in self._numbers:
            source = tensor
            while (
                isinstance(source, tf.Tensor) and not tf.executing_eagerly() and source.op.type in ("Cast", "Identity")
            ):
                source = source.op.inputs[0]
            number = self._numbers.setdefault(id(source), len(self._numbers))
            self._numbers[id(tensor)] = number
            self._alive += [source, tensor]
        return self._numbers[id(tensor)]


def _operations(value: Any) -> Iterator[Any]:
    """All layers and operators in a model, at any depth."""
    seen: set[int] = set()
    open_values = [value]
    while open_values:
        found = open_values.pop()
        if id(found) in seen or not isinstance(found, (keras.Operation, dict, list, tuple, set)):
            continue
        seen.add(id(found))
        if isinstance(found, keras.Operation):
            yield found
            # What a Sequential model calls is a functional one of the same layers: no layer of its own.
            seen.add(id(vars(found).get("_functional")))
            found = vars(found)
        open_values.extend(found.values() if isinstance(found, dict) else found)
