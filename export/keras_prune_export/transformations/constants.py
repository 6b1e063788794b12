"""Finds the constants of a model, how each reaches the operators that read it, and why some must stay as they are."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

from keras_prune_export import edits, flatbuffer
from keras_prune_export.flatbuffer import schema

_OPS = schema.BuiltinOperator
_LSTM = (1, 2, 3, 4, 5, 6, 7, 8, 16)
# The inputs of operators that are weights (TFLite's kernels document their order); other constants are exact always.
WEIGHT_SLOTS = {
    _OPS.BATCH_MATMUL: (0, 1),
    _OPS.BIDIRECTIONAL_SEQUENCE_LSTM: (*_LSTM, *(17 + slot for slot in _LSTM)),
    _OPS.BIDIRECTIONAL_SEQUENCE_RNN: (1, 2, 5, 6),
    _OPS.CONV_2D: (1,),
    _OPS.CONV_3D: (1,),
    _OPS.CONV_3D_TRANSPOSE: (1,),
    _OPS.DEPTHWISE_CONV_2D: (1,),
    _OPS.EMBEDDING_LOOKUP: (1,),
    _OPS.FULLY_CONNECTED: (1,),
    _OPS.GATHER: (0,),
    _OPS.LSTM: _LSTM,
    _OPS.RNN: (1, 2),
    _OPS.SVDF: (1, 2),
    _OPS.TRANSPOSE_CONV: (1,),
    _OPS.UNIDIRECTIONAL_SEQUENCE_LSTM: _LSTM,
    _OPS.UNIDIRECTIONAL_SEQUENCE_RNN: (1, 2),
}
_COUNTS = "model_control_dependencies"  # TFLite's: pairs of operators, by number; another operator would shift them
OPERATORS = {number: name for name, number in vars(_OPS).items() if isinstance(number, int)}
Place = tuple[int, int]  # subgraph, tensor


@dataclasses.dataclass(eq=False)
class Reader:
    """One input of one operator.

    Attributes:
        graph: number of its subgraph.
        op: the ``OperatorT``.
        slot: which input.
    """

    graph: int
    op: Any
    slot: int


@dataclasses.dataclass(eq=False)
class View:
    """The dense values of a constant, as operators read them.

    Attributes:
        type: of the tensors, one of `flatbuffer.DTYPES`.
        places: the tensors.
        readers: who reads them.
        decoders: DENSIFY and DEQUANTIZE operators that this view makes superfluous.
    """

    type: int
    places: list[Place]
    readers: list[Reader]
    decoders: list[Reader]


@dataclasses.dataclass(eq=False)
class Constant:
    """One buffer with values that could be packed.

    Attributes:
        buffer: its index.
        name: of its tensor, or of the one that operators read.
        shape: of the dense values.
        tensor: the ``TensorT`` that holds the buffer; the first if there are several.
        stored: all tensors that hold it.
        views: the dense values in the stored type and, where all readers of float16 are DEQUANTIZE, in float32.
        reason: why it stays as it is; empty if it need not.
    """

    buffer: int
    name: str
    shape: tuple[int, ...]
    tensor: Any
    stored: list[Place]
    views: list[View]
    reason: str


def find(model: Any) -> list[Constant]:
    """Lists the constants of the types that can be packed, in the order of the file; shared ones once.

    Args:
        model: ``ModelT`` object.

    Returns:
        The constants that an operator reads.
    """
    uses = _Uses.of(model)
    known = {*uses.readers, *uses.written, *uses.public}
    by_buffer = collections.defaultdict(list)
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors or ()):
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and (number, index) in known:
                by_buffer[tensor.buffer].append((number, index))
    return [
        _constant(model, uses, buffer, stored=places)
        for buffer, places in by_buffer.items()
        if any(_tensor(model, place).type in flatbuffer.DTYPES for place in places)
    ]


def is_weight(model: Any, view: View) -> bool:
    """Whether all that read a view multiply with it or look it up: what may be quantized."""
    return bool(view.readers) and all(
        reader.slot in WEIGHT_SLOTS.get(flatbuffer.builtin_code(model, reader.op), ()) for reader in view.readers
    )


def is_fully_connected(model: Any, view: View) -> bool:
    """Whether only FULLY_CONNECTED operators read a view, as their weights."""
    return is_weight(model, view) and reader_kinds(model, view) == [OPERATORS[_OPS.FULLY_CONNECTED]]


def computes(model: Any, view: View) -> str:
    """Which operators read a view, as their weights, where packed ones can stand in for them.

    Returns:
        "FULLY_CONNECTED" or "CONV_2D"; empty for others, or both.
    """
    kinds = reader_kinds(model, view)
    known = kinds in ([OPERATORS[_OPS.FULLY_CONNECTED]], [OPERATORS[_OPS.CONV_2D]])
    return kinds[0] if known and is_weight(model, view) else ""


def reader_kinds(model: Any, view: View) -> list[str]:
    """The names of the operators that read a view, sorted."""
    return sorted({OPERATORS.get(flatbuffer.builtin_code(model, reader.op), "?") for reader in view.readers})


def remove_decoders(model: Any, views: Iterable[View]) -> None:
    """Drops the DENSIFY and DEQUANTIZE operators that packed views make superfluous."""
    gone = {id(decoder.op) for view in views for decoder in view.decoders}
    for graph in model.subgraphs:
        graph.operators = [op for op in graph.operators or () if id(op) not in gone]


@dataclasses.dataclass
class _Uses:
    """Who uses each tensor."""

    readers: dict[Place, list[Reader]]
    written: set[Place]
    public: set[Place]
    without_delegates: set[int]  # subgraphs
    metadata: set[int]  # buffers
    counted: bool  # whether metadata refer to operators

    @classmethod
    def of(cls, model: Any) -> _Uses:
        readers: dict[Place, list[Reader]] = collections.defaultdict(list)
        written, public, callers = set(), set(), edits.public_tensors(model)
        for number, graph in enumerate(model.subgraphs):
            public |= {(number, index) for index in callers[number]}
            for op in graph.operators or ():
                for slot, index in enumerate(flatbuffer.indices(op.inputs)):
                    readers[number, index].append(Reader(number, op, slot))
                written |= {
                    (number, i) for i in [*flatbuffer.indices(op.outputs), *flatbuffer.indices(op.intermediates)]
                }
        metadata = {*(entry.buffer for entry in model.metadata or ()), *flatbuffer.indices(model.metadataBuffer)}
        counted = any(flatbuffer.text(entry.name) == _COUNTS for entry in model.metadata or ())
        return cls(dict(readers), written, public, _without_delegates(model), metadata, counted)


def _without_delegates(model: Any) -> set[int]:
    """Subgraphs that the runtime gives to no delegate: what a composite operator stands for, and validation."""
    composite = getattr(_OPS, "STABLEHLO_COMPOSITE", None)
    found = {n for n, graph in enumerate(model.subgraphs) if flatbuffer.text(graph.name).startswith("VALIDATION:")}
    for graph in model.subgraphs:
        for op in graph.operators or ():
            if composite is not None and flatbuffer.builtin_code(model, op) == composite:
                found.add(int(getattr(op.builtinOptions2, "decompositionSubgraphIndex", -1)))
    return found


def _tensor(model: Any, place: Place) -> Any:
    return model.subgraphs[place[0]].tensors[place[1]]


def _constant(model: Any, uses: _Uses, buffer: int, *, stored: list[Place]) -> Constant:
    tensor = _tensor(model, stored[0])
    view = _dense(model, uses, stored)
    wide = _wide(model, uses, view)
    views = [view, *([wide] if wide else [])]
    reason = _why_not(model, uses, buffer, stored=stored, views=views)
    name = flatbuffer.text(_tensor(model, views[-1].places[0]).name)
    return Constant(buffer, name, tuple(flatbuffer.indices(tensor.shape)), tensor, stored, views, reason)


def _dense(model: Any, uses: _Uses, stored: list[Place]) -> View:
    """The stored tensors themselves, or what DENSIFY makes of them."""
    view = View(_tensor(model, stored[0]).type, [], [], [])
    for place in stored:
        readers = uses.readers.get(place, [])
        decoders = [r for r in readers if _tensor(model, place).sparsity is not None and _is(model, r, _OPS.DENSIFY)]
        others = [reader for reader in readers if reader not in decoders]
        if others or not decoders:
            view.places.append(place)
            view.readers += others
        _look_through(uses, view, decoders)
    return view


def _wide(model: Any, uses: _Uses, view: View) -> View | None:
    """What DEQUANTIZE makes of float16 values, if nothing else reads them."""
    if view.type != schema.TensorType.FLOAT16 or not all(_is(model, r, _OPS.DEQUANTIZE) for r in view.readers):
        return None
    wide = View(schema.TensorType.FLOAT32, [], [], [*view.decoders])
    _look_through(uses, wide, view.readers)
    alike = all(_tensor(model, place).type == schema.TensorType.FLOAT32 for place in wide.places)
    return wide if wide.places and alike else None


def _look_through(uses: _Uses, view: View, decoders: list[Reader]) -> None:
    for decoder in decoders:
        view.decoders.append(decoder)
        for index in flatbuffer.indices(decoder.op.outputs):
            view.places.append((decoder.graph, index))
            view.readers += uses.readers.get((decoder.graph, index), [])


def _is(model: Any, reader: Reader, kind: int) -> bool:
    op = reader.op
    inputs, outputs = flatbuffer.indices(op.inputs), flatbuffer.indices(op.outputs)
    one_to_one = len(inputs) == len(outputs) == 1 and outputs[0] >= 0
    return one_to_one and flatbuffer.builtin_code(model, op) == kind


def _why_not(model: Any, uses: _Uses, buffer: int, *, stored: list[Place], views: list[View]) -> str:
    tensors = [_tensor(model, place) for place in stored]
    view = views[0]
    dense = [_tensor(model, place) for place in view.places]
    everywhere = {*stored, *(place for view in views for place in view.places)}
    decoded = {place for view in views for place in view.places} - {*stored}
    checks = {
        "several tensors of different types or shapes share its bytes": len({_form(t) for t in tensors}) == 1
        and {_form(t)[:2] for t in dense} == {_form(tensors[0])[:2]},
        "its type cannot be packed": tensors[0].type in flatbuffer.DTYPES,
        "the caller reads it": not everywhere & uses.public,
        "an operator writes it": not ({*stored} & uses.written) and not any(t.isVariable for t in tensors),
        "a decoded form of it has bytes of its own": not any(
            model.buffers[_tensor(model, place).buffer].data is not None for place in decoded
        ),
        "a custom operator reads it": not any(_is_custom(model, reader) for v in views for reader in v.readers),
        "the runtime gives its subgraph to no delegate": not {place[0] for place in everywhere}
        & uses.without_delegates,
        "a metadata entry refers to its bytes": buffer not in uses.metadata,
        "a metadata entry counts the operators": not uses.counted,
        "nothing reads it": bool(views[-1].readers),
        "it is a single number": len(_form(tensors[0])[1]) > 0,
    }
    return next((reason for reason, holds in checks.items() if not holds), "")


def _form(tensor: Any) -> tuple[int, tuple[int, ...], bool]:
    return tensor.type, tuple(flatbuffer.indices(tensor.shape)), tensor.sparsity is None


def _is_custom(model: Any, reader: Reader) -> bool:
    return flatbuffer.builtin_code(model, reader.op) == _OPS.CUSTOM
