"""Activations of units and the loss's gradients by them, observed inside the training step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_prune.hooks import stand_around
from keras_prune.unit_memory import ExampleMemory, MeanMemory

if TYPE_CHECKING:
    from keras_prune.graph import Site


class Observer:
    """What is remembered of the units at one layer's output.

    Attributes:
        layer: whose output is observed.
        axis: of its output, negative, that counts the units.
        memory: what was observed.
        seen: whether the layer was observed in a step that was traced.
    """

    def __init__(self, criterion: Any, site: Site) -> None:
        self.layer = site.layer
        self.axis = site.axis
        self.name = site.layer.name
        self.seen = False
        size, name = len(site.units), f"{site.layer.name}_units"
        keeps = criterion.remembers
        self.memory: Any = ExampleMemory(size, name, examples=keeps) if keeps else MeanMemory(size, name)


class _Here(threading.local):
    """What belongs to one replica: those of one process run in threads that take turns."""

    tokens: dict[Any, Any] | None = None  # of the call of the model that goes on: observer -> token of its last call
    labels: Any = None  # the targets of the step


class Activations:
    """Observes the outputs of layers while a model is trained.

    An identity stands behind each layer. Its gradient function sees the activation and the loss's gradient by it, and
    passes the gradient on unchanged: what is observed costs no second pass, and nothing is observed in evaluation.

    Args:
        criterion: observes activations or their gradients.
        observers: of the layers.
    """

    def __init__(self, criterion: Any, observers: list[Observer]) -> None:
        self._criterion = criterion
        self._observers = observers
        self._here = _Here()
        self._scale: Callable[[], Any] = lambda: 1.0

    def connect(self, model: Any, scale: Callable[[], Any]) -> list[Callable[[], None]]:
        """Observes in every step that is traced from now on.

        Args:
            model: whose layers these are.
            scale: gives the number by which the loss is multiplied before its gradients are computed.

        Returns:
            What takes the identities away again.
        """
        self._scale = scale
        undo = self._stand_around(model, self._later)
        if self._criterion.remembers and hasattr(model, "compute_loss"):
            undo.append(stand_around(model, "compute_loss", self._around_loss))
        return undo

    def observe(self, model: Any, x: Any, y: Any) -> None:
        """Observes activations on a batch, as in inference, without gradients; part of the graph."""
        self._here.labels = y
        undo = self._stand_around(model, self._now)
        try:
            model(x, training=False)
        finally:
            while undo:
                undo.pop()()

    def _stand_around(self, model: Any, watch: Callable[[Observer, Any], Any]) -> list[Callable[[], None]]:
        layers = [stand_around(each.layer, "call", _behind(each, watch)) for each in self._observers]
        return [*layers, stand_around(model, "call", self._around_model)]

    def _around_model(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One call of the model, in which the calls of a layer belong together."""
        if self._here.tokens is not None:  # a model that calls itself
            return call(*args, **kwargs)
        self._here.tokens = {}
        try:
            return call(*args, **kwargs)
        finally:
            self._here.tokens = None

    def _around_loss(self, compute_loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Keeps the targets: gradients come after the loss."""
        self._here.labels = kwargs["y"] if "y" in kwargs else args[1]
        return compute_loss(*args, **kwargs)

    def _later(self, observer: Observer, activation: Any) -> Any:
        """The activation, which is observed when its gradient comes.

        If the layer is called again, the later call hands what it observed to the earlier one, as the gradient of a
        token that goes from the earlier to the later: the first call has the sum of all.
        """
        tokens = {} if self._here.tokens is None else self._here.tokens
        key = (id(observer), id(getattr(activation, "graph", None)))  # a token is of use in its own graph alone
        earlier = (tokens[key],) if key in tokens else ()

        @tf.custom_gradient
        def identity(activation: Any, *earlier: Any) -> Any:
            def backward(gradient: Any, later: Any) -> Any:
                observed = self._observation(observer, activation, gradient) + later
                if earlier:
                    return gradient, observed
                self._remember(observer, observed)
                return gradient

            return (tf.identity(activation), tf.zeros(())), backward

        same, tokens[key] = identity(activation, *earlier)
        return same

    def _now(self, observer: Observer, activation: Any) -> Any:
        """The activation, observed at once; each call of a shared layer by itself."""
        self._remember(observer, self._observation(observer, activation, None))
        return activation

    def _observation(self, observer: Observer, activation: Any, gradient: Any) -> Any:
        """What the criterion observes of each example, (batch, units, ...), float32."""
        observer.seen = True
        rank = activation.shape.rank
        axes = tuple(axis for axis in range(1, rank) if axis != rank + observer.axis)
        activation = tf.cast(activation, tf.float32)
        if self._criterion.observes == "activations":
            return self._criterion.observe(activation, None, axes)
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
        observed = self._criterion.observe(activation, gradient, axes)
        return observed * self._per_example(observed)

    def _per_example(self, observed: Any) -> Any:
        """By what the gradient of the batch's mean loss is multiplied to be that of an example's loss."""
        context = tf.distribute.get_replica_context()
        replicas = 1 if context is None else context.num_replicas_in_sync
        factor = tf.cast(tf.shape(observed)[0], tf.float32)
        return factor * tf.cast(replicas, tf.float32) / tf.cast(self._scale(), tf.float32)

    def _remember(self, observer: Observer, observed: Any) -> None:
        if isinstance(observer.memory, ExampleMemory):
            observer.memory.add(observed, _classes(self._here.labels))
        else:
            count = tf.cast(tf.shape(observed)[0], tf.float32)
            observer.memory.add(self._criterion.average(observed), count)


def _behind(observer: Observer, watch: Callable[[Observer, Any], Any]) -> Callable[..., Any]:
    """What stands around a layer's ``call``: watches its output; of several, as with a state, the first."""

    def watched(output: Any) -> Any:
        if not tf.is_tensor(output):  # a placeholder, while a model is built
            return output
        same = watch(observer, output)
        if hasattr(output, "_keras_mask"):
            same._keras_mask = output._keras_mask
        return same

    def around(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        if isinstance(outputs, (tuple, list)):
            return type(outputs)([watched(outputs[0]), *outputs[1:]])
        return watched(outputs)

    return around


def _classes(labels: Any) -> Any:
    """Whole numbers (batch,), int32, of labels (batch,), (batch, 1) or one-hot (batch, classes)."""
    rank = getattr(getattr(labels, "shape", None), "rank", None)
    if rank not in (1, 2):
        got = "none" if labels is None else f"{type(labels).__name__} of rank {rank}"
        raise ValueError(
            "MutualInformation: expected one label for each example, whole numbers (batch,) or one-hot (batch, "
            f"classes), given to the model's compute_loss, got {got}; train with labels, or choose another criterion"
        )
    if rank == 2 and labels.shape[1] != 1:
        return tf.argmax(labels, axis=1, output_type=tf.int32)
    return tf.cast(tf.reshape(labels, [-1]), tf.int32)
