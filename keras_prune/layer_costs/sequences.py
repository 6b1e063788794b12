"""Recurrent layers and attention."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keras_prune.layer_costs.calls import Call
from keras_prune.layer_costs.work import Term, Work, each, kind_of, layer_rule, work_of

# Operations of a step for each unit besides the products with the kernels: adding the two products (a gate each), the
# gates' activations, and what is done with the gates:
#   SimpleRNN  h = f(a)
#   LSTM       c = f · c + i · g;  h = o · tanh(c)
#   GRU        h = z · h + (1 - z) · g,  and r · (what the recurrent kernel gives) in g
_STEP = {"SimpleRNN": 1 + 1, "LSTM": 4 + 4 + 5, "GRU": 3 + 3 + 5}
_CELLS = {"SimpleRNNCell": "SimpleRNN", "LSTMCell": "LSTM", "GRUCell": "GRU"}


@layer_rule("SimpleRNN", "LSTM", "GRU")
def _recurrent(call: Call) -> Work | None:
    return _steps(call, [call.layer.cell])


@layer_rule("RNN")
def _rnn(call: Call) -> Work | None:
    """Any recurrent layer of Keras' own cells."""
    cell = call.layer.cell
    return _steps(call, cell.cells if kind_of(cell) == "StackedRNNCells" else [cell])


def _steps(call: Call, cells: list[Any]) -> Work | None:
    """The kernels of all cells at each time step."""
    kinds = [_CELLS.get(kind_of(cell) or "") for cell in cells]
    if None in kinds:
        return None
    steps = call.inputs[0].shape[1]
    macs, flops = [], []
    for cell, kind in zip(cells, kinds, strict=True):
        macs += [Term(steps * math.prod(kernel.shape), kernel) for kernel in (cell.kernel, cell.recurrent_kernel)]
        biases = math.prod(cell.bias.shape) if cell.bias is not None else 0
        flops.append(Term(steps * (_STEP[str(kind)] * cell.units + biases), cell.recurrent_kernel, (0,)))
    last = cells[-1]
    outputs = ((last.recurrent_kernel, (0,), last.units),)
    return Work(tuple(macs), tuple(flops), outputs, sum(cell.units for cell in cells))


@layer_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _conv_lstm(call: Call) -> Work:
    """Two convolutions a step: of the input, and of the state."""
    cell, shape = call.layer.cell, call.inputs[0].shape
    sequences = call.layer.return_sequences
    spatial = call.outputs[0].size // cell.filters // (shape[1] if sequences else 1)
    places = shape[1] * spatial
    kernels = (cell.kernel, cell.recurrent_kernel)
    macs = tuple(Term(places * math.prod(kernel.shape), kernel) for kernel in kernels)
    biases = math.prod(cell.bias.shape) if cell.bias is not None else 0
    flops = Term(places * (_STEP["LSTM"] * cell.filters + biases), cell.recurrent_kernel, (-2,))
    return Work(macs, (flops,), ((cell.recurrent_kernel, (-2,), cell.filters),), cell.filters)


@layer_rule("Bidirectional")
def _bidirectional(call: Call) -> Work | None:
    """Both directions, and what merges them."""
    layer = call.layer
    works = []
    for direction in (layer.forward_layer, layer.backward_layer):
        shape = direction.compute_output_shape(call.inputs[0].shape)
        shape = shape[0] if isinstance(shape[0], (tuple, list)) else shape
        output = dataclasses.replace(call.outputs[0], shape=tuple(shape))
        works.append(work_of(dataclasses.replace(call, layer=direction, outputs=(output,))))
    forward, backward = works
    if forward is None or backward is None:
        return None
    merges = {"sum": 1, "mul": 1, "ave": 2}.get(layer.merge_mode, 0)
    outputs = forward.outputs if merges else forward.outputs + backward.outputs
    flops = (*forward.flops, *backward.flops, *each(call, merges))
    return Work(forward.macs + backward.macs, flops, outputs, forward.units + backward.units)


@layer_rule("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention")
def _heads(call: Call) -> Work | None:
    """The projections in it; query · key, softmax, and weights · value for each head and each pair of places.

    The query is multiplied by the scale first.
    """
    projections = {inner.layer.name: inner for inner in call.inner if kind_of(inner.layer) == "EinsumDense"}
    if list(projections)[-1:] != ["attention_output"] or not {"query", "key", "value"} <= set(projections):
        return None
    query, key, value = (projections[name] for name in ("query", "key", "value"))
    (*_, heads, dim), (*_, value_dim) = query.outputs[0].shape, value.outputs[0].shape
    pairs = _pairs(call, query.outputs[0].shape, key.outputs[0].shape)
    of_query, of_value = query.layer.kernel, value.layer.kernel
    works = [work for inner in projections.values() if (work := work_of(inner))]
    products = (Term(pairs * heads * dim, of_query, (1, 2)), Term(pairs * heads * value_dim, of_value, (1, 2)))
    others = (Term(query.outputs[0].size, of_query, (1, 2)), Term(5 * pairs * heads, of_query, (1,)))
    # A projection's bias is in proportion to what it puts out, not to what the attention does.
    biases = [Term(sum(term.amount for term in work.flops), *work.outputs[0][:2]) for work in works]
    macs = (*(term for work in works for term in work.macs), *products)
    return Work(macs, (*biases, *others), works[-1].outputs, heads)


def _pairs(call: Call, query: tuple[int, ...], key: tuple[int, ...]) -> int:
    """Pairs of places (query, key) that are compared: those on the attention's axes; the others run along."""
    axes = getattr(call.layer, "_attention_axes", None) or range(1, len(query) - 2)
    return math.prod(query[1:-2]) * math.prod(key[axis] for axis in axes)


@layer_rule("Attention")
def _attention(call: Call) -> Work:
    """Luong attention: query · key, softmax, weights · value."""
    query, value = _tensors(call)[:2]
    pairs = math.prod(query.shape[:-1]) * value.shape[-2]
    scores = pairs * query.shape[-1]
    scale = pairs if getattr(call.layer, "scale", None) is not None else 0
    return Work((Term(scores + pairs * value.shape[-1]),), (Term(5 * pairs + scale),))


@layer_rule("AdditiveAttention")
def _additive_attention(call: Call) -> Work:
    """Bahdanau attention: scale · tanh(query + key) summed, softmax, weights · value."""
    query, value = _tensors(call)[:2]
    pairs = math.prod(query.shape[:-1]) * value.shape[-2]
    operations = 2 + 2 if getattr(call.layer, "scale", None) is not None else 2 + 1
    return Work((Term(pairs * value.shape[-1]),), (Term(pairs * (operations * query.shape[-1] + 5)),))


def _tensors(call: Call) -> list[Any]:
    """Query and value, also where they are the same tensor."""
    return list(call.args[0] if call.args else call.kwargs["inputs"])
