"""How channels pass normalization: that of each channel by itself, and that of all together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_prune.graph.calls import Call
from keras_prune.graph.flow import FIXED, Flow
from keras_prune.graph.rules import layer_rule, operator_rule
from keras_prune.graph.trace import Kept, Trace


@layer_rule("BatchNormalization")
def batch_normalization(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Zero behind it where gamma and beta are zero; without gamma where the moving mean and beta are."""
    layer, flow = call.layer, trace.compress(flows[0])
    ids = trace.line(flow, layer.axis, repr(trace.path))
    values = trace.line_values(flow, layer.axis, len(ids))
    # Keras 3.4 has no attribute where newer ones have None.
    trace.part(getattr(layer, "gamma", None), 0, ids, kind="scale")
    trace.part(getattr(layer, "beta", None), 0, ids, kind="shift")
    for name in ("moving_mean", "renorm_mean"):
        trace.part(getattr(layer, name, None), 0, ids, kind="follow" if layer.scale else "mean")
    for name in ("moving_variance", "moving_stddev", "renorm_stddev"):
        trace.part(getattr(layer, name, None), 0, ids, kind="follow")
    if not layer.scale:
        constant = (ids != FIXED) & (values != 0)
        trace.channels.protect(ids[constant], f"{trace.path!r} takes them where they are not zero when they are pruned")
    return Flow.along(flow.shape, layer.axis, ids)


@layer_rule("LayerNormalization", "RMSNormalization", "UnitNormalization", "GroupNormalization")
def joint_normalization(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """Zeros would change the statistics of the channels that stay, but where each has its own."""
    layer, flow = call.layer, trace.compress(flows[0])
    kind = type(layer).__name__
    if kind == "GroupNormalization":
        return _group_normalization(trace, layer, flow)
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if any(flow.varies(axis) for axis in axes):
        if kind == "UnitNormalization":  # zeros add nothing to the norm
            constant = (flow.ids != FIXED) & (flow.values() != 0)
            trace.channels.protect(flow.ids[constant], f"{trace.path!r} counts what pruned ones are in the norm")
            return flow
        if not trace.exact and len(axes) == 1:
            return _scaled(trace, layer, flow, axis=axes[0])
        trace.stop([flow], f"{trace.path!r} ({kind}) computes statistics over all of them, which zeros would change")
        return Flow.fixed(flow.shape)
    if kind != "UnitNormalization" and getattr(layer, "beta", None) is not None:
        return dataclasses.replace(flow, value=np.full_like(flow.value, np.nan))
    return dataclasses.replace(flow, value=np.where(flow.value == 0, 0.0, np.nan))


def _scaled(trace: Trace, layer: Any, flow: Flow, *, axis: int) -> Flow:
    """Zero behind gamma and beta; the statistics become those of the channels that are kept."""
    ids = trace.line(flow, axis, repr(trace.path))
    for name, kind in (("gamma", "scale"), ("scale", "scale"), ("beta", "shift")):
        variable = getattr(layer, name, None)
        if hasattr(variable, "assign"):
            trace.part(variable, 0, ids, kind=kind)
    return Flow.along(flow.shape, axis, ids)


def _group_normalization(trace: Trace, layer: Any, flow: Flow) -> Flow:
    ids = trace.line(flow, layer.axis, repr(trace.path))
    if layer.groups not in (-1, len(ids)):
        if not trace.exact and len(ids) % layer.groups == 0:
            places = ids.reshape(layer.groups, -1)
            trace.channels.unite(places, places[:1], f"{trace.path!r} takes channels that stay")
            return _scaled(trace, layer, flow, axis=layer.axis)
        trace.stop(
            [flow],
            f"{trace.path!r} (GroupNormalization) computes statistics over groups of them, which zeros would change",
        )
        return Flow.fixed(flow.shape)
    trace.part(layer.gamma, 0, ids, kind="scale")
    trace.part(layer.beta, 0, ids, kind="shift")

    def change(config: dict[str, Any], kept: Kept) -> None:
        if config["groups"] != -1:
            config["groups"] = int(kept(ids).sum())

    trace.edit(layer, "groups", change)
    values = trace.line_values(flow, layer.axis, len(ids))
    # Without gamma and beta a constant map becomes zero, as it is its own mean.
    return Flow.along(flow.shape, layer.axis, ids, value=np.where(np.isfinite(values), 0.0, np.nan))


@operator_rule("layer LayerScale")
def layer_scale(trace: Trace, call: Call, flows: list[Flow]) -> Flow:
    """ConvNeXt's factor for each channel."""
    layer, flow = call.layer, flows[0]
    ids = trace.line(flow, -1, repr(trace.path))
    trace.part(layer.gamma, 0, ids, kind="scale")
    trace.edit_count(layer, "projection_dim", ids)
    return Flow.along(flow.shape, -1, ids)
