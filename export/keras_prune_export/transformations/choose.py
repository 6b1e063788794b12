"""Decides for each constant: compute on the packed weights, expand them at load, or leave them as they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune import tensor_format
from keras_prune_export import coding, flatbuffer, kernel_costs
from keras_prune_export.flatbuffer import schema
from keras_prune_export.kernel_terms import Work
from keras_prune_export.progress import Progress
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations import constants, dense_int8
from keras_prune_export.transformations.computing import sums_are_exact, why_not_computed, works_of
from keras_prune_export.transformations.constants import Constant, View
from keras_prune_export.transformations.densify import densify

# What packing must save to be worth an operator that needs our delegate: bytes, and a share of those stored now.
LEAST_SAVING = 64
LEAST_SHARE = 1 / 8
# Tables of a packed tensor, its place in the operator's lists, and what 64-byte alignment wastes on average.
_TENSOR_BYTES = 128


@dataclasses.dataclass
class Choice:
    """What to do with one constant.

    Attributes:
        constant: which one.
        form: "compute", "expand" or "stock".
        reason: why.
        blocked: something else than its size keeps it as it is.
        view: the tensors that the packed bytes stand for; None for "stock".
        packed: the bytes; None for "stock".
        values: its dense weights before quantization, as operators read them; None where they cannot be read.
        is_exact: every bit of the weights is kept.
        works: what the operators compute that could do so on the packed bytes, whether or not that is the choice; empty
            where one could not.
        activations: for "compute": "float32" or "int8".
        int8_scale: for "expand": a step of the int8 weights that the bytes stand for, where operators that are float32
            in the source multiply int8; else None.
    """

    constant: Constant
    form: str
    reason: str
    blocked: bool = False
    view: View | None = None
    packed: bytes | None = None
    values: np.ndarray | None = None
    is_exact: bool = True
    works: tuple[Work, ...] = ()
    activations: str = "float32"
    int8_scale: float | None = None

    @property
    def is_int8(self) -> bool:
        """Whether operators that are float32 in the source multiply integers."""
        return self.int8_scale is not None or (self.form == "compute" and self.activations == "int8")

    @property
    def name(self) -> str:
        """Of the weights; of the names of fused operators the last, as in the packed file."""
        return next(filter(None, reversed(self.constant.name.split(";"))), "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weights."""
        return self.constant.shape

    @property
    def quantized(self) -> np.ndarray:
        """The weights that the packed bytes stand for, in the shape and type of ``values``."""
        if self.packed is None or self.values is None:
            raise ValueError(f"expected packed weights, got {self.name!r}, which stays: {self.reason}")
        return target.decode(self.packed).astype(self.values.dtype).reshape(self.values.shape)


def choose(model: Any, schemes: Schemes, names: Mapping[int, Sequence[str]] | None = None) -> list[Choice]:
    """Decides, and packs, without changing the model.

    Args:
        model: ``ModelT`` object.
        schemes: how weights are quantized.
        names: what else a buffer's weights are called, such as their variable's path in Keras.

    Returns:
        One choice for each constant that is a weight or large enough to be worth it, in the order of the file.

    Raises:
        ValueError: a constant is damaged, a scheme cannot hold a weight, or a key of the schemes means no weight.
    """
    found = [constant for constant in constants.find(model) if _is_candidate(model, constant)]
    called = {c.buffer: [*(names or {}).get(c.buffer, ()), *_names(model, c)] for c in found}
    schemes.check_keys(called[c.buffer] for c in found if constants.is_weight(model, c.views[-1]))
    choices: list[Choice] = []
    progress = Progress("pack", len(found))
    for constant in found:
        choices.append(_choose(model, constant, schemes, names=called[constant.buffer]))
        progress.step()
    return choices


def for_int8(model: Any, choices: Sequence[Choice]) -> list[Choice]:
    """The choices where activations are int8: layers that can compute on packed weights, or on dense int8 ones.

    A convolution is float32, on packed weights or dense, where that is faster than int8. Where nothing would be int8
    then, convolutions on packed weights are, as was asked for.

    Args:
        model: ``ModelT`` object, not changed.
        choices: for this object, made for float32 activations.
    """
    found = [_for_int8(model, choice) for choice in choices]
    if any(choice.is_int8 for choice in found):
        return found
    return [_in_int8(choice) for choice in found]


