"""Gradients inside the training step: what criteria gather from them, gradients of pruned weights, optimizer slots."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_prune.criteria import Criterion
from keras_prune.masks import mask_constraint, scope_of


def innermost(optimizer: Any) -> Any:
    """The optimizer that gets gradients as they are: a `LossScaleOptimizer` divides them and hands them on."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers that a model was compiled with or holds as attributes, as models with several losses do."""
    held = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    found = [innermost(optimizer) for optimizer in (getattr(model, "optimizer", None), *held) if optimizer is not None]
    return list({id(optimizer): optimizer for optimizer in found}.values())


def clips(optimizer: Any) -> str | None:
    """Which clipping of gradients the optimizer does, as an argument such as ``"clipnorm=1.0"``, or None."""
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if getattr(optimizer, name, None):
            return f"{name}={getattr(optimizer, name)}"
    return None


class Gradients:
    """Stands between the gradients and the optimizer, inside the training step, while a model is pruned.

    It is put before the optimizer's ``apply`` and becomes part of every step that is traced from then on, so it works
    with ``jit_compile``, ``steps_per_execution``, gradient accumulation, loss scaling (gradients come divided, and not
    at all from steps that are skipped), a user's own ``train_step`` and several replicas (gradients are summed first).

    Args:
        criterion: what makes a weight matter; if it gathers, its sums are kept here in float32.
        mask: whether gradients of pruned weights are set to zero before the optimizer clips and averages them.
    """

    def __init__(self, criterion: Callable, *, mask: bool = False) -> None:
        self.gathers = bool(getattr(criterion, "gathers", False))
        self.needed = self.gathers or mask  # whether anything stands before the optimizer at all
        self.seen: set[str] = set()  # what came by since `connect`
        self.sums: dict[str, Any] = {}  # path -> sum of what was gathered, float32
        self.counts: dict[str, Any] = {}  # path -> number of steps in the sum
        self._criterion = criterion
        self._mask = mask
        self.variables: dict[str, Any] = {}  # path -> what is pruned
        self._paths: dict[int, str] = {}  # identity of a variable -> its path
        self._followers: dict[int, Any] = {}  # identity -> a variable that is masked with others
        self._undo: list[Callable[[], None]] = []

    def watch(self, variables: Mapping[str, Any], followers: Iterable[Any] = ()) -> None:
        """Takes the variables that are pruned; sums of those known already go on.

        Args:
            variables: path -> what is pruned.
            followers: what is masked with these; nothing is gathered there, but their gradients are masked too.
        """
        self.variables = dict(variables)
        self._followers = {id(form): v for v in followers for form in (v, v.value)}
        self._paths = {id(form): path for path, v in variables.items() for form in (v, v.value)}
        if not self.gathers:
            return
        for path, variable in variables.items():
            if path not in self.sums:
                with scope_of(variable):
                    self.sums[path] = _zeros(variable.shape, f"{variable.name}_statistic")
                    self.counts[path] = _zeros((), f"{variable.name}_steps")

    def connect(self, optimizers: Iterable[Any]) -> None:
        """Stands before each optimizer from the next trace on; `disconnect` undoes it."""
        self.disconnect()
        self.seen.clear()
        self._undo = [_intercept(optimizer, self._change) for optimizer in optimizers] if self.needed else []

    def disconnect(self) -> None:
        """Gives the optimizers their own ``apply`` back; steps that are traced already keep what they have."""
        while self._undo:
            self._undo.pop()()

    @property
    def ready(self) -> bool:
        """Whether every variable has been gathered from, so that the criterion can score."""
        return all(float(count.numpy()) > 0 for count in self.counts.values())

    def statistic(self, path: str) -> np.ndarray | None:
        """The mean of what was gathered for a variable, float32, or None if nothing was."""
        count = float(self.counts[path].numpy()) if path in self.counts else 0.0
        return self.sums[path].numpy() / np.float32(count) if count else None

    def updated(self) -> None:
        """The masks have changed: sums begin anew, if the criterion says so."""
        if self.gathers and getattr(self._criterion, "resets", True):
            for variable in (*self.sums.values(), *self.counts.values()):
                variable.assign(ops.zeros_like(variable))

    def gather(self, path: str, gradient: Any) -> None:
        """Adds one gradient of a variable, not scaled, to its sum; part of the graph.

        Args:
            path: which variable.
            gradient: tensor of its shape; None, where the loss does not depend on it, counts as zero.
        """
        variable = self.variables[path]
        weights = ops.cast(ops.convert_to_tensor(variable), "float32")
        gradient = ops.zeros_like(weights) if gradient is None else ops.cast(tf.convert_to_tensor(gradient), "float32")
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            gradient = context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        criterion: Any = self._criterion.of(path) if isinstance(self._criterion, Criterion) else self._criterion
        gathered = criterion.gather(weights, gradient)
        self.sums[path].assign_add(ops.cast(gathered, "float32"))
        self.counts[path].assign_add(ops.ones(()))

    def _change(self, gradients: Sequence[Any], variables: Sequence[Any], scale: float | None) -> list[Any]:
        """What the optimizer gets instead of these gradients; part of the graph."""
        changed = list(gradients)
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            path = self._paths.get(id(variable))
            if path is not None:
                self.seen.add(path)
                if self.gathers:
                    self.gather(path, gradient if gradient is None or scale is None else gradient / scale)
            pruned = self._followers.get(id(variable)) if path is None else self.variables[path]
            constraint = None if pruned is None else mask_constraint(pruned)
            if self._mask and gradient is not None and constraint is not None:
                changed[i] = _masked(gradient, constraint)
        return changed


