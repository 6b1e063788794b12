"""Pruning while training: when to compute scores, when to change masks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_prune import allocation as allocations
from keras_prune import criteria, patterns
from keras_prune import schedules as schedules_lib
from keras_prune.masks import (
    Layers,
    Recipe,
    apply_masks,
    attach,
    check_model,
    mask_sparsity,
    prunable,
    reset_train_function,
)
from keras_prune.schedules import ConstantSparsity, PolynomialDecay

for _value in (
    *(PolynomialDecay, ConstantSparsity, criteria.Magnitude, patterns.Unstructured),
    *(allocations.Uniform, allocations.Global, allocations.PerLayer),
):
    keras.saving.register_keras_serializable("keras_prune")(_value)


class PruneCallback(keras.callbacks.Callback):
    """Prunes a model while ``fit`` trains it.

    Without arguments: sparsity rises to 80 % of all trainable weights of two dimensions or more (dense, convolution,
    recurrent kernels, embeddings, ...) over the first half of this ``fit``, and the second half fine-tunes the rest.

    The masks change after a batch and before the next one, at the schedule's steps; in between the optimizer's own
    step holds pruned weights at exactly zero, also with ``jit_compile=True`` and ``steps_per_execution > 1`` (the
    masks then change at the end of the execution in which their step falls). A mask is made anew from the weights as
    they are: with the magnitude criterion a pruned weight comes back only where the target falls. The fraction of
    zeros is added to the logs of batches and epochs, and to ``History``, as ``sparsity``.

    Further calls of ``fit`` with the same callback continue its schedule: steps are counted on, and a ramp that was
    chosen in the first ``fit`` stays. A new callback on a model with zeros begins at the sparsity that it finds, if no
    schedule is given. The masks stay on the model, so that its zeros survive training without a callback, until
    `keras_prune.strip` removes them.

    Args:
        schedule: step -> target sparsity: a schedule or its name. Steps left open are chosen from this ``fit``.
        criterion: what makes a weight matter: a name, a criterion, or a function weights -> scores.
        pattern: which weights are pruned together.
        allocation: how the target is shared between layers; a dict of sparsities stands for `PerLayer`.
        layers: which to prune: names of layers or weights, regular expressions, or a function of the variable that
            returns a bool; None: all.

    Raises:
        TypeError: an argument, or the model, is not of the expected kind.
        ValueError: a name or number is wrong, or (in ``fit``) steps were left open and the data's length is unknown.

    Example:
        >>> model.fit(x, y, epochs=20, callbacks=[keras_prune.PruneCallback()])  # doctest: +SKIP

    Zhu and Gupta 2017, "To prune, or not to prune" (https://arxiv.org/abs/1710.01878).
    """

    def __init__(
        self,
        schedule: Any = None,
        criterion: Any = "magnitude",
        *,
        pattern: Any = "unstructured",
        allocation: Any = "uniform",
        layers: Layers = None,
    ) -> None:
        super().__init__()
        self.schedule = None if schedule is None else schedules_lib.get(schedule)
        self.recipe = Recipe(criteria.get(criterion), patterns.get(pattern), allocations.get(allocation))
        self.layers = layers
        self.step = 0  # batches trained so far, over all fits
        self.sparsity = 0.0  # fraction of zeros that the masks make
        self._active: schedules_lib.Schedule | None = None  # the schedule with every step chosen
        self._variables: dict[str, Any] = {}  # what is pruned; empty until the model has variables
        self._updated_at: int | None = None  # the schedule's step that the masks belong to
        self._owner: weakref.ref | None = None  # the model whose steps are counted here
        self._fit: Any = None  # this fit's History, which tells one fit from another
        self._epoch_start = 0  # value of `step` when the epoch began
        self._batch_begin = 0  # index in the epoch of the first batch of this execution
        self._build_error: Exception | None = None
        self._unhook: Callable[[], None] | None = None  # gives the model its own train_step back
        self._checked = False  # whether this fit's first step left the variables as they were

    # What Keras calls.

    def set_model(self, model: Any) -> None:
        """Takes the model; raises TypeError for one that is not of Keras 3."""
        check_model(model)
        super().set_model(model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Gives the model its masks, and has its training step compiled anew if it was compiled without them."""
        model = self.model
        self._check_single_use(model)
        self._variables = {}
        self._checked = False
        has_variables = model.built or bool(model.trainable_variables)
        if (has_variables and self._attach(model)) or not model.built:
            reset_train_function(model)
            if not model.built:
                self._hook(model)
            model.make_train_function()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Chooses the steps that the schedule leaves open, in the first epoch, and makes the first masks."""
        self._epoch_start = self.step
        if self._active is None:
            self._active = self._resolve(epoch)
        self._update()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Remembers where an execution of several steps begins."""
        self._batch_begin = batch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts steps and changes masks where the schedule says so."""
        if not self._checked:
            self._check_variables(self.model)
        # Older Keras 3 gives the first batch of an execution here, newer the last one, so it is counted from the begin.
        # The last execution of an epoch can be shorter than the others.
        done = self._batch_begin + self.model.steps_per_execution
        self.step = self._epoch_start + min(done, self.params.get("steps") or done)
        self._update()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Adds the sparsity to the epoch's logs."""
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs: dict | None = None) -> None:
        """Applies the masks once more: averaging of weights and restoring of earlier ones undo them after training."""
        self._restore_train_step()
        apply_masks(self._variables)
        for variable in self._variables.values():
            variable.constraint.claim = None
        self._fit = None
        active = self._active
        if active is not None and (active.end_step or 0) > self.step:
            logging.warning(
                "PruneCallback: training ended after step %d, before the schedule's end_step=%d; sparsity is %.4f of "
                "the final %.4f. Train longer (another fit with this callback continues), or give a smaller end_step.",
                *(self.step, active.end_step, self.sparsity, active.final_sparsity),
            )

    # How it is done.

    def _check_single_use(self, model: Any) -> None:
        """One callback counts the steps of one model, once."""
        owner = self._owner() if self._owner is not None else None
        if owner is not None and owner is not model:
            raise ValueError(
                f"PruneCallback: expected the model that this callback began with ({owner.name!r}), got "
                f"{model.name!r}; a callback counts the steps of one model: make a new PruneCallback for each model"
            )
        fit = getattr(model, "history", None)
        if fit is not None and fit is self._fit:
            raise ValueError("PruneCallback: expected each callback once in fit(callbacks=...), got this one twice")
        self._owner, self._fit = weakref.ref(model), fit

    def _attach(self, model: Any) -> bool:
        """Finds the variables to prune and gives them masks; returns whether any had none."""
        variables = prunable(model, self.layers)
        new = attach(variables)
        for path, variable in variables.items():
            claim = variable.constraint.claim
            if claim and self._fit is not None and claim[0] is not self and claim[1] is self._fit:
                raise ValueError(
                    f"PruneCallback: expected one callback for each weight, got two for {path}; use one PruneCallback, "
                    "or give each its own layers=..."
                )
            variable.constraint.claim = (self, self._fit)
        self._variables = variables
        if new:
            self._updated_at = None  # the new masks are all ones
        self.sparsity = mask_sparsity(variables)
        return new

    def _resolve(self, first_epoch: int) -> schedules_lib.Schedule:
        steps = self.params.get("steps")
        num_steps = None if steps is None else steps * (self.params["epochs"] - first_epoch)
        schedule = self.schedule
        if schedule is None:
            found = _zero_fraction(self._variables)
            schedule = PolynomialDecay(initial_sparsity=found, final_sparsity=max(0.8, found))
        return schedule.resolve(num_steps)

    def _update(self) -> None:
        """Changes the masks if one of the schedule's steps has come since they were made."""
        if self._active is None or not self._variables:
            return
        due = self._active.last_update(self.step)
        if due is None or due == self._updated_at:
            return
        self.recipe.update(self._variables, self._active.value(due), self._active.final_sparsity)
        self._updated_at = due
        self.sparsity = mask_sparsity(self._variables)

    def _hook(self, model: Any) -> None:
        """Puts a step before the model's train_step, for this fit's first trace, in which the model is built.

        Masks must be there before the optimizer's step is traced, and a model that was never called has no variables
        until its first batch comes.
        """
        own, train_step, fit = model.__dict__.get("train_step"), model.train_step, self._fit

        def train_step_of_built_model(*args: Any, **kwargs: Any) -> Any:
            if not model.built and self._fit is fit:
                with tf.init_scope():  # variables and masks get their values now, not when the trace is over
                    self._build(model, args[0])
            return train_step(*args, **kwargs)

        def unhook() -> None:
            del model.train_step
            if own is not None:
                model.train_step = own

        model.train_step, self._unhook = train_step_of_built_model, unhook

    def _restore_train_step(self) -> None:
        if self._unhook is not None:
            self._unhook()
            self._unhook = None

    def _check_variables(self, model: Any) -> None:
        """After the first step of a fit: every variable to prune had its mask in that step."""
        self._restore_train_step()
        if prunable(model, self.layers).keys() != self._variables.keys():
            error = f" (building it failed: {self._build_error})" if self._build_error else ""
            raise ValueError(
                "PruneCallback: expected all variables before the first training step, but the model made some during "
                f"it; call the model on a batch of data before fit{error}"
            )
        self._checked = True

    def _build(self, model: Any, data: Any) -> None:
        """Builds the model from the shapes of a batch, and makes its masks."""
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        try:
            model(keras.tree.map_structure(_symbolic, x), training=False)
        except Exception as error:  # matters only if variables are missing, as `_check_variables` will see
            self._build_error = error
            return
        self._attach(model)
        self._update()


def _symbolic(value: Any) -> Any:
    """A placeholder of the value's shape and dtype; the model can be built on it without computing anything."""
    if value is None:
        return None
    return keras.KerasTensor(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))


def _zero_fraction(variables: dict[str, Any]) -> float:
    """The fraction of zeros in variables; one that is all zeros is not pruned but has not been trained yet."""
    zeros = size = 0
    for variable in variables.values():
        weights = variable.numpy()
        size += weights.size
        zeros += 0 if not weights.any() else weights.size - np.count_nonzero(weights)
    return zeros / size if size else 0.0
