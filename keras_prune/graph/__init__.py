"""The graph of a model: which layer feeds which, and which channels of which layers must go together."""

from __future__ import annotations

from keras_prune.graph.groups import Dependencies, dependencies
from keras_prune.graph.model_graph import Graph, channel_followers, make_graph, unwrapped
from keras_prune.graph.parts import Group, Part, Site

__all__ = [
    "Dependencies",
    "Graph",
    "Group",
    "Part",
    "Site",
    "channel_followers",
    "dependencies",
    "make_graph",
    "unwrapped",
]