def gather_on(model: Any, gradients: Gradients, data: Any) -> None:
    """Gathers the gradients of the compiled loss on data, without training.

    The model computes as in inference: dropout is off, batch statistics are those it has learned.

    Args:
        model: compiled with a loss.
        gradients: watches the variables.
        data: (x, y) or (x, y, sample_weight) of arrays, taken in batches of 32; or a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or another iterable of such batches, which must end.

    Raises:
        ValueError: the model is not compiled with a loss, or there is no data.
    """
    if getattr(model, "loss", None) is None:
        raise ValueError(
            "data: expected a model that is compiled with a loss, whose gradients are gathered on the data; call "
            "model.compile(loss=...)"
        )
    paths = {path: variable.value for path, variable in gradients.variables.items()}

    @tf.function(reduce_retracing=True)
    def step(batch: Any) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=False)
            loss = model.compute_loss(x, y, y_pred, sample_weight)
        for path, gradient in tape.gradient(loss, paths).items():
            gradients.gather(path, gradient)

    for_each_batch(data, step)


def for_each_batch(data: Any, step: Callable[[Any], Any]) -> None:
    """Calls a step with each of `batches_of` the data; raises ValueError if there are none."""
    batches = 0
    for batch in batches_of(data):
        step(batch)
        batches += 1
    if not batches:
        raise ValueError("data: expected at least one batch to gather on, got none")


def batches_of(data: Any) -> Iterable[Any]:
    """Batches of (x, y) or (x, y, sample_weight) from arrays, in 32 examples each, or from what gives batches."""
    if not 2 <= len(data) <= 3 if isinstance(data, tuple) else hasattr(data, "shape"):
        got = f"a tuple of {len(data)}" if isinstance(data, tuple) else f"an array of shape {tuple(data.shape)}"
        raise ValueError(f"data: expected (x, y), (x, y, sample_weight) or batches of these, got {got}; give targets")
    if isinstance(data, tuple):
        # Several inputs or targets may be in a list, which tf.data would stack.
        parts = tuple(tuple(part) if isinstance(part, list) else part for part in data)
        counts = {int(part.shape[0]) for part in keras.tree.flatten(parts) if getattr(part, "shape", ())}
        if len(counts) > 1:
            raise ValueError(f"data: expected as many targets as inputs, got arrays of {sorted(counts)} examples")
        return tf.data.Dataset.from_tensor_slices(parts).batch(32)
    if isinstance(data, keras.utils.PyDataset):
        return (data[i] for i in range(data.num_batches))
    return data


def _zeros(shape: Sequence[int], name: str) -> Any:
    # Each replica adds the same, for gradients are summed over replicas before.
    return keras.Variable(
        initializer="zeros", shape=shape, dtype="float32", trainable=False, aggregation="only_first_replica", name=name
    )


