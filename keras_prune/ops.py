"""The TensorFlow op on packed weights: y = x @ W without ever forming the dense W.

The op decodes its packed bytes once, into a layout for this CPU, and keeps that for later calls. It runs on the CPU, in
eager mode, in ``tf.function``, in Keras models and in SavedModels; XLA (``jit_compile=True``) has no kernel for it and
TensorFlow then says "No registered 'KerasPruneRelativeIndexMatmul' OpKernel for XLA_CPU_JIT": leave ``jit_compile`` off
for the part of the model that holds it.

Threads: a call with enough work is shared between as many threads as TensorFlow may use within an operator: what
``tf.config.threading.set_intra_op_parallelism_threads`` was given before the op was loaded, else the environment
variable ``TF_NUM_INTRAOP_THREADS``, else the CPUs of the process, and never more than those. TensorFlow lends its own
threads to no kernel of a library, so the op has some of its own; they sleep between calls. Calls that overlap compute
on one thread each. Results are the same to the last bit for any number. A C++ host says its number by
``KerasPruneTfSetNumThreads(int)`` of the library, since that is not told what its sessions were configured with.

Memory: the packed bytes; the layout for a few batch rows, and the one for many rows once such a batch came. Calls with
float32 and with int8 activations have layouts of their own (docs/performance.md says how large they are).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_prune import op_library, sparse_format
from keras_prune.int8_activations import LARGEST, SMALLEST_STEP
from keras_prune.quantization import Codebook

OP_NAME = "KerasPruneRelativeIndexMatmul"
ACTIVATIONS = ("float32", "int8")
_FUNCTION = "keras_prune_relative_index_matmul"
_DEFAULT_WEIGHTS = Codebook()


def load() -> None:
    """Makes the op known to this process's TensorFlow; loads the native library once.

    The functions below and `keras_prune.layers` do it by themselves. Call it before ``tf.saved_model.load`` of a model
    that holds the op. Where ``tf.load_op_library`` loaded a copy of the library before, the op of that copy is used.

    Raises:
        FileNotFoundError: the native library was not built.
        RuntimeError: this TensorFlow lacks a function that the op needs.

    Example:
        >>> load()
    """
    op_library.load(_FUNCTION)


def _invalid(message: str) -> tf.errors.InvalidArgumentError:
    return tf.errors.InvalidArgumentError(None, None, f"relative_index_matmul: {message}")


def _check_x(x: tf.Tensor) -> None:
    if x.dtype != tf.float32:
        raise _invalid(f"expected x of type float32, got {x.dtype.name}; use tf.cast(x, tf.float32)")
    if x.shape.rank is not None and x.shape.rank < 2:
        raise _invalid(f"expected x of shape (batch, size) or (..., size), got {x.shape}; add a batch dimension")


def _check_packed(packed: tf.Tensor) -> None:
    if packed.dtype != tf.uint8 or packed.shape.rank not in (None, 1):
        raise _invalid(
            f"expected packed of shape (num_bytes,) and type uint8, got {packed.shape} and {packed.dtype.name}; "
            "pass what pack_weights returned"
        )


def _as_tensor(packed: Any) -> tf.Tensor:
    """Packed bytes as a tensor; what is not TensorFlow's own is copied, since others may write to it later."""
    if isinstance(packed, bytes | bytearray | memoryview):
        packed = sparse_format.as_array(packed)
    return tf.constant(packed) if isinstance(packed, np.ndarray) else tf.convert_to_tensor(packed)


def _size(value: int | None, name: str) -> int:
    """The attribute for a size: -1 where it is not known."""
    if value is None:
        return -1
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise _invalid(f"expected {name} of at least 1, or None, got {value!r}")
    return int(value)


def check_arithmetic(activations: Any, x_scale: Any) -> None:
    """Refuses arithmetic that the op does not have.

    Args:
        activations: "float32" or "int8".
        x_scale: None, or for "int8" one step of x: a float32 above 0.

    Raises:
        ValueError: neither of these.
    """
    if not isinstance(activations, str) or activations not in ACTIVATIONS:
        raise ValueError(f"expected activations to be one of {ACTIVATIONS}, got {activations!r}")
    if x_scale is None:
        return
    if activations != "int8":
        raise ValueError(f"expected x_scale only with activations='int8', got {x_scale!r} with {activations!r}")
    is_number = isinstance(x_scale, int | float | np.integer | np.floating) and not isinstance(x_scale, bool)
    with np.errstate(over="ignore"):
        if not is_number or not math.isfinite(np.float32(x_scale)) or np.float32(x_scale) <= 0:
            raise ValueError(f"expected x_scale, one step of x, to be a float32 above 0, or None, got {x_scale!r}")


def _check_call(activations: str, x_scale: float | None, transpose: bool) -> None:
    try:
        check_arithmetic(activations, x_scale)
    except ValueError as error:
        raise _invalid(str(error)) from None
    if activations == "int8" and transpose:
        raise _invalid("expected activations='float32' with transpose=True, got 'int8': only x of a layer is quantized")


