"""Read, edit and write .tflite files, as the objects of the schema's generated Python bindings.

What is not edited is kept: subgraphs, signatures, metadata, quantization and sparsity parameters.
"""

from __future__ import annotations

import collections
import copy
import hashlib
import math
import struct
from typing import Any

import numpy as np

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    raise ImportError(
        "reading and writing .tflite files needs the packages flatbuffers and ai-edge-litert >= 1.1 (1.0 lacks the "
        f"file's schema): {error}; install them with `pip install flatbuffers 'ai-edge-litert>=1.1'`"
    ) from error

from keras_prune_export import files, reading_limits

SMALL_ALIGNMENT = 16  # the schema's force_align of constants; Python's own packer does not honour it
WIDE_ALIGNMENT = 64  # a cache line, the widest vector, and what LiteRT's CompiledModel asks of constants
# The types whose values are read and packed here, little-endian.
DTYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.FLOAT16: "<f2",
    schema.TensorType.INT8: "<i1",
    schema.TensorType.UINT8: "<u1",
}
_MAX_RANK = 32  # of a NumPy array, before NumPy 2
_DAMAGE = (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError)


def read(source: Any) -> Any:
    """Reads a .tflite file.

    Args:
        source: the path or the bytes.

    Returns:
        A ``ModelT`` object whose references (buffers, tensors, operator codes) have all been checked. Constants are
        read-only NumPy views of the bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a .tflite file, damaged, or of a newer schema than the installed one.
    """
    data = files.read_tflite(source)
    try:
        root = schema.Model.GetRootAs(data, 0)
        reading_limits.check(root, len(data))
        model = schema.ModelT.InitFromObj(root)
        _check_references(model)
        _inline_buffers(model, data)
    except _DAMAGE as error:
        raise ValueError(
            f".tflite file: expected a valid model, got damaged bytes ({error}); make the file again"
        ) from (error)
    _check_known(model)
    return model


def _check_references(model: Any) -> None:
    if not model.subgraphs or not model.buffers:
        raise ValueError("no subgraph or no buffer")
    num_buffers = len(model.buffers)
    for graph in model.subgraphs:
        num_tensors = len(graph.tensors or ())
        for tensor in graph.tensors or ():
            _check_index(tensor.buffer, num_buffers, "buffer")
            if tensor.shape is not None and len(tensor.shape) > _MAX_RANK:
                raise ValueError(f"a tensor of {len(tensor.shape)} dimensions")
        for op in graph.operators or ():
            _check_index(op.opcodeIndex, len(model.operatorCodes or ()), "operator code")
            for index in [*indices(op.inputs), *indices(op.outputs), *indices(op.intermediates)]:
                _check_index(index, num_tensors, "tensor", optional=True)
        for index in [*indices(graph.inputs), *indices(graph.outputs)]:
            _check_index(index, num_tensors, "tensor")
    for signature in model.signatureDefs or ():
        _check_index(signature.subgraphIndex, len(model.subgraphs), "subgraph")
        num_tensors = len(model.subgraphs[signature.subgraphIndex].tensors or ())
        for entry in [*(signature.inputs or ()), *(signature.outputs or ())]:
            _check_index(entry.tensorIndex, num_tensors, "tensor")
    for index in [*(entry.buffer for entry in model.metadata or ()), *indices(model.metadataBuffer)]:
        _check_index(index, num_buffers, "buffer")


def _check_index(index: int, count: int, kind: str, *, optional: bool = False) -> None:
    if not (0 <= index < count or (optional and index == -1)):
        raise ValueError(f"{kind} {index} of {count}")


def _inline_buffers(model: Any, data: bytes) -> None:
    """Constants that stand behind the flatbuffer (files over 2 GB) become ordinary buffers."""
    outside = [buffer for buffer in model.buffers if getattr(buffer, "offset", 0) > 1]
    if sum(buffer.size for buffer in outside) > len(data):
        raise ValueError("buffers behind the flatbuffer that are larger than the file")
    for buffer in outside:
        if buffer.offset + buffer.size > len(data):
            raise ValueError(f"a buffer at {buffer.offset} with {buffer.size} bytes")
        buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0


def _check_known(model: Any) -> None:
    """Refuses what the installed schema cannot keep: it would be lost silently."""
    for graph in model.subgraphs:
        for op in graph.operators or ():
            pairs = [(op.builtinOptionsType, op.builtinOptions)]
            pairs.append((getattr(op, "builtinOptions2Type", 0), getattr(op, "builtinOptions2", None)))
            if any(kind and options is None for kind, options in pairs):
                raise ValueError(
                    ".tflite file: an operator's options are of a newer schema than the installed one; "
                    "install a newer ai-edge-litert"
                )
            if getattr(op, "largeCustomOptionsOffset", 0) > 1:
                raise ValueError(".tflite file: custom options outside the flatbuffer (over 2 GB) are not supported")


