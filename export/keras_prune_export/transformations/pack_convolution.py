"""A CONV_2D becomes one custom operator that computes on packed weights (docs/format.md)."""

from __future__ import annotations

from typing import Any

from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.targets import convolution
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations.constants import Reader, View
from keras_prune_export.transformations.packed_operator import checks, first_problem, replace, tensors_of

# Patches of fewer channels are copied in pieces too small to gain anything: the first layers of most networks.
_FEWEST_CHANNELS = 16
_PADDINGS = {schema.Padding.SAME: "same", schema.Padding.VALID: "valid"}


def why_not_computed(model: Any, reader: Reader) -> str:
    """Why one CONV_2D cannot compute on packed weights; empty when it can.

    Args:
        model: ``ModelT`` object.
        reader: the operator's weights.
    """
    tensors, options = tensors_of(model, reader), reader.op.builtinOptions
    if tensors is None:
        return "it has other inputs or outputs than expected"
    if not isinstance(options, schema.Conv2DOptionsT):
        return "its options are another operator's"
    seen, shape = flatbuffer.indices(tensors.x.shape), tensors.shape
    own = {
        "its weights do not have four axes": len(shape) == 4 and min(shape) >= 1,
        "its images do not have four axes": len(seen) == 4,
        "it is a grouped convolution": seen[3:] == shape[3:],
        f"dense kernels are faster for patches of several pixels and fewer than {_FEWEST_CHANNELS} channels": (
            shape[1:3] == [1, 1] or shape[3:] >= [_FEWEST_CHANNELS]
        ),
        "its padding is neither same nor valid": options.padding in _PADDINGS,
        f"its kernel, strides or dilations are not from 1 to {convolution.LARGEST}": all(
            1 <= size <= convolution.LARGEST for size in [*shape[1:3], *_strides(options), *_dilations(options)]
        ),
    }
    return first_problem(checks(tensors, options) | own)


def pack_convolution(model: Any, view: View, packed: bytes) -> None:
    """Turns the operators that read a view into custom ones on packed weights.

    Args:
        model: ``ModelT`` object, edited in place; `edits.drop_unused` then drops the dense weights.
        view: weights that only CONV_2D operators read.
        packed: the bytes that take their place.
    """
    number, index = view.places[0]
    height, width = flatbuffer.indices(model.subgraphs[number].tensors[index].shape)[1:3]
    replace(model, view, packed, name=target.CONVOLVE, options=lambda options: _options((height, width), options))


def _options(kernel: tuple[int, int], options: Any) -> bytes:
    padding, activation = _PADDINGS[options.padding], int(options.fusedActivationFunction)
    return convolution.Options(kernel, _strides(options), _dilations(options), padding, activation).to_bytes()


def _strides(options: Any) -> tuple[int, int]:
    return int(options.strideH), int(options.strideW)


def _dilations(options: Any) -> tuple[int, int]:
    return int(options.dilationHFactor), int(options.dilationWFactor)
