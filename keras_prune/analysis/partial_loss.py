"""The loss of a model as a function of a few of its variables: what does not depend on them is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune.analysis.judge import BATCH, check_data

# Bytes of activations that are kept for all of the data; beyond that they are computed anew for each measurement.
CACHE_BYTES = 1 << 30


class PartialLoss:
    """The compiled loss on data, in inference mode, without the penalties on weights.

    ``behind(variables)`` is a function that returns the loss with whatever values these variables have now. It keeps
    the activations that do not depend on them, and computes what lies behind alone.

    Args:
        model: compiled with a loss.
        data: ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, or a dataset of such batches that can be read again.
        cache_bytes: the most that activations may take.

    Raises:
        TypeError: data are not of the expected kind.
        ValueError: the model is not compiled with a loss, or there is no data.
    """

    def __init__(self, model: Any, data: Any, *, cache_bytes: int = CACHE_BYTES) -> None:
        if getattr(model, "loss", None) is None:
            raise ValueError(
                "model: expected one that is compiled with a loss, whose change is measured; call "
                "model.compile(loss=...), or give a function of the model as data"
            )
        check_data(data)
        self._data, self._cache_bytes = data, cache_bytes
        first = next(iter(self._batches()), None)
        if first is None:
            raise ValueError("data: expected at least one batch, got none")
        self._function = _traced(model, first)
        self._inputs = self._function.inputs[: len(keras.tree.flatten(first))]

    def behind(self, variables: Sequence[Any]) -> Callable[[], float]:
        """The loss as a function of these variables.

        Args:
            variables: of the model; the others must keep their values.

        Returns:
            A function without arguments: the mean over the data, each batch weighted by its number of examples.
        """
        fed = _frontier(self._function, self._inputs, variables)
        front = self._function.prune(self._inputs, fed)
        loss = self._function.prune(fed, self._function.outputs[0])
        cached = self._cached(front)
        if cached is None:
            whole = self._function.prune(self._inputs, self._function.outputs[0])
            return lambda: _mean((size, whole(*batch)) for size, batch in self._sized())
        return lambda: _mean((size, loss(*tensors)) for size, tensors in cached)

    def _cached(self, front: Any) -> list[tuple[int, list[Any]]] | None:
        """For each batch its number of examples and the tensors to go on from; None where they are too many."""
        result, total = [], 0
        for size, batch in self._sized():
            tensors = [tf.convert_to_tensor(tensor) for tensor in tf.nest.flatten(front(*batch))]
            total += sum(tensor.dtype.size * int(tf.size(tensor)) for tensor in tensors)
            if total > self._cache_bytes:
                return None
            result.append((size, tensors))
        return result

    def _sized(self) -> Iterator[tuple[int, list[Any]]]:
        for batch in self._batches():
            tensors = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch)]
            yield int(tensors[0].shape[0]), tensors

    def _batches(self) -> Iterator[Any]:
        """Batches as (x, y) or (x, y, sample_weight)."""
        if isinstance(self._data, tuple | list):
            return _slices([part for part in self._data if part is not None])
        if isinstance(self._data, keras.utils.PyDataset):
            return (self._data[i] for i in range(self._data.num_batches))
        return iter(self._data)


def _slices(data: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Arrays in batches; several inputs or targets are in lists, tuples or dicts, as Keras takes them."""
    sizes = {len(leaf) for leaf in keras.tree.flatten(data)}
    if len(sizes) != 1:
        raise ValueError(f"data: expected as many targets as examples, got arrays of {sorted(sizes)}")
    for start in range(0, sizes.pop(), BATCH):
        stop = start + BATCH
        yield tuple(keras.tree.map_structure(lambda leaf: leaf[start:stop], part) for part in data)  # noqa: B023


def _traced(model: Any, batch: Any) -> Any:
    """The graph of the loss, whose inputs are the leaves of a batch."""

    def loss(*leaves: Any) -> Any:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(keras.tree.pack_sequence_as(batch, leaves))
        return model.compute_loss(x, y, model(x, training=False), sample_weight)

    leaves = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch)]
    with _no_penalties(model):
        loss(*leaves)  # what is made in the first call, such as the loss's own state, is made outside of the graph
        specs = [tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype) for leaf in leaves]
        return tf.compat.v1.wrap_function(loss, specs)


@contextlib.contextmanager
def _no_penalties(model: Any) -> Iterator[None]:
    """Sets the variables' regularizers aside: a unit takes its penalty along, which is not its worth."""
    found = [(variable, variable.regularizer) for variable in model.trainable_variables]
    try:
        for variable, _ in found:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in found:
            variable.regularizer = regularizer


def _frontier(function: Any, inputs: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """The tensors that depend on the data, not on the variables, and from which the loss is computed."""
    handles = {id(variable.value.handle) for variable in variables}
    changing = {placeholder.op for handle, placeholder in function.graph.captures if id(handle) in handles}
    fed = {tensor.op for tensor in inputs}
    found: dict[Any, Any] = {}
    for operation in function.graph.get_operations():  # in the order in which they were made: inputs come first
        sources = [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
        if not changing.isdisjoint(sources):
            changing.add(operation)
            found |= {tensor.ref(): tensor for tensor in operation.inputs if tensor.op in fed - changing}
        elif not fed.isdisjoint(sources):
            fed.add(operation)
    loss = function.outputs[0]
    return list(found.values()) if loss.op in changing else [loss]


def _mean(losses: Iterator[tuple[int, Any]]) -> float:
    """Of (number of examples, loss of the batch): the mean over the examples, summed in float64."""
    sizes, values = zip(*losses, strict=True)
    return float(np.average([float(np.asarray(value)) for value in values], weights=sizes))
