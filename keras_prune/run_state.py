"""The state of a pruning run as arrays: what `keras_prune.state` saves with a model's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.gradients import Gradients
from keras_prune.state import pack_masks, unpack_mask
from keras_prune.unit_statistics import UnitStatistics


def pack_run(
    header: dict[str, Any],
    variables: Mapping[str, Any],
    *,
    gradients: Gradients,
    statistics: UnitStatistics | None,
) -> dict[str, np.ndarray]:
    """The arrays of a run.

    Args:
        header: numbers for JSON.
        variables: path -> variable with a mask, of which one bit a weight is saved.
        gradients: what was gathered of them.
        statistics: what was gathered of units.
    """
    header = {**header, "shapes": [list(variable.shape) for variable in variables.values()]}
    masks = {path: variable.constraint.mask.numpy() for path, variable in variables.items()}
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **pack_masks(masks)}
    for i, path in enumerate(gradients.sums):
        arrays[f"sum_{i}"] = gradients.sums[path].numpy()
        arrays[f"count_{i}"] = gradients.counts[path].numpy()
    observed = {} if statistics is None else statistics.save()
    return {**arrays, **{f"units_{name}": value for name, value in observed.items()}}


def header_of(arrays: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> dict[str, Any]:
    """The header; raises ValueError if the arrays are of other variables."""
    header = json.loads(arrays["header"].tobytes())
    shapes = [list(variable.shape) for variable in variables.values()]
    if header["shapes"] != shapes:
        raise ValueError(
            f"keras_prune: expected a saved state of the weights that are pruned here, of shapes {shapes}, got one "
            f"of shapes {header['shapes']}; prune the same layers, or remove the backup to begin anew"
        )
    return header


def unpack_run(
    arrays: Mapping[str, np.ndarray],
    variables: Mapping[str, Any],
    *,
    gradients: Gradients,
    statistics: UnitStatistics | None,
) -> None:
    """Gives masks and sums the values of the arrays."""
    for i, variable in enumerate(variables.values()):
        variable.constraint.mask.assign(unpack_mask(arrays[f"mask_{i}"], tuple(variable.shape)))
    for i, path in enumerate(gradients.sums):
        if f"sum_{i}" in arrays:
            gradients.sums[path].assign(arrays[f"sum_{i}"])
            gradients.counts[path].assign(arrays[f"count_{i}"])
    observed = {name.removeprefix("units_"): arrays[name] for name in arrays if name.startswith("units_")}
    if observed and statistics is not None:
        statistics.load(observed)
