"""The run of pruning that PruneCallback and Pruner share: masks, schedule, statistics, and the step of them all."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from keras_prune import regrow as regrowing
from keras_prune import schedules as schedules_lib
from keras_prune.averages import Averages, hold_averages
from keras_prune.gradients import Gradients, clear_slots, clips
from keras_prune.kernel_masks import KernelMasks
from keras_prune.masks import Layers, Recipe, apply_masks, prunable, reset_train_function
from keras_prune.recipes import gatherer
from keras_prune.regrow import Regrow
from keras_prune.removal import Removal, make_removal
from keras_prune.run_state import header_of, pack_run, unpack_run
from keras_prune.schedules import Greedy, PolynomialDecay, Schedule
from keras_prune.state import SavedState, add_state, remove_state, states
from keras_prune.unit_pruning import UnitPruning, make_masks
from keras_prune.unit_statistics import UnitStatistics


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
        self.gradients = Gradients(gatherer(recipe, self.regrow), mask=mask_gradients)
        self.variables: dict[str, Any] = {}  # what is pruned; empty until the model has variables
        self.masks: KernelMasks | UnitPruning | None = None  # those of the variables
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
        self._removal: Removal | None = None  # the steps of a greedy schedule

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
        model = self._trained()
        self.disconnect()
        self.release()
        if model is not None and self.observes:
            reset_train_function(model)  # the old one gathers

    @property
    def _statistics(self) -> UnitStatistics | None:
        """What gathers at units, if they are what is pruned."""
        return self.masks.statistics if self.masks is not None else None

    def _trained(self) -> Any:
        """The model, while there is one."""
        return self._model() if self._model is not None else None

    def release(self) -> None:
        """The model's files are plain again."""
        model = self._trained()
        if model is not None and self._state is not None:
            remove_state(model, self._state)

    def attach(self, model: Any, optimizer: Any = None) -> bool:
        """Finds the variables to prune and gives them masks; returns whether the step must be traced anew.

        Args:
            model: a Keras 3 model that has been built.
            optimizer: what trains it; None: that of ``model.compile``.
        """
        masks = make_masks(model, self.recipe, self.layers)
        if isinstance(masks, UnitPruning):
            masks.check_regrow(self.regrow)
            masks.take_over(self.masks)
        new = masks.attach()
        self.masks, self.variables = masks, masks.variables
        if new:
            self._updated_at = None  # the new masks are all ones
        self.sparsity = masks.sparsity
        if self._removal is not None and isinstance(masks, UnitPruning):
            self._removal.masks = masks
        elif self._removal is None and isinstance(self.active, Greedy):
            self._check_schedule()
        return self._gather(model, masks, optimizer) or new

    def _gather(self, model: Any, masks: KernelMasks | UnitPruning, optimizer: Any) -> bool:
        """Has statistics gathered where the criterion wants them; returns whether the step must be traced anew."""
        self.gradients.gathers = masks.gathers or (self.regrow is not None and self.regrow.gathers)
        self.gradients.watch(self.variables, masks.followers)
        if masks.statistics is None or not masks.statistics.needed:
            return False
        masks.statistics.connect(model, optimizer)
        return True

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
            self._choose(num_steps, self.masks.zero_fraction if self.masks is not None else 0.0)

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
        masks = self.masks
        sparse = masks is not None and masks.zero_fraction > 0
        if not sparse and (self.schedule is None or self.schedule.begin_step is None):
            return False
        self._choose(num_steps, 0.0)
        self.step = step
        if masks is not None and sparse:
            if not self.sparsity:
                masks.prune_zeros()
            self.sparsity = masks.sparsity
            self._updated_at = self.active.last_update(step) if self.active else None
        return True

    def update(self) -> None:
        """Changes the masks if one of the schedule's steps has come since they were made."""
        if self.active is None or not self.variables:
            return
        due = self.active.last_update(self.step)
        if due is None or due == self._updated_at:
            return
        if not self._ready():
            return  # the first gradients come with the next batch
        if self._removal is None:
            self.change(self.active.value(due))
        elif not self._removal.done:
            self._remove(self._removal)
        self._updated_at = due

    def change(self, sparsity: float) -> None:
        """Makes the masks anew for a target sparsity, and clears the optimizer's slots of what has changed."""
        assert self.masks is not None  # `attach` has made them
        final = self.active.final_sparsity if self.active is not None else sparsity
        steady = self.masks.update(sparsity, final, self.gradients.statistic)
        if self.regrow is not None and isinstance(self.masks, KernelMasks):
            self._regrow(self.regrow, self.masks, steady)
        self._updated(steady)

    def _regrow(self, regrow: Regrow, masks: KernelMasks, steady: dict[int, np.ndarray]) -> None:
        """Lets kept weights change places with pruned ones; `steady` is brought up to date."""
        begin, end = (self.active.begin_step, self.active.end_step) if self.active is not None else (None, None)
        done = 0.0 if begin is None or end is None else (self.step - begin) / max(1, end - begin)
        for key, keep in masks.regrow(regrow, self.gradients.statistic, done=done, step=self.step).items():
            steady[key] = steady.get(key, keep) & keep

    def _remove(self, removal: Removal) -> None:
        """Prunes the units that a greedy schedule takes next."""
        assert isinstance(self.masks, UnitPruning)  # `_choose` has seen to it
        before = self.masks.kept
        steady = self.masks.set(removal.next(self.masks.scores(self.gradients.statistic)))
        removal.removed(before)
        self._updated(steady)

    @property
    def logs(self) -> dict[str, float]:
        """What is reported of a training step."""
        return {"sparsity": self.sparsity, **({} if self._removal is None else self._removal.logs)}

    def _updated(self, steady: dict[int, np.ndarray]) -> None:
        """Masks have changed: slots of what is not steady are cleared, and statistics begin anew."""
        assert self.masks is not None
        model = self._trained()
        if steady and model is not None:
            clear_slots(self._optimizers, model.trainable_variables, steady)
        self.gradients.updated()
        if self._statistics is not None:
            self._statistics.updated()
        self.sparsity = self.masks.sparsity

    def advance(self, step: int) -> None:
        """Training has come to this step: changes masks if due, and keeps averages of weights as sparse as these."""
        self.step = step
        self.update()
        model = self._trained()
        if model is not None:
            self._averages.mask(self._optimizers, model)

    def _ready(self) -> bool:
        """Whether what the criterion gathers has come by since the last change of masks."""
        statistics = self._statistics
        if statistics is not None and statistics.needed and not statistics.ready:
            return False
        return not self.gradients.gathers or self.gradients.ready

    def missing(self, model: Any) -> set[str]:
        """Paths of variables that should be pruned and have no mask: the model has made them since."""
        if isinstance(self.masks, UnitPruning):
            return set()  # traced models are built
        return prunable(model, self.layers).keys() - self.variables.keys()

    def check_gradients(self) -> None:
        """Raises ValueError if what is gathered did not come by in the first step."""
        if self._statistics is not None:
            self._statistics.check()
        missing = self.variables.keys() - self.gradients.seen if self.gradients.needed else None
        if missing:
            raise ValueError(
                f"keras_prune: expected the gradients of all pruned weights in each training step, got none of "
                f"{', '.join(sorted(missing))}; they are taken in the optimizer's apply: give the optimizer that "
                "trains them (Pruner(model, optimizer=...)), trace the training step after that, or leave out the "
                "weights that are not trained (layers=...)"
            )

    @property
    def observes(self) -> bool:
        """Whether the traced training step holds anything that gathers."""
        statistics = self._statistics
        return self.gradients.needed or (statistics is not None and statistics.needed)

    def disconnect(self) -> None:
        """Nothing gathers in steps that are traced from now on."""
        self.gradients.disconnect()
        if self._statistics is not None:
            self._statistics.disconnect()

    def finish(self, name: str) -> None:
        """Applies the masks once more, and says if training has ended too early."""
        self.disconnect()
        apply_masks(self.variables)
        active = self.active
        if self._removal is not None:
            self._removal.warn(name, self.step)
        if active is not None and (active.end_step or 0) > self.step:
            logging.warning(
                "%s: training ended after step %d, before the schedule's end_step=%d; sparsity is %.4f of the final "
                "%.4f. Train longer (another fit with this callback continues), or give a smaller end_step.",
                *(name, self.step, active.end_step, self.sparsity, active.final_sparsity),
            )

    def save(self) -> dict[str, np.ndarray]:
        """The state: step, plan, masks (one bit a weight) and what was gathered; empty before training."""
        if self.active is None or self.masks is None or not self.variables:
            return {}
        num_steps, found = self._plan
        header = {"step": self.step, "num_steps": num_steps, "found": found, "updated_at": self._updated_at}
        return pack_run(header, self.variables, gradients=self.gradients, statistics=self.masks.statistics)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on from a state that was saved; raises ValueError if it is that of another model."""
        header = header_of(arrays, self.variables)
        self._choose(header["num_steps"], header["found"])
        self.step, self._updated_at = header["step"], header["updated_at"]
        unpack_run(arrays, self.variables, gradients=self.gradients, statistics=self._statistics)
        self._applied()

    def _applied(self) -> None:
        """Sets what the masks prune to zero, and looks at what they leave."""
        if self.masks is not None:
            self.masks.apply()
            self.sparsity = self.masks.sparsity
        if self._removal is not None:
            self._removal.look()

    def _check_schedule(self) -> None:
        """Raises ValueError for a target that cannot be met: now, not in the middle of the training."""
        if self.masks is None or self.active is None:
            return
        if isinstance(self.active, Greedy):
            self._removal = make_removal(self._trained(), self.masks, self.active)
        else:
            self.masks.check_target(self.active.final_sparsity)

    def _choose(self, num_steps: int | None, found: float) -> None:
        schedule = self.schedule
        if schedule is None:
            most = min(0.8, self.recipe.pattern.max_sparsity)
            schedule = PolynomialDecay(initial_sparsity=found, final_sparsity=max(most, found))
        self.active = schedule.resolve(num_steps)
        self._check_schedule()
        self._plan = (num_steps, found)