def relative_index_matmul(
    x: Any,
    packed: Any,
    *,
    transpose: bool = False,
    units: int | None = None,
    input_dim: int | None = None,
    activations: str = "float32",
    x_scale: float | None = None,
) -> tf.Tensor:
    """Multiplies by packed weights: y = x · W, or y = x · Wᵀ with ``transpose``, W being the (inputs, units) kernel.

    Steady-state calls decode nothing: the compute layout is made when these bytes are first seen and is shared by all
    functions that use them. Pass the same ``tf.Variable`` or ``tf.constant`` each time; a NumPy array works too, but is
    copied and compared at every call. (A tensor that shares memory with other libraries, by DLPack, must not be damaged
    there: new packed bytes are noticed, other changes are not.) The gradient is with respect to x only.

    With int8 activations ``y = (sum_i x_q[i] w_q[i]) (x_scale w_scale)``: each row of x, and the values of W, are
    rounded to the whole numbers from -127 to 127 times the largest / 127, and sums are exact. The same bits come out as
    of the packed .tflite file's operator. A row with a value that is not finite gives NaN. With ``x_scale`` all rows
    have that step, and values beyond 127 steps are clipped. The gradient goes straight through the rounding of x:
    dx = dy · Wᵀ in float32, with the rounded W, and 0 for values that were clipped; there is no second-order gradient.

    Args:
        x: (..., inputs), or (..., units) with ``transpose``; float32, at least two dimensions, any batch, also 0.
        packed: (num_bytes,) uint8, as `pack_weights` makes it: array, tensor or variable; or the same as bytes,
            bytearray or memoryview. Version 2 of the storage format (`keras_prune.tensor_format`, with a codebook) is
            read as well; it needs ``units``, or ``input_dim`` with ``transpose``.
        transpose: multiply by the transpose of W, as the gradient does.
        units: columns of W, where known: checked, and gives ``y`` a static shape inside ``tf.function``.
        input_dim: rows of W, where known: likewise.
        activations: "float32", or "int8" for rows of x that are quantized while the op runs.
        x_scale: for "int8": one step of x, above 0, from calibration: the largest typical |x| / 127; None: of each row.

    Returns:
        (..., units), or (..., inputs) with ``transpose``; float32.

    Raises:
        tf.errors.InvalidArgumentError: a wrong type, rank or size; packed bytes that are truncated or corrupt. Where
            ``tf.function`` sees it while tracing, TensorFlow makes a ValueError of it.
        sparse_format.FormatError: a memoryview that is not of bytes in one dimension.

    Example:
        >>> import numpy as np
        >>> packed = pack_weights(np.array([[0.0, 2.0], [0.5, 0.0]], np.float32))
        >>> relative_index_matmul(np.array([[1.0, 10.0]], np.float32), packed).numpy().tolist()
        [[5.0, 2.0]]
    """
    load()
    x = tf.convert_to_tensor(x)
    packed = _as_tensor(packed)
    _check_x(x)
    _check_packed(packed)
    _check_call(activations, x_scale, transpose)
    rows, cols = _size(units, "units"), _size(input_dim, "input_dim")
    arithmetic = {"activations": activations, "x_scale": 0.0 if x_scale is None else float(x_scale)}
    return _matmul(x, packed, transpose=transpose, rows=rows, cols=cols, **arithmetic)


def _matmul(x: tf.Tensor, packed: tf.Tensor, *, transpose: bool, rows: int, cols: int, **arithmetic: Any) -> tf.Tensor:
    function = op_library.load(_FUNCTION).keras_prune_relative_index_matmul
    y = function(x, packed, transpose=transpose, rows=rows, cols=cols, **arithmetic)
    size = cols if transpose else rows
    if size >= 0:  # shape functions of the C API cannot read the attributes
        y.set_shape(x.shape[:-1].concatenate([size]))
    return y


@tf.RegisterGradient(OP_NAME)
def _gradient(op: Any, grad: Any) -> tuple[tf.Tensor, None]:
    """dL/dx = dL/dy · Wᵀ, W as it was multiplied by, 0 where x was clipped; the packed bytes have no gradient."""
    x, packed = op.inputs
    transpose, activations = op.get_attr("transpose"), op.get_attr("activations").decode()
    if transpose and activations == "int8":
        raise NotImplementedError(
            "relative_index_matmul: expected at most a first-order gradient with activations='int8', got a gradient of "
            "the gradient; use activations='float32' for this layer while training"
        )
    sizes = {"rows": op.get_attr("rows"), "cols": op.get_attr("cols")}
    dx = _matmul(tf.convert_to_tensor(grad), packed, transpose=not transpose, activations=activations, **sizes)
    dx.set_shape(x.shape)
    step = op.get_attr("x_scale")
    return (dx if step == 0 else tf.where(tf.abs(x) > _reach(step), tf.zeros_like(dx), dx)), None


def _reach(step: float) -> float:
    """The largest |x| that is not clipped."""
    return min(float(LARGEST) * max(step, float(SMALLEST_STEP)), float(np.finfo(np.float32).max))


def to_numpy(values: Any) -> np.ndarray:
    """An array, tensor or variable of TensorFlow or Keras as a NumPy array."""
    return values if isinstance(values, np.ndarray) else tf.convert_to_tensor(values).numpy()


def pack_weights(kernel: Any, *, weights: Codebook = _DEFAULT_WEIGHTS) -> np.ndarray:
    """Quantizes and packs the kernel of a dense layer for `relative_index_matmul`.

    Args:
        kernel: (inputs, units), float: an array, tensor or variable as Keras has it; zeros are pruned weights.
        weights: what to make of the weights; `Codebook` shares ``2**bits - 1`` values.

    Returns:
        (num_bytes,) uint8: the storage format of the transposed, quantized kernel (docs/format.md).

    Raises:
        ValueError: not a matrix, empty, or not finite.

    Example:
        >>> import numpy as np
        >>> pack_weights(np.eye(3, dtype=np.float32)).shape
        (43,)
    """
    array = to_numpy(kernel)
    if array.ndim != 2:
        raise ValueError(f"pack_weights: expected a kernel of shape (inputs, units), got {array.shape}; reshape it")
    codes, codebook = weights.fit(array.T)
    return np.frombuffer(sparse_format.encode(codes, codebook), np.uint8).copy()
