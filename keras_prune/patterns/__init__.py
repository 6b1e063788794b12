"""Patterns: which weights are pruned together. Pure values.

The axes of a weight are those of a Keras kernel, (..., inputs, outputs). The **packed order** is the order in which a
packed file holds it: one row for each output, and in the row all its inputs, for a convolution those of the kernel's
first position first (see docs/format.md).
"""

from __future__ import annotations

from typing import Any

from keras_prune.patterns.balanced import Balanced
from keras_prune.patterns.base import Pattern
from keras_prune.patterns.block import Block
from keras_prune.patterns.channel import Channel
from keras_prune.patterns.n_by_m import NByM
from keras_prune.patterns.unstructured import Unstructured
from keras_prune.registry import lookup

KNOWN = (Unstructured, Block, NByM, Balanced, Channel)

__all__ = ["KNOWN", "Balanced", "Block", "Channel", "NByM", "Pattern", "Unstructured", "get"]


def get(identifier: Any) -> Pattern:
    """A pattern from its name, class, configuration, or itself; raises if it is none."""
    pattern = lookup(identifier, KNOWN, "pattern")
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a keras_prune pattern or its name, got {pattern!r}")
    return pattern
