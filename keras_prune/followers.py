"""What goes with a pruned channel: its bias, and its scale and shift in the batch normalization behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.graph import channel_followers
from keras_prune.kernel_axes import OutputAxes, to_rows
from keras_prune.masks import attach
from keras_prune.patterns import Channel, Pattern


def attach_followers(model: Any, variables: Mapping[str, Any], pattern: Pattern) -> bool:
    """With channels as the pattern, lets the masks of kernels mask `graph.channel_followers` too.

    A follower is masked where all weights of its channel are pruned. Its mask changes with the kernel's.

    Args:
        model: a Keras 3 model that has been built.
        variables: path -> kernel with a mask.
        pattern: how the kernels are pruned.

    Returns:
        Whether any variable had no mask before; then the training step must be traced anew.
    """
    new = False
    if isinstance(pattern, Channel):
        for variable in variables.values():
            axes = variable.constraint.output_axes if pattern.output_axes is None else pattern.output_axes
            channels = len(to_rows(np.broadcast_to(np.False_, variable.shape), axes))
            found = [f for f in channel_followers(model, variable) if np.prod(f.shape) == channels and f.trainable]
            new |= attach({follower.path: follower for follower in found})
            variable.constraint.follow = _Follow(variable.constraint, found, axes)
    return new


class _Follow:
    """Masks the followers of one kernel as its mask is now."""

    def __init__(self, constraint: Any, followers: list[Any], output_axes: OutputAxes) -> None:
        self._constraint = constraint
        self.followers = followers
        self._output_axes = output_axes

    def __call__(self) -> None:
        keep = to_rows(self._constraint.mask.numpy(), self._output_axes).any(axis=1)
        for follower in self.followers:
            mask = getattr(follower.constraint, "mask", None)
            if mask is not None:  # strip has not removed it
                mask.assign(keep.reshape(mask.shape))
                follower.assign(follower.constraint.apply_mask(follower))
