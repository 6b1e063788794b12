"""Masks onto a model at once, and off it again."""

from __future__ import annotations

from typing import Any

from keras_prune.averages import hold_averages
from keras_prune.gradients import Gradients, clear_slots, gather_on, optimizers_of
from keras_prune.kernel_masks import KernelMasks
from keras_prune.masks import (
    Layers,
    Statistic,
    apply_masks,
    check_model,
    mask_constraint,
    named,
    reset_train_function,
)
from keras_prune.objective import scoring
from keras_prune.recipes import recipe_of
from keras_prune.schedules import check_sparsity
from keras_prune.unit_pruning import UnitPruning, make_masks
from keras_prune.unit_statistics import observe_on
from keras_prune.wrappers import unwrap, wrappers


def prune(
    model: Any,
    sparsity: float,
    *,
    criterion: Any = "magnitude",
    pattern: Any = "unstructured",
    allocation: Any = "uniform",
    layers: Layers = None,
    data: Any = None,
) -> Any:
    """Prunes a model in one shot, in place, without training.

    Pruned weights stay zero in every later ``fit`` or ``train_on_batch``, until `strip` removes the masks.

    Args:
        model: a Keras 3 model that has been built.
        sparsity: fraction of zeros among all trainable weights of two dimensions or more, in [0, 1).
        criterion: what makes a weight matter: a name, a criterion, or a function weights -> scores.
        pattern: which weights are pruned together.
        allocation: how the target is shared between layers; a dict stands for `PerLayer`.
        layers: which to prune: names, regular expressions, or a function of the variable; None: all.
        data: for a criterion that gathers gradients, such as ``"taylor"``: (x, y) arrays, or batches of them that end
            (a `tf.data.Dataset`, a `keras.utils.PyDataset`, a list). The loss is that of ``model.compile``.

    Returns:
        The model.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: a sparsity outside [0, 1), an unknown name, a model that is not built, or a criterion that gathers
            gradients without data.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10)])
        >>> print(keras_prune.prune(model, 0.9) is model)
        True
    """
    check_model(model)
    check_sparsity("sparsity", sparsity)
    if not model.trainable_variables and not model.built:
        raise ValueError("prune: expected a model that has weights, got one not built yet; call it on a batch of data")
    recipe = recipe_of(criterion, pattern, allocation)
    masks = make_masks(model, recipe, layers)
    statistic = _gathered(model, masks, criterion=scoring(recipe.criterion), data=data)
    if masks.attach():
        reset_train_function(model)
    steady = masks.update(sparsity, sparsity, statistic)
    optimizers = optimizers_of(model)
    clear_slots(optimizers, model.trainable_variables, steady)
    hold_averages(optimizers)
    return model


def _gathered(model: Any, masks: KernelMasks | UnitPruning, *, criterion: Any, data: Any) -> Statistic:
    """What the criterion gathers on the data at weights; what it gathers at units is kept with their masks."""
    statistics = masks.statistics
    observes = statistics is not None and statistics.needed
    gradients = Gradients(criterion)
    if (observes or masks.gathers) and data is None:
        raise ValueError(
            f"prune: expected data for the criterion {criterion!r}, which looks at gradients or activations, got none; "
            "give prune(..., data=(x, y)), or train with PruneCallback(criterion=...), which gathers them in each step"
        )
    if statistics is not None and observes:
        observe_on(model, statistics, data)
    elif masks.gathers:
        gradients.watch(masks.variables)
        gather_on(model, gradients, data)
    return gradients.statistic


def strip(model: Any) -> Any:
    """Removes the masks of a model, in place: its zeros stay as plain weights, its own constraints come back.

    Further training without masks fills the zeros again. Layers in `Prune` wrappers cannot be exchanged in place: a
    model with wrappers stays as it is, and a new one with the plain layers is returned.

    Args:
        model: a Keras 3 model, with or without masks.

    Returns:
        The model; if it has `Prune` wrappers, a new plain model.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one with `Prune` wrappers.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10)])
        >>> keras_prune.strip(keras_prune.prune(model, 0.9)).weights[0].constraint is None
        True
    """
    check_model(model)
    if wrappers(model):
        return unwrap(model)
    masked = {path: v for path, v in named(model, model.variables).items() if mask_constraint(v) is not None}
    apply_masks(masked)
    for variable in masked.values():
        variable.constraint = variable.constraint.inner
    if masked:
        reset_train_function(model)
    return model
