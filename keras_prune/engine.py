"""The run of pruning that PruneCallback and Pruner share: masks, schedule, statistics, and the step of them all."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import logging

from keras_prune import allocation as allocations
from keras_prune import criteria, patterns
from keras_prune import regrow as regrowing
from keras_prune import schedules as schedules_lib
from keras_prune.averages import Averages, hold_averages
from keras_prune.followers import attach_followers
from keras_prune.gradients import Gradients, clear_slots, clips
from keras_prune.layer_axes import set_output_axes
from keras_prune.masks import (
    Layers,
    Recipe,
    apply_masks,
    attach,
    mask_sparsity,
    masks_from_zeros,
    prunable,
    reset_train_function,
)
from keras_prune.registry import Value
from keras_prune.regrow import Regrow
from keras_prune.schedules import PolynomialDecay, Schedule
from keras_prune.state import SavedState, add_state, pack_masks, remove_state, states, unpack_mask

for _module in (schedules_lib, criteria, patterns, allocations, regrowing):
    for _value in list(vars(_module).values()):
        if isinstance(_value, type) and issubclass(_value, Value) and _value is not Value:
            keras.saving.register_keras_serializable("keras_prune")(_value)


class Engine:
    """The masks of one model, the schedule that changes them, and the step that it has come to.

    Args:
        schedule: step -> target sparsity; None: to 80 % over half of the training.
        recipe: how masks are made.
        layers: which to prune.
        mask_gradients: whether gradients of pruned weights are set to zero.
        regrow: how kept weights give their places to pruned ones; None: they keep them.

    Raises:
        ValueError: a schedule beyond the pattern, or a way to regrow that the pattern or the criterion forbids.
    """

    def __init__(
        self,
        schedule: Any,
        recipe: Recipe,
        *,
        layers: Layers = None,
        mask_gradients: bool = False,
        regrow: Any = None,
    ) -> None:
        self.schedule = None if schedule is None else schedules_lib.get(schedule)
        self.recipe = recipe
        self.layers = layers
        self.regrow = None if regrow is None else regrowing.get(regrow)
        self.gradients = Gradients(_gatherer(recipe, self.regrow), mask=mask_gradients)
        self.variables: dict[str, Any] = {}  # what is pruned; empty until the model has variables
        self.active: Schedule | None = None  # the schedule with every step chosen
        self.step = 0  # batches trained so far
        self.sparsity = 0.0  # fraction of zeros that the masks make
        self._mask_gradients = mask_gradients
        self._plan: tuple[int | None, float] = (None, 0.0)  # what open steps were chosen from
        self._updated_at: int | None = None  # the schedule's step that the masks belong to
        self._model: weakref.ref | None = None
        self._state: SavedState | None = None
        self._optimizers: list[Any] = []
        self._averages = Averages()
        self._warned = False

    def adopt(self, model: Any, arrived: Callable[[], None] | None = None, *, fit: Any = None) -> None:
        """From now on the state of this run is saved with the model's weights, and loaded with them.

        Args:
            model: the model.
            arrived: called when a state has been loaded, which `begin` then takes over.
            fit: the `History` of the fit that begins, or another sign of it; what an earlier one that was interrupted
                has left on the model goes. None: it stays until `release`.
        """
        self.release()
        for state in states(model):
            if state.leave is not None and state.fit is not None and state.fit is not fit:
                state.leave()
        self._model = weakref.ref(model)
        self._state = add_state(model, self.save, arrived)
        self._state.fit, self._state.leave = fit, self._leave

    def _leave(self) -> None:
        """Takes off the model what this run has put there, but for the masks."""
        model = self._model() if self._model is not None else None
        self.gradients.disconnect()
        self.release()
        if model is not None and self.gradients.needed:
            reset_train_function(model)  # the old one gathers

    def release(self) -> None:
        """The model's files are plain again."""
        model = self._model() if self._model is not None else None
        if model is not None and self._state is not None:
            remove_state(model, self._state)

    def attach(self, model: Any) -> bool:
        """Finds the variables to prune and gives them masks; returns whether any had none."""
        variables = prunable(model, self.layers)
        new = attach(variables)
        set_output_axes(model, variables)
        new |= attach_followers(model, variables, self.recipe.pattern)
        self.variables = variables
        self.gradients.watch(variables)
        if new:
            self._updated_at = None  # the new masks are all ones
        self.sparsity = mask_sparsity(variables)
        return new

    def connect(self, optimizers: list[Any]) -> bool:
        """Stands before these optimizers' steps if need be; returns whether they must be traced anew."""
        clipping = next(filter(None, map(clips, optimizers)), None)
        if clipping and not self._mask_gradients and not self._warned:
            self._warned = True
            logging.warning(
                "keras_prune: the optimizer clips gradients (%s), and those of pruned weights count in it, and in its "
                "momentum, though they move nothing; give mask_gradients=True to leave them out.",
                clipping,
            )
        self._optimizers = optimizers
        hold_averages(optimizers)
        self.gradients.connect(optimizers)
        return self.gradients.needed

    def begin(self, num_steps: int | None) -> None:
        """Goes on from a state that was loaded with the weights, or chooses the steps that the schedule leaves open.

        Args:
            num_steps: batches of this training; None: not known.
        """
        loaded = self._state.take() if self._state is not None else None
        if loaded:
            self.load(loaded)
        elif self.active is None:
            self._choose(num_steps, _zero_fraction(self.variables))

    def go_on(self, step: int, num_steps: int | None) -> bool:
        """Goes on from weights that an earlier run has left, without its state; returns False if there was none.

        A model without zeros whose schedule begins where training does has only been trained, not pruned, before.

        Args:
            step: batches that it trained.
            num_steps: batches of both together; None: not known.
        """
        has_state = self._state is not None and self._state.loaded
        if has_state or self.active is not None or not step:
            return False
        sparse = _zero_fraction(self.variables) > 0
        if not sparse and (self.schedule is None or self.schedule.begin_step is None):
            return False
        self._choose(num_steps, 0.0)
        self.step = step
        if sparse:
            if not self.sparsity:
                masks_from_zeros(self.variables)
            self.sparsity = mask_sparsity(self.variables)
            self._updated_at = self.active.last_update(step) if self.active else None
        return True

    def update(self) -> None:
        """Changes the masks if one of the schedule's steps has come since they were made."""
        if self.active is None or not self.variables:
            return
        due = self.active.last_update(self.step)
        if due is None or due == self._updated_at:
            return
        if self.gradients.gathers and not self.gradients.ready:
            return  # the first gradients come with the next batch
        self.change(self.active.value(due))
        self._updated_at = due

    def change(self, sparsity: float) -> None:
        """Makes the masks anew for a target sparsity, and clears the optimizer's slots of what has changed."""
        final = self.active.final_sparsity if self.active is not None else sparsity
        steady = self.recipe.update(self.variables, sparsity, final_sparsity=final, statistic=self.gradients.statistic)
        if self.regrow is not None:
            self._regrow(self.regrow, steady)
        model = self._model() if self._model is not None else None
        if steady and model is not None:
            clear_slots(
                self._optimizers, model.trainable_variables, {id(self.variables[p]): k for p, k in steady.items()}
            )
        self.gradients.updated()
        self.sparsity = mask_sparsity(self.variables)

    def advance(self, step: int) -> None:
        """Training has come to this step: changes masks if due, and keeps averages of weights as sparse as these."""
        self.step = step
        self.update()
        model = self._model() if self._model is not None else None
        if model is not None:
            self._averages.mask(self._optimizers, model)

    def check_gradients(self) -> None:
        """Raises ValueError if gradients of some variable did not come by in the first step."""
        missing = self.variables.keys() - self.gradients.seen if self.gradients.needed else None
        if missing:
            raise ValueError(
                f"keras_prune: expected the gradients of all pruned weights in each training step, got none of "
                f"{', '.join(sorted(missing))}; they are taken in the optimizer's apply: give the optimizer that "
                "trains them (Pruner(model, optimizer=...)), trace the training step after that, or leave out the "
                "weights that are not trained (layers=...)"
            )

    def finish(self, name: str) -> None:
        """Applies the masks once more, and says if training has ended too early."""
        self.gradients.disconnect()
        apply_masks(self.variables)
        active = self.active
        if active is not None and (active.end_step or 0) > self.step:
            logging.warning(
                "%s: training ended after step %d, before the schedule's end_step=%d; sparsity is %.4f of the final "
                "%.4f. Train longer (another fit with this callback continues), or give a smaller end_step.",
                *(name, self.step, active.end_step, self.sparsity, active.final_sparsity),
            )

    # What is saved with the weights.

    def save(self) -> dict[str, np.ndarray]:
        """The state: step, plan, masks (one bit a weight) and what was gathered; empty before training."""
        if self.active is None or not self.variables:
            return {}
        num_steps, found = self._plan
        header = {"step": self.step, "num_steps": num_steps, "found": found, "updated_at": self._updated_at}
        header["shapes"] = [list(v.shape) for v in self.variables.values()]  # type: ignore[assignment]
        masks = {path: v.constraint.mask.numpy() for path, v in self.variables.items()}
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **pack_masks(masks)}
        for i, path in enumerate(self.gradients.sums):
            arrays[f"sum_{i}"] = self.gradients.sums[path].numpy()
            arrays[f"count_{i}"] = self.gradients.counts[path].numpy()
        return arrays

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on from a state that was saved; raises ValueError if it is that of another model."""
        header = json.loads(arrays["header"].tobytes())
        shapes = [list(v.shape) for v in self.variables.values()]
        if header["shapes"] != shapes:
            raise ValueError(
                f"keras_prune: expected a saved state of the weights that are pruned here, of shapes {shapes}, got one "
                f"of shapes {header['shapes']}; prune the same layers, or remove the backup to begin anew"
            )
        self._choose(header["num_steps"], header["found"])
        self.step, self._updated_at = header["step"], header["updated_at"]
        for i, variable in enumerate(self.variables.values()):
            variable.constraint.mask.assign(unpack_mask(arrays[f"mask_{i}"], tuple(variable.shape)))
        for i, path in enumerate(self.gradients.sums):
            if f"sum_{i}" in arrays:
                self.gradients.sums[path].assign(arrays[f"sum_{i}"])
                self.gradients.counts[path].assign(arrays[f"count_{i}"])
        apply_masks(self.variables)
        self.sparsity = mask_sparsity(self.variables)

    def _regrow(self, regrow: Regrow, steady: dict[str, np.ndarray]) -> None:
        """Lets kept weights change places with pruned ones; `steady` is brought up to date."""
        begin, end = (self.active.begin_step, self.active.end_step) if self.active is not None else (None, None)
        done = 0.0 if begin is None or end is None else (self.step - begin) / max(1, end - begin)
        for path, variable in self.variables.items():
            old, weights = variable.constraint.mask.numpy(), variable.numpy().astype(np.float32)
            new = regrow.update(
                old,
                weights,
                self.gradients.statistic(path) if regrow.gathers else None,
                fraction=regrow.fraction_at(done),
                pattern=self.recipe.pattern.of(variable.constraint.output_axes),
                seed=(path, self.step),
            )
            if not np.array_equal(old, new):
                variable.constraint.mask.assign(new)
                steady[path] = steady.get(path, old.view(bool)) & new.view(bool)
        apply_masks(self.variables)

    def _choose(self, num_steps: int | None, found: float) -> None:
        schedule = self.schedule
        if schedule is None:
            most = min(0.8, self.recipe.pattern.max_sparsity)
            schedule = PolynomialDecay(initial_sparsity=found, final_sparsity=max(most, found))
        self.active = schedule.resolve(num_steps)
        final, allocation = self.active.final_sparsity, self.recipe.allocation
        shapes = {path: tuple(variable.shape) for path, variable in self.variables.items()}
        layers = allocations.known_sparsities(allocation, shapes, final).values() if shapes else ()
        same = [final] if isinstance(allocation, (allocations.Uniform, allocations.Global)) else []
        for sparsity in (*same, *layers):
            self.recipe.pattern.check_sparsity(sparsity)  # now, not in the middle of the training
        self._plan = (num_steps, found)


def _gatherer(recipe: Recipe, regrow: Regrow | None) -> Any:
    """Who gathers gradients: the criterion, or the way to regrow."""
    if regrow is None:
        return recipe.criterion
    regrowing.check_pattern(recipe.pattern)
    if regrow.gathers and getattr(recipe.criterion, "gathers", False):
        raise ValueError(
            f"regrow: expected a criterion without gradients, such as 'magnitude', together with {regrow!r}, which "
            f"gathers its own, got criterion={recipe.criterion!r}"
        )
    return regrow if regrow.gathers else recipe.criterion


def recipe_of(criterion: Any, pattern: Any, allocation: Any) -> Recipe:
    """A recipe from objects or their names."""
    return Recipe(criteria.get(criterion), patterns.get(pattern), allocations.get(allocation))


def _zero_fraction(variables: dict[str, Any]) -> float:
    """The fraction of zeros in variables; one that is all zeros is not pruned but has not been trained yet."""
    zeros = size = 0
    for variable in variables.values():
        weights = variable.numpy()
        size += weights.size
        zeros += 0 if not weights.any() else weights.size - np.count_nonzero(weights)
    return zeros / size if size else 0.0
