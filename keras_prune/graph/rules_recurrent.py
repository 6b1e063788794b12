"""How channels pass recurrent layers: their neurons are the channels they make."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_prune.graph.calls import Call
from keras_prune.graph.elementwise import value_after
from keras_prune.graph.flow import Flow
from keras_prune.graph.rules import layer_rule
from keras_prune.graph.trace import Kept, Trace

_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
_CELLS = {keras.layers.SimpleRNNCell: 1, keras.layers.GRUCell: 3, keras.layers.LSTMCell: 4}


@layer_rule("SimpleRNN", "GRU", "LSTM")
def recurrent(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """A neuron without weights stays at the zero it begins with: it has a column in each gate, and a row."""
    layer, (flow, *states) = call.layer, flows
    kind = type(layer).__name__
    ids = _neurons(trace, layer.cell, flow, gates=_GATES[kind])
    trace.edit_count(layer, "units", ids)
    _begin(trace, states, ids)
    return _results(layer, flow, ids, states=2 if kind == "LSTM" else 1)


def _neurons(trace: Trace, cell: Any, flow: Flow, *, gates: int) -> np.ndarray:
    """The neurons of a cell, which reads the last axis: (inputs, gates * units) and (units, gates * units)."""
    trace.take(cell.kernel, 0, flow)
    ids = trace.make(cell.kernel, 1, repeat=gates)
    every = np.tile(ids, gates)
    trace.part(cell.recurrent_kernel, 0, ids, kind="follow")
    trace.part(cell.recurrent_kernel, 1, every, kind="recurrent")
    if cell.bias is not None:
        trace.part(cell.bias, -1, every, kind="bias")
    if value_after(cell.activation, 0.0) != 0:
        trace.channels.protect(ids, f"{trace.path!r} has an activation that is not zero at zero")
    return ids


def _begin(trace: Trace, states: list[Flow], ids: np.ndarray) -> None:
    """Neurons go with the channels of the states that they begin with."""
    for state in states:
        line = trace.line(state, -1, repr(trace.path))
        trace.channels.unite(line, ids, f"{trace.path!r} begins with a state that stays")
        constant = trace.line_values(state, -1, len(line)) != 0
        trace.channels.protect(ids[constant], f"{trace.path!r} begins with a state that is not zero when it is pruned")


@layer_rule("RNN")
def of_cells(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """A cell of Keras's, or several, each of which reads the one before it."""
    layer, (flow, *states) = call.layer, flows
    stacked = type(layer.cell) is keras.layers.StackedRNNCells
    cells = layer.cell.cells if stacked else [layer.cell]
    if any(type(cell) not in _CELLS for cell in cells) or (stacked and (states or layer.return_state)):
        trace.stop(flows, f"{trace.path!r} is an RNN of cells or with states that no rule knows")
        trace.untraced[trace.path] = "no rule knows what is in it"
        return []
    read, made = flow, []
    for cell in cells:
        made.append(_neurons(trace, cell, read, gates=_CELLS[type(cell)]))
        read = Flow.along((flow.shape[0], len(made[-1])), -1, made[-1])

    def change(config: dict[str, Any], kept: Kept) -> None:
        entries = config["cell"]["config"]["cells"] if stacked else [config["cell"]]
        for entry, ids in zip(entries, made, strict=True):
            entry["config"]["units"] = int(kept(ids).sum())
        for entry in [config["cell"], *entries]:
            entry.pop("build_config", None)  # shapes of before

    trace.edit(layer, "cell", change)
    _begin(trace, states, made[-1])
    return _results(layer, flow, made[-1], states=2 if type(cells[-1]) is keras.layers.LSTMCell else 1)


@layer_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def convolutional(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """As an LSTM, whose neurons are maps: (..., inputs, 4 filters) and (..., filters, 4 filters)."""
    layer, (flow, *states) = call.layer, flows
    cell = layer.cell
    first = layer.data_format == "channels_first"
    if states:
        trace.stop(states, f"{trace.path!r} begins with states that no rule follows")
    trace.take(cell.kernel, -2, flow, flow_axis=2 if first else -1)
    ids = trace.make(cell.kernel, -1, repeat=4)
    trace.part(cell.recurrent_kernel, -2, ids, kind="follow")
    trace.part(cell.recurrent_kernel, -1, np.tile(ids, 4), kind="recurrent")
    trace.part(cell.bias, -1, np.tile(ids, 4), kind="bias")
    trace.edit_count(layer, "filters", ids)
    if states or value_after(layer.activation, 0.0) != 0:
        trace.channels.protect(ids, f"{trace.path!r} has states or an activation that are not zero for no input")
    shape = layer.compute_output_shape(flow.shape)
    shapes = shape if layer.return_state else [shape]
    results = [
        Flow.along(tuple(one), (2 if layer.return_sequences and not i else 1) if first else -1, ids)
        for i, one in enumerate(shapes)
    ]
    return results if layer.return_state else results[0]


def _results(layer: Any, flow: Flow, ids: np.ndarray, *, states: int) -> Any:
    """The output, and so many states if they are returned."""
    batch = flow.shape[0]
    shape = (batch, flow.shape[1], len(ids)) if layer.return_sequences else (batch, len(ids))
    output = Flow.along(shape, -1, ids)
    if not layer.return_state:
        return output
    return [output, *[Flow.along((batch, len(ids)), -1, ids) for _ in range(states)]]


@layer_rule("Bidirectional")
def bidirectional(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """Both directions lose the same neurons, as one is made from the other's configuration."""
    layer = call.layer
    pair = [layer.forward_layer, layer.backward_layer]
    kinds = {(type(one).__name__, getattr(one, "units", None)) for one in pair}
    if len(kinds) > 1 or type(pair[0]).__name__ not in _GATES or len(flows) > 1:
        trace.stop(flows, f"{trace.path!r} is a Bidirectional of layers or with states that no rule knows")
        trace.untraced[trace.path] = "no rule knows what is in it"
        return []
    results = [trace.apply(dataclasses.replace(call, layer=one)) for one in pair]
    if layer.return_state:
        trace.stop([result[0] for result in results], f"{trace.path!r} returns its states")
        return []
    first, second = results
    trace.channels.unite(first.ids, second.ids, f"{trace.path!r} has two directions")
    if layer.merge_mode is None:
        return results
    if layer.merge_mode != "concat":
        return first
    ids = np.concatenate([first.ids.reshape(-1), second.ids.reshape(-1)])
    return Flow.along((*first.shape[:-1], len(ids)), -1, ids)
