"""The latency of each operator: it is cut out of the model, put into a file of its own, and timed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_prune_export import edits, files, flatbuffer, measure, model_inputs, runtime
from keras_prune_export.layer_errors import all_tensors_interpreter
from keras_prune_export.operators import Operator, operators, pairs
from keras_prune_export.text_table import text_table

_ROUNDS = 10  # of blocks of 10 ms: networks have a hundred operators, each timed beside the reference's


@dataclasses.dataclass(frozen=True)
class OperatorLatency:
    """The time of one operator, batch 1.

    Attributes:
        name: of its weights, or of its output.
        kind: the operator.
        latency: of a file with this operator alone; None where it does not run alone.
        reference: of the float model's, timed in turn with it; None without one.
        reason: why it does not run alone.
    """

    name: str
    kind: str
    latency: measure.Latency | None
    reference: measure.Latency | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return dataclasses.asdict(self)


def op_latencies(model: Any, x: Any, *, reference: Any = None, num_threads: int = 1) -> tuple[OperatorLatency, ...]:
    """Times each operator of a file's first subgraph by itself, and the same one of a reference in turn with it.

    Each gets a file with that operator, its constants, and the inputs that it has for the first example. So a time
    has what one inference costs beside its operators (below a microsecond), and of operators that the runtime would
    fuse each has its own.

    Args:
        model: path or bytes.
        x: examples, as `model_inputs.arrays` takes them; the first is used.
        reference: path or bytes of the float file of the same network.
        num_threads: of the runtime.

    Returns:
        One for each operator, in the order of the file; those that decode constants once are left out.

    Raises:
        ValueError: ``x`` does not fit, or the files are not of the same network.
    """
    found, problems, kinds = _alone(model, x, num_threads)
    others, partners = _others(model, reference, x, num_threads=num_threads)
    times = measure.time_in_turn({**found, **others}, title="latency by operator", rounds=_ROUNDS)
    return tuple(
        OperatorLatency(
            *(op.name, op.kind, times.get(_key(op))),
            reference=times.get(f"reference {partners[op.index]}") if op.index in partners else None,
            reason=problems.get(op.index, ""),
        )
        for op in kinds
    )


def latency_table(latencies: Sequence[OperatorLatency]) -> str:
    """The latencies as a table, in microseconds; the last column says how much faster than the reference."""
    rows = [["layer", "operator", "latency µs", "p10 µs", "p90 µs", "reference µs", "ratio"]]
    for each in latencies:
        own = [each.latency.median, each.latency.p10, each.latency.p90] if each.latency else [None] * 3
        other = each.reference.median if each.reference else None
        ratio = f"{other / own[0]:.2f}×" if own[0] and other else "-"
        cells = ["-" if value is None else f"{1000 * value:,.2f}" for value in (*own, other)]
        rows.append([each.name, each.kind, *cells, ratio])
    return text_table(rows)


def _key(op: Operator) -> str:
    return f"file {op.index}"


def _others(model: Any, reference: Any, x: Any, *, num_threads: int) -> tuple[dict[str, Any], dict[int, int]]:
    """The reference's operators alone, and for each operator of the model, by index, which is its partner."""
    if reference is None:
        return {}, {}
    own, other = operators(flatbuffer.read(model)), operators(flatbuffer.read(reference))
    if [op.computes for op in own] == [op.computes for op in other]:
        matched = pairs(own, other)
    else:  # the layers only: quantized files have operators of their own between them
        matched = pairs([op for op in own if op.weights], [op for op in other if op.weights])
    partners = {op.index: partner.index for op, partner in matched}
    found, _, _ = _alone(reference, x, num_threads)
    wanted = {f"file {index}": f"reference {index}" for index in partners.values()}
    return {wanted[name]: interpreter for name, interpreter in found.items() if name in wanted}, partners


def _alone(source: Any, x: Any, num_threads: int) -> tuple[dict[str, Any], dict[int, str], list[Operator]]:
    """An interpreter for each operator, why others have none, and all operators."""
    data = files.read_tflite(source)
    file = flatbuffer.read(data)
    whole = all_tensors_interpreter(data, num_threads)
    model_inputs.feed(whole, [values[:1] for values in model_inputs.arrays(whole, x)])
    whole.invoke()
    shapes = {detail["index"]: detail["shape"] for detail in whole.get_tensor_details()}
    found, problems = {}, {}
    for op in operators(file):
        try:
            cut, inputs = single_operator(file, op, shapes)
            interpreter = runtime.load_interpreter(cut, num_threads=num_threads)
            for details, index in zip(interpreter.get_input_details(), inputs, strict=True):
                interpreter.set_tensor(details["index"], whole.get_tensor(index))
            interpreter.invoke()
            found[_key(op)] = interpreter
        except (ValueError, RuntimeError) as error:  # resources, strings, state: they need the operators before
            problems[op.index] = str(error)
    return found, problems, operators(file)


def single_operator(model: Any, op: Operator, shapes: dict[int, np.ndarray]) -> tuple[bytes, list[int]]:
    """A file with one operator and those that decode its constants.

    Args:
        model: ``ModelT`` object, not changed.
        op: of its first subgraph.
        shapes: of the tensors, by index; they become fixed.

    Returns:
        The file's bytes, and which tensors of the model its inputs are.
    """
    source = model.subgraphs[0]
    made = {i for index in op.decoders for i in flatbuffer.indices(source.operators[index].outputs)}
    constant = {i for i, tensor in enumerate(source.tensors) if model.buffers[tensor.buffer].data is not None}
    inputs = list(dict.fromkeys(i for i in op.inputs if i >= 0 and i not in made | constant))
    inputs = [i for i in inputs if not source.tensors[i].isVariable]
    graph = copy.copy(source)
    graph.tensors = [_fixed(tensor, shapes.get(i)) for i, tensor in enumerate(source.tensors)]
    decoders = [_without_others(source.operators[index], op) for index in op.decoders]
    graph.operators = [*decoders, copy.copy(source.operators[op.index])]
    graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(op.outputs, np.int32)
    cut = copy.copy(model)
    called = any("ubgraphIndex" in name for name in vars(source.operators[op.index].builtinOptions or object))
    cut.subgraphs = [graph, *(copy.deepcopy(model.subgraphs[1:]) if called else ())]
    cut.signatureDefs = cut.metadata = cut.metadataBuffer = None
    cut.operatorCodes, cut.buffers = list(model.operatorCodes), list(model.buffers)
    edits.drop_unused_tensors(cut)
    edits.drop_unused(cut)
    return flatbuffer.write(cut), inputs


def _fixed(tensor: Any, shape: np.ndarray | None) -> Any:
    result = copy.copy(tensor)
    if shape is not None:
        result.shape, result.shapeSignature = np.array(shape, np.int32), None
    return result


def _without_others(decoder: Any, op: Operator) -> Any:
    """A decoder of several constants, with those only that the operator reads, by itself or by a further decoder."""
    result = copy.copy(decoder)
    chosen = [
        pair
        for pair in zip(flatbuffer.indices(decoder.inputs), flatbuffer.indices(decoder.outputs), strict=True)
        if pair[1] in op.inputs or len(op.decoders) > 1
    ]
    result.inputs, result.outputs = (np.array(part, np.int32) for part in zip(*chosen, strict=True))
    return result
