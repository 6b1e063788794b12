"""Recipes of masks from names, who gathers what they need, and their parts registered with Keras."""

from __future__ import annotations

from typing import Any

import keras

from keras_prune import allocation as allocations
from keras_prune import criteria, objective, patterns, targets
from keras_prune import regrow as regrowing
from keras_prune import schedules as schedules_lib
from keras_prune.masks import Recipe
from keras_prune.objective import scoring
from keras_prune.registry import Value
from keras_prune.regrow import Regrow

for _module in (targets, schedules_lib, criteria, patterns, allocations, regrowing, objective):
    for _value in list(vars(_module).values()):
        if isinstance(_value, type) and issubclass(_value, Value) and _value is not Value:
            keras.saving.register_keras_serializable("keras_prune")(_value)


def recipe_of(criterion: Any, pattern: Any, allocation: Any) -> Recipe:
    """A recipe from objects or their names."""
    return Recipe(criteria.get(criterion), patterns.get(pattern), allocations.get(allocation))


def gatherer(recipe: Recipe, regrow: Regrow | None) -> Any:
    """Who gathers gradients: the criterion, or the way to regrow."""
    criterion = scoring(recipe.criterion)
    if regrow is None:
        return criterion
    regrowing.check_pattern(recipe.pattern)
    if regrow.gathers and getattr(criterion, "gathers", False):
        raise ValueError(
            f"regrow: expected a criterion without gradients, such as 'magnitude', together with {regrow!r}, which "
            f"gathers its own, got criterion={recipe.criterion!r}"
        )
    return regrow if regrow.gathers else criterion
