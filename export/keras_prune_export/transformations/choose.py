"""Decides for each constant: compute on the packed weights, expand them at load, or leave them as they are."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_prune import tensor_format
from keras_prune_export import coding, flatbuffer
from keras_prune_export.flatbuffer import schema
from keras_prune_export.progress import Progress
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed as target
from keras_prune_export.transformations import constants
from keras_prune_export.transformations.computing import speedup_of_dense, why_not_computed
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
    """

    constant: Constant
    form: str
    reason: str
    blocked: bool = False
    view: View | None = None
    packed: bytes | None = None
    values: np.ndarray | None = None
    is_exact: bool = True

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
    return _choose_all(model, found, schemes, called=called)


def _choose_all(
    model: Any, found: Sequence[Constant], schemes: Schemes, *, called: Mapping[int, Sequence[str]]
) -> list[Choice]:
    """All choices, a layer on each core: NumPy releases the interpreter while it sorts, searches and adds up.

    Layers do not depend on each other, so that the result is that of one thread, in the same order. In memory are the
    arrays of as many layers as there are cores.
    """
    choices: list[Choice] = []
    progress = Progress("pack", len(found))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for choice in pool.map(lambda c: _choose(model, c, schemes, names=called[c.buffer]), found):
            choices.append(choice)
            progress.step()
    return choices


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
    kept = np.count_nonzero(values) / values.size
    reason = _why_expanded(model, view, values=values, packed=packed)
    if reason:
        return Choice(constant, "expand", reason, view=view, packed=packed, values=values, is_exact=is_exact)
    if constants.is_fully_connected(model, view):  # version 1 is read in place
        packed = min(packed, target.fixed_width(packed), key=len)
    reason = f"computes on the {kept:.1%} of the weights that are kept"
    return Choice(constant, "compute", reason, view=view, packed=packed, values=values, is_exact=is_exact)


def _why_expanded(model: Any, view: View, *, values: np.ndarray, packed: bytes) -> str:
    """Why operators do not compute on packed weights; empty when they do."""
    if not constants.computes(model, view):
        return f"expanded at load for {', '.join(constants.reader_kinds(model, view))}"
    if tensor_format.read_header(packed).values != "codebook":
        return "expanded at load: packed compute needs a codebook"
    problem = next(filter(None, (why_not_computed(model, reader) for reader in view.readers)), "")
    if problem:
        return f"expanded at load: {problem}"
    kept = int(np.count_nonzero(values))
    times = speedup_of_dense(model, view, kept)
    if times > 1:
        share = kept / values.size
        return f"expanded at load: {share:.1%} of the weights are kept, dense kernels are {times:.1f} times as fast"
    return ""
