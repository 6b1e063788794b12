"""Pruning in a hand-written training loop."""

from __future__ import annotations

import weakref
from typing import Any

import keras

from keras_prune.engine import Engine
from keras_prune.gradients import innermost, optimizers_of
from keras_prune.masks import apply_masks, check_model, reset_train_function
from keras_prune.recipes import recipe_of
from keras_prune.schedules import check_step


class Pruner:
    """Prunes a model that a hand-written loop trains.

    ``step()`` after each step of the optimizer counts it, changes masks where the schedule says so, and sets pruned
    weights to zero, whatever moved them. Keras optimizers hold them at zero inside their own step too, if it is traced
    after the pruner is made: make the pruner first, then the ``tf.function``. A criterion that gathers gradients, and
    ``mask_gradients=True``, need the optimizer, and a step ``optimizer.apply(gradients, model.trainable_variables)``.

    The state is saved with the model's weights and taken back if weights with such a state are loaded before the first
    ``step()``.

    Args:
        model: a Keras 3 model that has been built.
        schedule: step -> target sparsity, or its name; None: to 80 % over the first half of `num_steps`.
        num_steps: batches of the whole training, for steps that the schedule leaves open.
        optimizer: what trains the model; None: that of ``model.compile``.
        **options: ``criterion``, ``pattern``, ``allocation``, ``layers``, ``mask_gradients`` and ``regrow``, as
            for `PruneCallback`.

    Raises:
        TypeError: an argument, or the model, is not of the expected kind.
        ValueError: a name or number is wrong, or steps are open and `num_steps` is not given.

    Example:
        >>> import keras, keras_prune, numpy, tensorflow
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10)])
        >>> optimizer = keras.optimizers.Adam()
        >>> pruner = keras_prune.Pruner(model, num_steps=20, optimizer=optimizer)
        >>> for _ in range(20):
        ...     with tensorflow.GradientTape() as tape:
        ...         loss = keras.ops.mean(model(numpy.ones((4, 10))) ** 2)
        ...     optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        ...     pruner.step()
        >>> pruner.finish()
        >>> print(round(pruner.sparsity, 2))
        0.8
    """

    def __init__(
        self, model: Any, schedule: Any = None, *, num_steps: int | None = None, optimizer: Any = None, **options: Any
    ) -> None:
        check_model(model)
        if not model.built and not model.trainable_variables:
            raise ValueError("Pruner: expected a model that has weights, got one not built; call it on a batch of data")
        num_steps = check_step("Pruner.num_steps", num_steps, least=1)
        if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"Pruner.optimizer: expected the Keras optimizer whose apply the loop calls, got {optimizer!r}; leave "
                "it out for one of another kind, and call step() after each of its steps"
            )
        self._engine = _engine(schedule, **options)
        self._engine.adopt(model, self._take_over)
        new = self._engine.attach(model, optimizer)
        optimizers = optimizers_of(model) if optimizer is None else [innermost(optimizer)]
        if self._engine.connect(optimizers) or new:
            reset_train_function(model)
        self._model = model
        self._begun = False  # whether a step has been counted
        self._claim()
        self._begin(num_steps)
        self._engine.update()

    @property
    def sparsity(self) -> float:
        """The fraction of zeros that the masks make."""
        return self._engine.sparsity

    @property
    def steps(self) -> int:
        """Training steps counted so far."""
        return self._engine.step

    def step(self) -> None:
        """Counts a training step, after the optimizer's, and changes masks if it is due."""
        if not self._begun:
            self._begun = True
            self._engine.check_gradients()
        apply_masks(self._engine.variables)
        self._engine.advance(self._engine.step + 1)

    def finish(self) -> None:
        """Ends pruning: masks are applied once more and stay; gradients are left alone, files are plain again."""
        if self._engine.observes:
            reset_train_function(self._model)
        self._engine.finish("Pruner")
        self._engine.release()
        for variable in self._engine.variables.values():
            variable.constraint.claim = None

    def _claim(self) -> None:
        for path, variable in self._engine.variables.items():
            claim = variable.constraint.claim
            other = claim[0]() if claim and isinstance(claim[0], weakref.ref) else None
            if other is not None:
                raise ValueError(
                    f"Pruner: expected one Pruner or PruneCallback for each weight, got two for {path}; call finish() "
                    "of the other one first, or give each its own layers=..."
                )
            variable.constraint.claim = (weakref.ref(self), None)

    def _begin(self, num_steps: int | None) -> None:
        try:
            self._engine.begin(num_steps)
        except ValueError as error:
            if num_steps is not None:
                raise
            raise ValueError(
                f"Pruner: expected num_steps=..., the batches of the whole training, for a schedule that leaves steps "
                f"open, got None: {error}"
            ) from error

    def _take_over(self) -> None:
        if not self._begun:
            self._engine.begin(None)


def _engine(
    schedule: Any,
    *,
    criterion: Any = "magnitude",
    pattern: Any = "unstructured",
    allocation: Any = "uniform",
    layers: Any = None,
    mask_gradients: bool = False,
    regrow: Any = None,
) -> Engine:
    """The engine of these options; wrong names of options are Python's own TypeError."""
    recipe = recipe_of(criterion, pattern, allocation)
    return Engine(schedule, recipe, layers=layers, mask_gradients=mask_gradients, regrow=regrow)
