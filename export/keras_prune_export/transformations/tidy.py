"""Small things that cost bytes and say nothing to the runtime: the converter's note, empty tables, long names."""

from __future__ import annotations

from typing import Any

from keras_prune_export import edits, flatbuffer

_NOTES = ("CONVERSION_METADATA",)  # the converter's note about itself; min_runtime_version and the user's stay


def tidy(model: Any) -> None:
    """Drops what nothing reads.

    Args:
        model: ``ModelT`` object, edited in place; its tensors, buffers and operator codes are numbered anew.
    """
    edits.drop_metadata(model, _NOTES)
    edits.drop_unused_tensors(model)
    edits.drop_unused(model)
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            if tensor.quantization is not None and _is_empty(tensor.quantization):
                tensor.quantization = None


def shorten_names(model: Any) -> int:
    """Shortens the names of tensors that no caller knows.

    Args:
        model: ``ModelT`` object, edited in place.

    Returns:
        How many names were shortened.
    """
    public = edits.public_tensors(model)
    return sum(_shorten_names(graph, known) for graph, known in zip(model.subgraphs, public, strict=True))


def _is_empty(quantization: Any) -> bool:
    """Float tensors carry a table of quantization parameters without a parameter."""
    fields = (quantization.min, quantization.max, quantization.scale, quantization.zeroPoint, quantization.details)
    return all(field is None or (hasattr(field, "__len__") and not len(field)) for field in fields)


def _shorten_names(graph: Any, public: set[int]) -> int:
    """The converter joins the names of all operators that it fused by ";"; the last one that is free is enough."""
    taken = {flatbuffer.text(tensor.name) for tensor in graph.tensors or ()}
    count = 0
    for index, tensor in enumerate(graph.tensors or ()):
        parts = flatbuffer.text(tensor.name).split(";")
        free = [part for part in reversed(parts) if part and part not in taken]
        if index not in public and len(parts) > 1 and free:
            tensor.name = free[0]
            taken.add(free[0])
            count += 1
    return count
