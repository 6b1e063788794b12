"""What is gathered of units inside the training step, so that a criterion can score them: no second pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from keras_prune.gradients import for_each_batch, innermost, optimizers_of, stand_before
from keras_prune.masks import scope_of
from keras_prune.unit_activations import Activations, Observer
from keras_prune.unit_gates import Gates
from keras_prune.unit_memory import ExampleMemory

if TYPE_CHECKING:
    from keras_prune.graph import Group, Site


class UnitStatistics:
    """Gathers what a criterion observes of units, as part of every training step that is traced while connected.

    It works with ``jit_compile``, mixed precision (gradients come divided by the loss scale; what overflows is left
    out), ``steps_per_execution``, gradient accumulation, a user's own ``train_step`` and several replicas (each
    observes its part of the batch). Of a layer that is called several times in one call of the model, what is observed
    of an example is added up.

    Args:
        criterion: what makes a unit matter.
        groups: whose units are scored.

    Raises:
        ValueError: the criterion observes activations, and a group has no layer where they can be observed.

    Example:
        >>> import numpy as np
        >>> from keras_prune.criteria import Magnitude
        >>> UnitStatistics(Magnitude(), []).needed
        False
    """

    def __init__(self, criterion: Any, groups: Sequence[Group]) -> None:
        self._criterion = criterion
        self._observers: dict[tuple[int, int], Observer] = {}
        self._gates: dict[str, Gates] = {}  # name of a group -> its gates
        self._undo: list[Callable[[], None]] = []
        for group in groups:
            way = _way(criterion, group)
            with scope_of(group.kernels[0].variable):
                if way == "gates":
                    self._gates[group.name] = Gates(criterion, group)
                for site in group.sites if way == "sites" else ():
                    if _key(site) not in self._observers:  # groups may share a layer, each some of its units
                        self._observers[_key(site)] = Observer(criterion, site)
        self._activations = Activations(criterion, list(self._observers.values()))

    @property
    def needed(self) -> bool:
        """Whether anything is gathered at all; if not, `connect` does nothing."""
        return bool(self._observers or self._gates)

    @property
    def needs_loss(self) -> bool:
        """Whether the model must be compiled with a loss."""
        return self.needed and self._criterion.observes != "activations"

    def connect(self, model: Any, optimizer: Any = None) -> None:
        """Gathers in every training step that is traced from now on; the caller resets the train function.

        Args:
            model: whose units are scored.
            optimizer: what trains it; None: that of ``model.compile``, and others that it holds.
        """
        self.disconnect()
        outer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
        if self._observers:
            self._undo += self._activations.connect(model, lambda: 1.0 if outer is None else outer.scale_loss(1.0))
        if self._gates:
            self._find_shifts(model)
            optimizers = optimizers_of(model) if optimizer is None else [innermost(optimizer)]
            self._undo += [stand_before(each, self._before_apply(each)) for each in optimizers]
        for member in self._members:
            member.seen = False

    def disconnect(self) -> None:
        """Leaves layers and optimizers as they were; steps that are traced already keep what they have."""
        while self._undo:
            self._undo.pop()()

    @property
    def ready(self) -> bool:
        """Whether something was gathered of every unit, so that the criterion can score."""
        return all(member.memory.count > 0 for member in self._members)

    def check(self) -> None:
        """Raises ValueError if some units were not observed in the training step that was traced last."""
        missing = sorted({member.name for member in self._members if not member.seen})
        if missing:
            raise ValueError(
                f"{type(self._criterion).__name__}: expected gradients at all units to prune in each training step, "
                f"got none at {', '.join(missing)}; none come where the loss does not depend on a layer, where it and "
                "all before it were frozen when the model was made, or in a step that was traced before: make the "
                "train function anew, protect such layers (Channel(protected=...)), or take a criterion that looks at "
                "weights, such as 'magnitude'"
            )

    def updated(self) -> None:
        """The masks have changed: what was gathered is forgotten, if the criterion says so."""
        if getattr(self._criterion, "resets", True):
            for member in self._members:
                member.memory.clear()

    def statistic(self, site: Site) -> np.ndarray | None:
        """What the criterion makes of the activations at a site, (dim,), float32; None if none were observed."""
        observer = self._observers.get(_key(site))
        if observer is None or not observer.memory.count:
            return None
        if isinstance(observer.memory, ExampleMemory):
            return self._criterion.score_examples(*observer.memory.examples)
        return observer.memory.mean

    def gates(self, group: Group) -> np.ndarray | None:
        """What was gathered from the gradients of a group's weights, (units,), float32; None if nothing was."""
        gates = self._gates.get(group.name)
        return gates.memory.mean if gates is not None and gates.memory.count else None

    def save(self) -> dict[str, np.ndarray]:
        """The state, for `load` in another process with the same groups."""
        return {f"{i}_{name}": value for i, m in enumerate(self._members) for name, value in m.memory.save().items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from a state."""
        for i, member in enumerate(self._members):
            member.memory.load({name: state[f"{i}_{name}"] for name in member.memory.save()})

    def observe(self, model: Any, batch: Any) -> None:
        """Gathers from one batch, (x, y, sample_weight), without training; part of the graph."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if self._criterion.observes == "activations":
            self._activations.observe(model, x, y)
            return
        self._find_shifts(model)
        weights = {v.path: v.value for v in model.variables if "float" in str(v.dtype)}
        undo = self._activations.connect(model, lambda: 1.0)
        try:
            with tf.GradientTape() as tape:
                tape.watch(weights)  # frozen ones too
                loss = model.compute_loss(x, y, model(x, training=False), sample_weight)
            gradients = tape.gradient(loss, weights)
        finally:
            while undo:
                undo.pop()()
        self._gather({id(v): gradients.get(v.path) for v in model.variables})

    @property
    def _members(self) -> list[Any]:
        return [*self._observers.values(), *self._gates.values()]

    def _find_shifts(self, model: Any) -> None:
        for gates in self._gates.values():
            gates.find_shifts(model)

    def _gather(self, gradients: Mapping[int, Any]) -> None:
        for gates in self._gates.values():
            gates.gather(gradients)

    def _before_apply(self, optimizer: Any) -> Callable[..., Any]:
        def gather(apply: Callable[..., Any], grads: Any, trainable_variables: Any) -> Any:
            if trainable_variables is None:
                raise ValueError(
                    "optimizer.apply: expected gradients and their variables while units are scored, got gradients "
                    "alone; call optimizer.apply(gradients, model.trainable_variables)"
                )
            grads, variables, scale = list(grads), list(trainable_variables), optimizer.loss_scale_factor
            unscaled = [g if g is None or scale is None else g / scale for g in grads]
            self._gather({id(form): g for v, g in zip(variables, unscaled, strict=True) for form in (v, v.value)})
            return apply(grads, variables)

        return gather


def observe_on(model: Any, statistics: UnitStatistics, data: Any) -> None:
    """Gathers on data, without training. The model computes as in inference.

    Args:
        model: compiled with a loss, unless the criterion observes activations alone.
        statistics: of its units; not connected.
        data: (x, y) or (x, y, sample_weight) of arrays, taken in batches of 32; or batches of these that end.

    Raises:
        ValueError: the model is not compiled with the loss that the criterion needs, or there is no data.
    """
    if not statistics.needed:
        return
    if statistics.needs_loss and getattr(model, "loss", None) is None:
        raise ValueError(
            "data: expected a model that is compiled with a loss, whose gradients are gathered on the data; call "
            "model.compile(loss=...)"
        )
    step = tf.function(lambda batch: statistics.observe(model, batch), reduce_retracing=True, autograph=False)
    for_each_batch(data, step)
    statistics.check()


def gathers_weights(criterion: Any) -> bool:
    """Whether units are scored by what `keras_prune.gradients.Gradients` gathers of each weight, and then pooled."""
    return bool(getattr(criterion, "gathers", False)) and getattr(criterion, "observes", None) is None


def _way(criterion: Any, group: Group) -> str | None:
    """Where a group is observed: ``"sites"``, ``"gates"`` or nowhere."""
    observes = getattr(criterion, "observes", None)
    if observes is None:
        return None
    if observes == "gates" and group.scales and len(group.scales) >= len(group.sites):  # each member has its gate
        return "gates"
    if group.sites:
        return "sites"
    if observes == "activations":
        raise ValueError(
            f"{type(criterion).__name__}: expected a layer whose output shows the units of {group.name}, which it has "
            f"not; protect them (Channel(protected=({group.kernels[0].layer!r},))), or take a criterion that looks at "
            "weights or gradients, such as 'magnitude' or 'taylor'"
        )
    return "gates"


def _key(site: Site) -> tuple[int, int]:
    return id(site.layer), site.axis