def _for_int8(model: Any, choice: Choice) -> Choice:
    if not choice.works:
        return choice
    weights = choice.quantized
    exact = sums_are_exact(weights)
    choice = dataclasses.replace(choice, works=tuple(dataclasses.replace(work, exact=exact) for work in choice.works))
    if kernel_costs.packed_pays(choice.works, "int8"):
        return _computing_int8(_computing(model, choice))
    faster = _faster(choice, kernel_costs.speedup(choice.works, "int8"))
    if kernel_costs.dense_form(choice.works, "int8") == "dense":
        reason = f"expanded at load: {faster}, in float32 more so than in int8"
        return dataclasses.replace(choice, form="expand", reason=reason)
    codes, scale = dense_int8.quantized(weights)
    packed, reason = coding.pack(codes, "lossless"), f"expanded at load to int8: {faster}"
    return dataclasses.replace(choice, form="expand", reason=reason, packed=packed, int8_scale=scale)


def _computing_int8(choice: Choice) -> Choice:
    """Float32 where the same packed weights are faster so."""
    if kernel_costs.packed_form(choice.works, "int8") == "packed_int8":
        return dataclasses.replace(choice, activations="int8")
    reason = f"{_computes(choice)}, in float32: {_times_of_float32(choice)} times as fast as in int8"
    return dataclasses.replace(choice, reason=reason)


def _in_int8(choice: Choice) -> Choice:
    """If it computes, in int8, although float32 is faster."""
    if choice.form != "compute":
        return choice
    reason = f"{_computes(choice)}, in int8, as no other layer is: float32 is {_times_of_float32(choice)} times as fast"
    return dataclasses.replace(choice, activations="int8", reason=reason)


def _times_of_float32(choice: Choice) -> str:
    return f"{kernel_costs.ratio(choice.works, 'packed_int8', 'packed'):.2f}"


def _computes(choice: Choice) -> str:
    return f"computes on the {_kept(choice)} of the weights that are kept"


def _kept(choice: Choice) -> str:
    values = choice.values
    return f"{np.count_nonzero(values) / values.size:.1%}" if values is not None else ""


def _faster(choice: Choice, times: float) -> str:
    return f"{_kept(choice)} of the weights are kept, dense kernels are {times:.1f} times as fast"


def _computing(model: Any, choice: Choice) -> Choice:
    """Operators compute on the packed bytes: of matrices in version 1 if that is smaller, which is read in place."""
    packed, view = choice.packed, choice.view
    if choice.form == "compute" or packed is None or view is None:
        return choice
    if constants.is_fully_connected(model, view):
        packed = min(packed, target.fixed_width(packed), key=len)
    return dataclasses.replace(choice, form="compute", reason=_computes(choice), packed=packed)


def _is_candidate(model: Any, constant: Constant) -> bool:
    return constants.is_weight(model, constant.views[-1]) or _stock_bytes(model, constant) >= 2 * LEAST_SAVING


def _names(model: Any, constant: Constant) -> list[str]:
    """The converter joins the names of operators that it fused by ";"."""
    places = [*constant.views[-1].places, *constant.stored]
    texts = [flatbuffer.text(model.subgraphs[number].tensors[index].name) for number, index in places]
    return [part for name in dict.fromkeys([constant.name, *texts]) for part in name.split(";") if part]


def _stock_bytes(model: Any, constant: Constant) -> int:
    """What the constant takes now: its data and, if it is sparse, their positions."""
    lists = [
        vector.values
        for level in getattr(constant.tensor.sparsity, "dimMetadata", None) or ()
        for vector in (level.arraySegments, level.arrayIndices)
        if vector is not None and vector.values is not None
    ]
    return len(model.buffers[constant.buffer].data) + sum(np.asarray(values).nbytes for values in lists)


def _choose(model: Any, constant: Constant, schemes: Schemes, *, names: Sequence[str]) -> Choice:
    if constant.reason:
        return Choice(constant, "stock", constant.reason, blocked=True, values=_values_if_whole(model, constant))
    is_sparse = constant.tensor.sparsity is not None
    dense = densify(model, constant.tensor) if is_sparse else flatbuffer.constant(model, constant.tensor)
    choice = _packed(model, constant, schemes, names=names, dense=dense)
    return choice if choice.blocked else _if_it_pays(choice, _stock_bytes(model, constant))


