"""The part of a SavedModel's initialisation that expands packed weights, of stock TensorFlow operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras_prune_export.targets.saved_model import Kind

_BUCKETS = 2**62  # of the checksum


def checksum(data: bytes) -> int:
    """FarmHash's 64-bit fingerprint, the same on every machine (without two bits, which the operator cannot give).

    Args:
        data: any bytes.

    Returns:
        0 to 2**62 - 1.
    """
    import tensorflow as tf  # noqa: PLC0415

    return int(tf.strings.to_hash_bucket_fast(tf.constant(data), _BUCKETS))


def checked(file: Any, expected: int) -> Any:
    """The file's content, after a comparison of its checksum.

    Args:
        file: the path, a scalar string tensor.
        expected: `checksum` of what the file should hold.

    Returns:
        The content, a scalar string tensor; an error when the graph runs and the file is another.
    """
    import tensorflow as tf  # noqa: PLC0415

    content = tf.io.read_file(file)
    same = tf.equal(tf.strings.to_hash_bucket_fast(content, _BUCKETS), expected)
    message = "keras_prune: the packed weights are corrupt or another model's; copy the whole folder again"
    with tf.control_dependencies([tf.raw_ops.Assert(condition=same, data=[message])]):
        return tf.identity(content)


def expander(kind: Kind) -> Callable[[Any, Any, Any], Any]:
    """The function that expands variables of one kind.

    Args:
        kind: how they are stored.

    Returns:
        ``(content, numbers, shape) -> values``: the asset, int64 [begin, length, count, stride, channels] and
        the shape, int32; the values have the kind's dtype.
    """
    import tensorflow as tf  # noqa: PLC0415

    specs = [tf.TensorSpec((), tf.string), tf.TensorSpec((5,), tf.int64), tf.TensorSpec((None,), tf.int32)]
    function = tf.function(functools.partial(_expand, kind=kind), input_signature=specs, autograph=False)
    return function.get_concrete_function()


def _expand(content: Any, numbers: Any, shape: Any, *, kind: Kind) -> Any:
    """Sections in the order of the asset: positions, values, table."""
    import tensorflow as tf  # noqa: PLC0415

    begin, length, count, stride, channels = tf.unstack(numbers)
    stream = tf.io.decode_compressed(tf.strings.substr(content, begin, length), "ZLIB")
    size = tf.reduce_prod(shape, keepdims=True)
    num_values = count if kind.values != "exact" else count * _item_size(kind.stored)
    sections = [_num_positions(kind, count, size), num_values, tf.constant(-1, tf.int64)]
    where, data, table = tf.split(tf.io.decode_raw(stream, tf.uint8), tf.stack(sections), num=3)
    if kind.values == "scaled":
        channel = tf.cast(_positions(kind, where, size), tf.int64) // stride % channels
        values = tf.cast(_typed(data, "int8"), tf.float32) * tf.gather(_typed(table, "float32"), channel)
    elif kind.values == "codes":
        values = tf.gather(_typed(table, kind.dtype), tf.cast(data, tf.int32))
    else:
        values = _exact(data, kind.stored)
    values = tf.cast(values, kind.dtype)
    if kind.positions != "all":
        # As integers: a sum with the zeros that scatter_nd starts from would lose the sign of -0.0.
        where = tf.expand_dims(_positions(kind, where, size), 1)
        values = tf.bitcast(tf.scatter_nd(where, tf.bitcast(values, _integer(kind.dtype)), size), kind.dtype)
    return tf.reshape(values, shape)


def _num_positions(kind: Kind, count: Any, size: Any) -> Any:
    """Bytes of the positions."""
    import tensorflow as tf  # noqa: PLC0415

    if kind.positions == "gaps":
        return count
    if kind.positions == "all":
        return tf.constant(0, tf.int64)
    return tf.cast(tf.squeeze(size + 7), tf.int64) // 8


def _positions(kind: Kind, where: Any, size: Any) -> Any:
    """Where the entries stand, int32."""
    import tensorflow as tf  # noqa: PLC0415

    if kind.positions == "all":
        return tf.range(tf.squeeze(size))
    if kind.positions == "gaps":
        return tf.cumsum(tf.cast(where, tf.int32) + 1) - 1
    eight = tf.bitwise.right_shift(tf.expand_dims(where, 1), tf.constant([*range(8)], tf.uint8))
    ones = tf.where(tf.reshape(tf.bitwise.bitwise_and(eight, tf.constant(1, tf.uint8)), [-1]))
    return tf.cast(tf.squeeze(ones, 1), tf.int32)


def _exact(data: Any, dtype: str) -> Any:
    """Values of which all first bytes come first, then all second ones, ..."""
    import tensorflow as tf  # noqa: PLC0415

    if dtype == "bool":
        return tf.cast(data, "bool")
    return _typed(data if _item_size(dtype) == 1 else tf.transpose(tf.reshape(data, [_item_size(dtype), -1])), dtype)


def _typed(data: Any, dtype: str) -> Any:
    """Little-endian bytes as numbers."""
    import tensorflow as tf  # noqa: PLC0415

    return tf.bitcast(data if _item_size(dtype) == 1 else tf.reshape(data, [-1, _item_size(dtype)]), dtype)


def _integer(dtype: str) -> str:
    return {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}[_item_size(dtype)]


def _item_size(dtype: str) -> int:
    import tensorflow as tf  # noqa: PLC0415

    return int(tf.as_dtype(dtype).size)
