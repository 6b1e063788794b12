"""Finds pruned weights that stay dense although they are pruned: nobody should wait for a speed that does not come."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.pack_fully_connected import Choice

_KINDS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def pruned_but_dense(
    model: Any, choices: list[Choice], *, min_sparsity: float
) -> list[tuple[str, tuple[int, ...], str]]:
    """Lists pruned weights that stay dense for another reason than that packing does not make them smaller.

    Args:
        model: ``ModelT`` object, not packed yet.
        choices: what `pack_fully_connected.choose` decided for it.
        min_sparsity: weights are pruned when at least this fraction is exactly zero, 0 to 1; 0 stands for a half.

    Returns:
        Name, shape and reason of each.
    """
    decided = {site.buffer: choice for choice in choices for site in choice.sites}
    constants = flatbuffer.float_constants(model)
    pruned = {buffer for buffer, values in constants.items() if _is_pruned(values, min_sparsity or 0.5)}
    found = {}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            for tensor in (graph.tensors[index] for index in flatbuffer.indices(op.inputs) if index >= 0):
                if tensor.buffer in pruned:
                    reason = _reason(decided.get(tensor.buffer), flatbuffer.builtin_code(model, op), min_sparsity)
                    shape = tuple(flatbuffer.indices(tensor.shape))
                    found[tensor.buffer] = (flatbuffer.text(tensor.name), shape, reason)
    return [entry for entry in found.values() if entry[2]]


def _is_pruned(values: np.ndarray, min_sparsity: float) -> bool:
    """Matrices and kernels only; what is all zero is a start value, not a weight."""
    kept = np.count_nonzero(values)
    return bool(values.ndim >= 2 and kept > 0 and values.size - kept >= min_sparsity * values.size)


def _reason(choice: Choice | None, kind: int, min_sparsity: float) -> str:
    """Empty for weights that are packed, and for those whose packed form would not be smaller."""
    if choice is None:
        return f"{_KINDS.get(kind, 'its operator')} is not packed, only FULLY_CONNECTED is"
    return choice.reason if choice.values is None else target.why_not(choice.values, min_sparsity)