def _values_if_whole(model: Any, constant: Constant) -> np.ndarray | None:
    """The values of a constant that stays, to see whether it is pruned."""
    if constant.tensor.type not in flatbuffer.DTYPES or constant.tensor.sparsity is not None:
        return None
    values = flatbuffer.values(model, constant.tensor)
    return values.reshape(constant.shape) if len(values) == math.prod(constant.shape) else None


def _if_it_pays(choice: Choice, stock_bytes: int) -> Choice:
    num_bytes = len(choice.packed or b"") + _TENSOR_BYTES * (choice.form == "expand")
    if stock_bytes - num_bytes >= max(LEAST_SAVING, LEAST_SHARE * stock_bytes):
        return choice
    reason = f"packed it would need {num_bytes} bytes, as it is it needs {stock_bytes}"
    return Choice(choice.constant, "stock", reason, values=choice.values)


def _packed(model: Any, constant: Constant, schemes: Schemes, *, names: Sequence[str], dense: np.ndarray) -> Choice:
    """The packed form; float16 behind DEQUANTIZE is stored as it is and expanded to the float32 that it stands for."""
    view = constant.views[-1]
    is_weight = constants.is_weight(model, view)
    values = dense.astype(flatbuffer.DTYPES[view.type], copy=False)
    scheme: Any = "lossless"
    if values.dtype == np.float32 and is_weight:
        scheme = schemes.of(names, values, is_fully_connected=constants.is_fully_connected(model, view))
    if scheme != "lossless" and not np.isfinite(values).all():
        return Choice(constant, "stock", "a weight is NaN or infinite", blocked=True, values=values)
    if scheme == "lossless" and is_weight and schemes.is_pruned(values):
        values = _without_negative_zeros(values)
    packed = coding.pack(values, scheme, fill=_fill(constant.tensor))
    return _placed(model, constant, view, values=values, packed=packed, is_exact=scheme == "lossless")


def _without_negative_zeros(values: np.ndarray) -> np.ndarray:
    """Pruning by multiplication with a mask, as TFMOT's, leaves -0 for half of the zeros; each would be stored."""
    return np.where(values == 0, np.zeros((), values.dtype), values)


def _fill(tensor: Any) -> int:
    """The value of a pruned weight: the zero point of integers."""
    points = getattr(tensor.quantization, "zeroPoint", None)
    if tensor.type not in (schema.TensorType.INT8, schema.TensorType.UINT8) or points is None or not len(points):
        return 0
    limits = np.iinfo(flatbuffer.DTYPES[tensor.type])
    return int(points[0]) if limits.min <= points[0] <= limits.max else 0


def _placed(model: Any, constant: Constant, view: View, *, values: np.ndarray, packed: bytes, is_exact: bool) -> Choice:
    """The choice between computing and expanding, for one packed form."""
    problem = _why_not_computed(model, view, packed)
    reason = f"expanded at load{problem}"
    choice = Choice(constant, "expand", reason, view=view, packed=packed, values=values, is_exact=is_exact)
    if problem:
        return choice
    kept, codebook = int(np.count_nonzero(values)), tensor_format.read_header(packed).codebook_size
    choice.works = works_of(model, view, kept, codebook=codebook)
    if kernel_costs.packed_pays(choice.works, "float32"):
        return _computing(model, choice)
    choice.reason = f"expanded at load: {_faster(choice, kernel_costs.speedup(choice.works, 'float32'))}"
    return choice


def _why_not_computed(model: Any, view: View, packed: bytes) -> str:
    """What follows "expanded at load" where operators cannot compute on packed weights; empty when they can."""
    if not constants.computes(model, view):
        return f" for {', '.join(constants.reader_kinds(model, view))}"
    if tensor_format.read_header(packed).values != "codebook":
        return ": packed compute needs a codebook"
    problem = next(filter(None, (why_not_computed(model, reader) for reader in view.readers)), "")
    return f": {problem}" if problem else ""