def _masked(gradient: Any, constraint: Any) -> Any:
    """The gradient with zeros for pruned weights; of a sparse one (of an Embedding) the rows that it has."""
    if not isinstance(gradient, tf.IndexedSlices):
        return constraint.apply_mask(gradient)
    kept = ops.cast(ops.take(constraint.mask, gradient.indices, axis=0), "bool")
    values = ops.where(kept, gradient.values, ops.zeros((), gradient.values.dtype))
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _intercept(optimizer: Any, change: Callable[..., list[Any]]) -> Callable[[], None]:
    """Puts a change of gradients before the optimizer's ``apply``; returns what takes it away again."""

    def apply_changed(apply: Callable[..., Any], grads: Any, trainable_variables: Any) -> Any:
        if trainable_variables is None:
            raise ValueError(
                "optimizer.apply: expected gradients and their variables while a model is pruned with gathered or "
                "masked gradients, got gradients alone; call optimizer.apply(gradients, model.trainable_variables)"
            )
        trainable_variables = list(trainable_variables)
        grads = change(list(grads), trainable_variables, optimizer.loss_scale_factor)
        return apply(grads, trainable_variables)

    return stand_before(optimizer, apply_changed)


def stand_before(optimizer: Any, change: Callable[..., Any]) -> Callable[[], None]:
    """Puts a function before the optimizer's ``apply``; several may stand there, and leave in any order.

    Args:
        optimizer: a Keras optimizer.
        change: called with the ``apply`` behind it, the gradients, and the variables or None; returns what ``apply``
            does.

    Returns:
        What takes it away again.
    """
    own, apply = vars(optimizer).get("apply"), optimizer.apply

    def before(grads: Any, trainable_variables: Any = None) -> Any:
        if before.gone:  # type: ignore[attr-defined]
            return apply(grads, trainable_variables)
        return change(apply, grads, trainable_variables)

    def undo() -> None:
        before.gone = True  # type: ignore[attr-defined]
        first = vars(optimizer).get("apply")
        while getattr(first, "gone", False):  # those that left while others stood before them
            first = first.own
        vars(optimizer).pop("apply", None)
        if first is not None:
            optimizer.apply = first

    before.gone, before.own = False, own  # type: ignore[attr-defined]
    optimizer.apply = before
    return undo


def slots(optimizer: Any, variables: Sequence[Any]) -> dict[int, list[Any]]:
    """The optimizer's variables that belong to a model's variables and have the same shape: momentum, averages, ...

    Keras names them ``<path of the variable, with _ for />_<name of the slot>``. Of several variables with equal names
    the first slot belongs to the first variable, and so on.

    Args:
        optimizer: a Keras optimizer, built or not.
        variables: all trainable variables of the model, in its order.

    Returns:
        ``id(variable)`` -> its slots.
    """
    named: dict[str, list[Any]] = collections.defaultdict(list)
    for variable in variables:
        named[variable.path.replace("/", "_")].append(variable)
    same_name: dict[str, list[Any]] = collections.defaultdict(list)
    for slot in optimizer.variables:
        same_name[slot.name].append(slot)
    result: dict[int, list[Any]] = collections.defaultdict(list)
    for name, found in same_name.items():
        parts = name.split("_")
        stems = ("_".join(parts[:i]) for i in range(len(parts) - 1, 0, -1))  # the longest that is a variable's
        owners: Sequence[Any] = next((named[stem] for stem in stems if stem in named), ())
        # Older Keras names some (Adagrad's) after the slot alone, one for each variable.
        owners = owners or (variables if len(found) == len(variables) else ())
        for owner, slot in zip(owners, found, strict=False):
            if tuple(slot.shape) == tuple(owner.shape):
                result[id(owner)].append(slot)
    return result


def clear_slots(optimizers: Iterable[Any], variables: Sequence[Any], steady: Mapping[int, np.ndarray]) -> None:
    """Forgets what optimizers remember of weights that are pruned, or that come back.

    Momentum from before would move a weight that comes back, and averages of weights would bring pruned ones back.

    Args:
        optimizers: Keras optimizers, built or not.
        variables: all trainable variables of the model.
        steady: ``id(variable)`` -> bool array of its shape, True where the weight was kept and still is.
    """
    for optimizer in optimizers:
        for owner, found in slots(optimizer, variables).items():
            for slot in found if owner in steady else ():
                initial = ops.cast(_initial(optimizer, slot), slot.dtype)
                slot.assign(ops.where(steady[owner], slot, initial))


def _initial(optimizer: Any, slot: Any) -> float:
    """What a slot begins with: zero, but Adagrad and Ftrl divide by theirs, which therefore begins above it."""
    divides = slot.name.endswith("accumulator") and not slot.name.endswith("gradient_accumulator")
    return getattr(optimizer, "initial_accumulator_value", 0.0) if divides else 0.0
