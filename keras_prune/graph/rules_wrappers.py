"""How channels pass layers and models that hold other layers."""

from __future__ import annotations

from typing import Any

import keras

from keras_prune.graph.calls import Call
from keras_prune.graph.flow import Flow
from keras_prune.graph.rules import layer_rule
from keras_prune.graph.trace import Trace


@layer_rule("Model")
def nested(trace: Trace, call: Call, flows: list[Flow]) -> list[Flow]:
    """A model in a model."""
    return trace.model(call.layer, flows)


@layer_rule("InputLayer")
def source(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Data, which keep their shape."""
    return Flow.fixed(tuple(call.layer.batch_shape))


@layer_rule("TimeDistributed")
def time_distributed(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """The same layer at each step."""
    flow, layer = trace.compress(flows[0]), call.layer.layer
    if flow.varies(1):
        trace.stop([flow], f"{trace.path!r} works across another axis than theirs")
        flow = Flow.fixed(flow.shape)
    inner = Flow((flow.shape[0], *flow.shape[2:]), flow.ids[:, 0], flow.values()[:, 0])
    result = inside(trace, layer, inner)
    if isinstance(result, list):
        if len(result) != 1:
            trace.stop(result, f"{trace.path!r} has a layer of {len(result)} outputs")
            return []
        (result,) = result
    shape = (result.shape[0], flow.shape[1], *result.shape[1:])
    return Flow(shape, result.ids[:, None], result.values()[:, None])


def inside(trace: Trace, layer: Any, flow: Flow) -> Any:
    """Traces a layer that another one holds, on one tensor."""
    return trace.apply(Call(layer, 0, [flow], {})) if not isinstance(layer, keras.Model) else trace.model(layer, [flow])
