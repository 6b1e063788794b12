"""Masks by the native op: one pass over the weights, where TensorFlow's own operators need three."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_prune import op_library

_FUNCTION = "keras_prune_mask"


def fits(variable: Any, mask: Any) -> bool:
    """Whether the op can mask this variable: float32, by a uint8 mask, on a machine without accelerators.

    Args:
        variable: Keras variable, any shape; not of a `tf.distribute.Strategy`.
        mask: Keras variable of its shape.

    Returns:
        True, or False where the operators of TensorFlow have to do it: the op has a kernel for CPUs only.
    """
    if variable.dtype != "float32" or mask.dtype != "uint8" or hasattr(mask.value, "distribute_strategy"):
        return False
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return False
    try:
        op_library.load(_FUNCTION)
    except (FileNotFoundError, RuntimeError):  # not built; `ops.load` says so to those who cannot do without
        return False
    return True


def masked(w: Any, mask: Any) -> tf.Tensor:
    """The weights with +0.0 where the mask is 0, bit for bit; XLA has no kernel for it.

    Args:
        w: variable or tensor, float32, any shape.
        mask: variable or tensor of the same shape, uint8, 1 = kept.

    Returns:
        Tensor of the same shape, float32.
    """
    function = op_library.load(_FUNCTION).keras_prune_mask
    return function(w=keras.ops.convert_to_tensor(w), mask=keras.ops.convert_to_tensor(mask))
