"""How channels pass attention: its heads are what it makes inside."""

from __future__ import annotations

from typing import Any

from keras_prune.graph.calls import Call
from keras_prune.graph.flow import Flow
from keras_prune.graph.rules import layer_rule
from keras_prune.graph.trace import Kept, Trace


@layer_rule("MultiHeadAttention")
def multi_head_attention(trace: Trace, call: Call, flows: list[Flow]) -> Any:
    """Kernels (features, heads, dimension) for query, key and value, (heads, dimension, features) behind them."""
    layer = call.layer
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
    query, value = given["query"], given["value"]
    key = value if given.get("key") is None else given["key"]
    if query.rank != 3 or len(layer.query_dense.kernel.shape) != 3 or len(layer.output_dense.kernel.shape) != 3:
        reason = "attends over more than one axis, or makes more than one of channels"
        trace.stop(flows, f"{trace.path!r} {reason}")
        trace.untraced[trace.path] = reason
        return []
    heads = trace.make(layer.value_dense.kernel, 1)
    for flow, dense in ((query, layer.query_dense), (key, layer.key_dense), (value, layer.value_dense)):
        trace.take(dense.kernel, 0, flow)
        trace.part(dense.kernel, 1, heads, kind="kernel")
        trace.part(dense.bias, 0, heads, kind="bias")
    out = layer.output_dense
    trace.part(out.kernel, 0, heads, kind="follow")
    ids = trace.make(out.kernel, 2)
    trace.part(out.bias, 0, ids, kind="bias")
    trace.edit_count(layer, "num_heads", heads)

    taken = trace.line(query, -1, repr(trace.path))

    def change(config: dict[str, Any], kept: Kept) -> None:
        size = int(kept(ids).sum())
        # By default it is the query's, which may lose others; else it stays so: Keras 3.4 cannot read it from a file.
        if config["output_shape"] is not None or size != int(kept(taken).sum()):
            config["output_shape"] = (size,)  # a tuple: Keras 3.4 cannot add a list to a shape

    trace.edit(layer, "output_shape", change)
    result = Flow.along((*query.shape[:-1], len(ids)), -1, ids)
    if call.kwargs.get("return_attention_scores"):
        trace.channels.protect(heads, f"{trace.path!r} returns the scores of each head")
        return [result, Flow.fixed((query.shape[0], len(heads), query.shape[1], value.shape[1]))]
    return result
