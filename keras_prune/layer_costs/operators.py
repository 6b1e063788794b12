"""Operators between layers: ``a + b``, `keras.ops` and their like."""

from __future__ import annotations

import math

from keras_prune.layer_costs.calls import Call, Tensor
from keras_prune.layer_costs.work import Term, Work, each, operator_rule


@operator_rule(
    *"Add Subtract Multiply Divide TrueDivide DivideNoNan FloorDivide Mod Power Maximum Minimum Negative".split(),
    *"Absolute Abs Sign Square Sqrt Rsqrt Reciprocal Exp Expm1 Log Log10 Log1p Log2 Sin Cos Tan Tanh Sinh Cosh".split(),
    *"Arctan Erf Floor Ceil Round Clip Where Equal NotEqual Greater GreaterEqual Less LessEqual".split(),
    *"LogicalAnd LogicalOr LogicalNot LogicalXor Relu Relu6 Sigmoid Softplus Softsign Silu LogSigmoid".split(),
    *"LeakyRelu HardSigmoid HardSilu HardTanh Elu Selu Gelu Celu TanhShrink".split(),
)
def _elementwise(call: Call) -> Work:
    """One operation for each element of the output; a function such as exp or GELU is one."""
    return Work(flops=each(call))


@operator_rule("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Work:
    return Work(flops=each(call, 5))


@operator_rule(
    *"Sum Mean Max Min Amax Amin Prod All Any Argmax Argmin CountNonzero Cumsum Cumprod".split(),
    *"AdaptiveMaxPool AdaptiveAveragePool".split(),
)
def _reduction(call: Call) -> Work:
    """Each element of the input is added or compared once."""
    return Work(flops=(Term(call.inputs[0].size),))


@operator_rule("Var", "Std")
def _variance(call: Call) -> Work:
    """Mean, differences, squares, their mean."""
    return Work(flops=(Term(4 * call.inputs[0].size),))


@operator_rule("MaxPool", "AveragePool")
def _pool(call: Call) -> Work:
    size, rank = call.layer.pool_size, len(call.inputs[0].shape) - 2
    return Work(flops=each(call, size**rank if isinstance(size, int) else math.prod(size)))


@operator_rule("Matmul")
def _matmul(call: Call) -> Work | None:
    """Each element of the output sums over the last axis of the first operand."""
    first = call.args[0]
    return Work(macs=each(call, first.shape[-1])) if isinstance(first, Tensor) and first.shape else None


@operator_rule("Dot", "Tensordot", "Inner")
def _dot(call: Call) -> Work | None:
    """(m · k, k · n) -> m · n: each element of the output sums over k."""
    operands = [value for value in call.args[:2] if isinstance(value, Tensor)]
    output = call.outputs[0].size
    if len(operands) != 2 or not output:
        return None
    return Work(macs=each(call, math.isqrt(operands[0].size * operands[1].size // output)))


@operator_rule("Einsum")
def _einsum(call: Call) -> Work | None:
    """Of two operands: one product for each combination of all letters."""
    letters = call.layer.subscripts.replace(" ", "").split("->")[0].split(",")
    operands = [value for value in call.args if isinstance(value, Tensor)]
    if "." in call.layer.subscripts or len(letters) != 2 or len(operands) != 2:
        return None
    sizes: dict[str, int] = {}
    for names, operand in zip(letters, operands, strict=True):
        sizes |= dict(zip(names, operand.shape, strict=True))
    return Work(macs=(Term(math.prod(sizes.values())),))


@operator_rule("Resize")
def _resize(call: Call) -> Work | None:
    """Nearest neighbours are copied; bilinear interpolation weighs 4 of them."""
    macs = {"nearest": 0, "bilinear": 4}.get(call.layer.interpolation)
    return None if macs is None else Work(macs=each(call, macs))


@operator_rule(
    *"Transpose Swapaxes Moveaxis Pad Concatenate Stack Hstack Vstack Dstack Append GetItem Split Slice Take".split(),
    *"TakeAlongAxis Tile Repeat Roll Flip Fliplr Flipud Rot90 BroadcastTo Cast OneHot DepthToSpace".split(),
    *"SpaceToDepth Unstack Tril Triu Diag Copy ZerosLike OnesLike FullLike PadImages CropImages ExtractPatches".split(),
)
def _copy(call: Call) -> Work:
    """Elements are moved, not changed."""
    del call
    return Work()


@operator_rule("Reshape", "ExpandDims", "Squeeze", "Ravel", "StopGradient", "View", "ConvertToTensor", "Identity")
def _view(call: Call) -> Work:
    """The same elements in the same order."""
    del call
    return Work(copies=False)
