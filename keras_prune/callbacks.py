"""Pruning while ``fit`` trains."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_prune.engine import Engine
from keras_prune.gradients import optimizers_of
from keras_prune.masks import (
    Layers,
    Recipe,
    apply_masks,
    check_model,
    one_pass_in,
    reset_train_function,
)
from keras_prune.recipes import recipe_of
from keras_prune.schedules import Schedule


class PruneCallback(keras.callbacks.Callback):
    """Prunes a model while ``fit`` trains it.

    Without arguments: sparsity rises to 80 % of all trainable weights of two dimensions or more (dense, convolution,
    recurrent kernels, embeddings, ...) over the first half of this ``fit``, and the second half fine-tunes the rest.

    The masks change after a batch and before the next one, at the schedule's steps; in between the optimizer's own
    step holds pruned weights at exactly zero, also with ``jit_compile=True`` and ``steps_per_execution > 1`` (the
    masks then change at the end of the execution in which their step falls). A mask is made anew from the weights as
    they are: with the magnitude criterion a pruned weight comes back only where the target falls. The fraction of
    zeros among the weights that it prunes is added to the logs of batches and epochs, and to ``History``, as
    ``sparsity``; of several callbacks, each with layers of its own, the last one's.

    A criterion that gathers gradients makes its first masks when the first batch has been seen. When masks change, the
    optimizer forgets what it remembers (momentum, averages) of weights that are pruned or come back.

    Further calls of ``fit`` with the same callback continue its schedule: steps are counted on, and a ramp that was
    chosen in the first ``fit`` stays. A new callback on a model with zeros begins at the sparsity that it finds, if no
    schedule is given. The masks stay on the model, so that its zeros survive training without a callback, until
    `keras_prune.strip` removes them.

    During ``fit`` the state (step, masks, what was gathered) is saved with the model's weights, so that Keras'
    ``BackupAndRestore`` brings it back in a new process. In a ``fit(initial_epoch=...)`` without such a state the step
    is that of the optimizer, and the masks are where the zeros are.

    Args:
        schedule: step -> target sparsity: a schedule or its name. Steps left open are chosen from this ``fit``.
        criterion: what makes a weight matter: a name, a criterion, or a function weights -> scores.
        pattern: which weights are pruned together.
        allocation: how the target is shared between layers; a dict of sparsities stands for `PerLayer`.
        layers: which to prune: names of layers or weights, regular expressions, or a function of the variable that
            returns a bool; None: all.
        mask_gradients: sets gradients of pruned weights to zero before the optimizer clips them and puts them into its
            momentum. Without it they count there, though they move nothing.
        regrow: `SET` or `RigL`, or a name of theirs: at each change of masks some kept weights give their places to
            pruned ones; None: they keep them.

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
        mask_gradients: bool = False,
        regrow: Any = None,
    ) -> None:
        super().__init__()
        recipe = recipe_of(criterion, pattern, allocation)
        self.engine = Engine(schedule, recipe, layers=layers, mask_gradients=mask_gradients, regrow=regrow)
        self._owner: weakref.ref | None = None  # the model whose steps are counted here
        self._fit: Any = None  # this fit's History, which tells one fit from another
        self._begun = False  # whether this fit's first epoch has begun
        self._epoch_start = 0  # value of `step` when the epoch began
        self._batch_begin = 0  # index in the epoch of the first batch of this execution
        self._build_error: Exception | None = None
        self._unhook: Callable[[], None] | None = None  # gives the model its own train_step back
        self._checked = False  # whether this fit's first step left the variables as they were

    @property
    def schedule(self) -> Schedule | None:
        """The schedule as it was given."""
        return self.engine.schedule

    @property
    def recipe(self) -> Recipe:
        """How masks are made."""
        return self.engine.recipe

    @property
    def step(self) -> int:
        """Batches trained so far, over all fits."""
        return self.engine.step

    @property
    def sparsity(self) -> float:
        """The fraction of zeros that the masks make."""
        return self.engine.sparsity

    # What Keras calls.

    def set_model(self, model: Any) -> None:
        """Takes the model; raises TypeError for one that is not of Keras 3."""
        check_model(model)
        super().set_model(model)
        # Before any callback's on_train_begin, so that BackupAndRestore finds it in either order of callbacks.
        self.engine.adopt(model, fit=getattr(model, "history", False))

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Gives the model its masks, and has its training step compiled anew if it was compiled without them."""
        model = self.model
        self._check_single_use(model)
        self.engine.variables = {}
        self._begun = self._checked = False
        has_variables = model.built or bool(model.trainable_variables)
        new = self.engine.connect(optimizers_of(model))
        if has_variables and self._attach(model):
            new = True
        if new or not model.built:
            if not model.built:
                self._hook(model)
            reset_train_function(model)
        self._come_last(model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Chooses the steps that the schedule leaves open, in the first epoch, and makes the first masks."""
        if not self._begun:
            self._begun = True
            self._begin(epoch)
        self._epoch_start = self.step
        self.engine.update()

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Remembers where an execution of several steps begins."""
        self._batch_begin = batch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts steps and changes masks where the schedule says so."""
        if not self._checked:
            self._check_first_step(self.model)
        # Older Keras 3 gives the first batch of an execution here, newer the last one, so it is counted from the begin.
        # The last execution of an epoch can be shorter than the others.
        done = self._batch_begin + self.model.steps_per_execution
        self.engine.advance(self._epoch_start + min(done, self.params.get("steps") or done))
        if logs is not None:
            logs.update(self.engine.logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Adds the sparsity to the epoch's logs."""
        if logs is not None:
            logs.update(self.engine.logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Applies the masks once more: averaging of weights and restoring of earlier ones undo them after training."""
        self._restore_train_step()
        if self.engine.observes:
            reset_train_function(self.model)  # without what stood before the optimizer
        self.engine.finish("PruneCallback")
        self.engine.release()
        for variable in self.engine.variables.values():
            variable.constraint.claim = variable.constraint.one_pass = None
        self._fit = None

    # How it is done.

    def _begin(self, epoch: int) -> None:
        """Chooses open steps for this fit; or goes on from an earlier run, if there was one before this epoch."""
        steps = self.params.get("steps")
        epochs = self.params["epochs"]
        trained = _iterations(self.model) if epoch and self.engine.variables else 0
        if self.engine.go_on(trained, None if steps is None else steps * epochs):
            return
        self.engine.begin(None if steps is None else steps * (epochs - epoch))

    def _come_last(self, model: Any) -> None:
        """Applies the masks after every other callback's on_train_end too: one may restore weights of before.

        Keras' own History is the last callback that a fit calls, unless the user lists one.
        """
        history = getattr(model, "history", None)
        if history is None:
            return
        on_train_end = history.on_train_end

        def on_train_end_then_mask(logs: dict | None = None) -> None:
            vars(history).pop("on_train_end", None)
            on_train_end(logs)
            apply_masks(self.engine.variables)

        history.on_train_end = on_train_end_then_mask

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
        """Gives the variables to prune their masks, unless another callback has them; returns whether any had none."""
        new = self.engine.attach(model)
        for path, variable in self.engine.variables.items():
            if self._is_taken(variable.constraint.claim):
                raise ValueError(
                    f"PruneCallback: expected one PruneCallback or Pruner for each weight, got two for {path}; use "
                    "one, call finish() of a Pruner that is done, or give each its own layers=..."
                )
            variable.constraint.claim = (self, self._fit)
            variable.constraint.one_pass = one_pass_in(model, variable)
        return new

    def _is_taken(self, claim: tuple[Any, Any] | None) -> bool:
        """Whether a Pruner, or another callback of this fit, changes the mask; callbacks of earlier fits are done."""
        holder, fit = claim or (None, None)
        if isinstance(holder, weakref.ref):
            return holder() is not None
        return holder not in (None, self) and fit is not None and fit is self._fit

    def _hook(self, model: Any) -> None:
        """Puts a step before the model's train_step, for this fit's first trace, in which the model is built.

        Masks must be there before the optimizer's step is traced, and a model that was never called has no variables
        until its first batch comes.
        """
        leftover = model.__dict__.get("train_step")
        if hasattr(leftover, "unhook"):  # of a fit that was interrupted before its first step
            leftover.unhook()
        own, train_step, fit = model.__dict__.get("train_step"), model.train_step, self._fit

        def train_step_of_built_model(*args: Any, **kwargs: Any) -> Any:
            unhook()
            if not model.built and self._fit is fit:
                with tf.init_scope():  # variables and masks get their values now, not when the trace is over
                    self._build(model, args[0])
            return train_step(*args, **kwargs)

        def unhook() -> None:
            if model.__dict__.get("train_step") is not train_step_of_built_model:
                return
            del model.train_step
            if own is not None:
                model.train_step = own

        vars(train_step_of_built_model)["unhook"] = unhook
        model.train_step, self._unhook = train_step_of_built_model, unhook

    def _restore_train_step(self) -> None:
        if self._unhook is not None:
            self._unhook()
            self._unhook = None

    def _check_first_step(self, model: Any) -> None:
        """After the first step of a fit: every variable to prune had its mask in that step."""
        self._restore_train_step()
        if self.engine.missing(model):  # fewer: some were frozen since
            error = f" (building it failed: {self._build_error})" if self._build_error else ""
            raise ValueError(
                "PruneCallback: expected all variables before the first training step, but the model made some during "
                f"it; call the model on a batch of data before fit{error}"
            )
        self.engine.check_gradients()
        self._checked = True

    def _build(self, model: Any, data: Any) -> None:
        """Builds the model from the shapes of a batch, and makes its masks."""
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        try:
            model(keras.tree.map_structure(_symbolic, x), training=False)
        except Exception as error:  # matters only if variables are missing, as `_check_first_step` will see
            self._build_error = error
            return
        self._attach(model)
        self.engine.update()


def _symbolic(value: Any) -> Any:
    """A placeholder of the value's shape and dtype; the model can be built on it without computing anything."""
    if value is None:
        return None
    return keras.KerasTensor(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))


def _iterations(model: Any) -> int:
    """Batches that the model's optimizer has seen, also those whose gradients it only accumulated."""
    for optimizer in optimizers_of(model):
        for variable in optimizer.variables:
            if variable.name == "iteration":
                return int(variable.numpy())
    return 0
