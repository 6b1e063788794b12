"""A FULLY_CONNECTED becomes one custom operator that computes on packed weights (docs/format.md)."""

from __future__ import annotations

from typing import Any

from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import packed as target
from keras_prune_export.targets.fully_connected import Options
from keras_prune_export.transformations.constants import Reader, View
from keras_prune_export.transformations.packed_operator import checks, first_problem, replace, tensors_of


def why_not_computed(model: Any, reader: Reader) -> str:
    """Why one FULLY_CONNECTED cannot compute on packed weights; empty when it can.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
    """
    tensors, options = tensors_of(model, reader), reader.op.builtinOptions
    if tensors is None:
        return "it has other inputs or outputs than expected"
    own = {
        "its weights are not a matrix": len(tensors.shape) == 2 and min(tensors.shape) >= 1,
        "its options are another operator's": options is None or isinstance(options, schema.FullyConnectedOptionsT),
        "its weights are shuffled": not getattr(options, "weightsFormat", 0),
    }
    return first_problem(checks(tensors, options) | own)


def pack_fully_connected(model: Any, view: View, packed: bytes) -> None:
    """Turns the operators that read a view into custom ones on packed weights.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        view: weights that only FULLY_CONNECTED operators read.
        packed: the bytes that take their place.
    """
    replace(model, view, packed, name=target.COMPUTE, options=_options)


def _options(options: Any) -> bytes:
    activation, keep = getattr(options, "fusedActivationFunction", 0), getattr(options, "keepNumDims", 0)
    return Options(activation, bool(keep)).to_bytes()