def indices(values: Any) -> list[int]:
    """A vector of indices as a list; an absent one is empty."""
    return [] if values is None else [int(value) for value in values]


class _AlignedBuffer:
    """Writes a constant as the schema's force_align wants it; takes the place of a ``BufferT``."""

    def __init__(self, data: Any) -> None:
        self.data = None if data is None else np.asarray(data, np.uint8).tobytes()

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the generated code's name)
        """Writes the table, and before it the data."""
        vector = None if self.data is None else self._pack_data(builder, self.data)
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)

    @staticmethod
    def _pack_data(builder: Any, data: bytes) -> int:
        builder.StartVector(1, len(data), WIDE_ALIGNMENT if len(data) >= WIDE_ALIGNMENT else SMALL_ALIGNMENT)
        start = builder.Head() - len(data)
        builder.head = start
        builder.Bytes[start : start + len(data)] = data
        return builder.EndVector()


def write(model: Any) -> bytes:
    """Writes a .tflite file; constants of 64 bytes and more are 64-byte aligned, smaller ones 16-byte.

    Args:
        model: a ``ModelT`` object; it is not changed.

    Returns:
        The file's bytes.

    Raises:
        ValueError: the result would be over the 2 GB of a flatbuffer.
    """
    packable = copy.copy(model)
    packable.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    num_bytes = sum(len(buffer.data or b"") for buffer in packable.buffers)
    if num_bytes >= 2**31 - 2**20:
        raise ValueError(f".tflite file: expected constants below 2 GB, got {num_bytes} bytes; prune more or split it")
    builder = flatbuffers.Builder(num_bytes + 2**16)
    builder.Finish(packable.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def text(name: bytes | str | None) -> str:
    """A name as str; the bindings give bytes."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""


def values(model: Any, tensor: Any) -> np.ndarray:
    """The values that a constant tensor's buffer holds, flat, without a copy; of a sparse tensor the stored ones.

    Args:
        model: ``ModelT`` object.
        tensor: ``TensorT`` object of one of `DTYPES`.

    Raises:
        ValueError: of another type, or the buffer is no whole number of values.
    """
    if tensor.type not in DTYPES:
        raise ValueError(
            f".tflite file: expected tensor {text(tensor.name)!r} to hold float32, float16, int8 or uint8, got type "
            f"{tensor.type}; the file is damaged"
        )
    data, dtype = model.buffers[tensor.buffer].data, np.dtype(DTYPES[tensor.type])
    num_bytes = 0 if data is None else len(data)
    if num_bytes % dtype.itemsize:
        raise ValueError(
            f".tflite file: tensor {text(tensor.name)!r} has {num_bytes} bytes, and a value {dtype.itemsize}; "
            "the file is damaged"
        )
    return np.frombuffer(np.ascontiguousarray([] if data is None else data, np.uint8), dtype)


def constant(model: Any, tensor: Any) -> np.ndarray:
    """A constant tensor's values (float32, float16, int8 or uint8), without a copy.

    Raises:
        ValueError: the buffer does not have the shape's size.
    """
    found, shape = values(model, tensor), indices(tensor.shape)
    if not len(found) or min(shape, default=1) < 1 or len(found) != math.prod(shape):
        name = text(tensor.name)
        raise ValueError(
            f".tflite file: tensor {name!r} of shape {shape} has {found.nbytes} bytes; the file is damaged"
        )
    return found.reshape(shape)


def float_constants(model: Any) -> dict[int, np.ndarray]:
    """The constant float32 tensors' values, by buffer."""
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors or ()]
    kind = schema.TensorType.FLOAT32
    found = {t.buffer: t for t in tensors if t.type == kind and model.buffers[t.buffer].data is not None}
    return {buffer: constant(model, tensor) for buffer, tensor in found.items()}


def content(model: Any) -> collections.Counter[tuple[Any, ...]]:
    """What the operators are and which constants they read, without names and order: equal for equal models."""
    digests = [b"" if b.data is None else hashlib.blake2b(bytes(b.data)).digest() for b in model.buffers]
    return collections.Counter(
        (builtin_code(model, op), *(digests[graph.tensors[i].buffer] for i in indices(op.inputs) if i >= 0))
        for graph in model.subgraphs
        for op in graph.operators or ()
    )


def builtin_code(model: Any, op: Any) -> int:
    """The built-in operator's number; old files have it in the deprecated field."""
    code = model.operatorCodes[op.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)
