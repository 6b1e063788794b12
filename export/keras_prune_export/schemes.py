"""What to make of the weights: the ``weights=`` argument of every export, and what it means for one weight."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_prune.allocation import matches
from keras_prune.int8 import Int8
from keras_prune.quantization import Codebook

Scheme = Codebook | Int8 | str  # a string is one of NAMES
NAMES = ("lossless", "float16")
# Bits of a code in Deep Compression, section 3 (https://arxiv.org/abs/1510.00149): 8 for convolutions; for fully
# connected layers 5 there, 4 here, which costs the same accuracy on LeNets and lets two codes share a byte.
FULLY_CONNECTED = Codebook(bits=4)
OTHERS = Codebook(bits=8)
_EXPECTED = (
    "None, keras_prune.Codebook(bits=...), keras_prune.Int8(), 'lossless', 'float16', or a dict of layers to these"
)


@dataclasses.dataclass(frozen=True)
class Schemes:
    """The ``weights=`` argument, checked.

    Args:
        weights: None: pruned weights become codebooks, of 4 bits in fully connected layers and of 8 in others; one
            scheme: all pruned weights get it; a mapping of layer names or regular expressions (as in
            `keras_prune.PerLayer`) to schemes: the weights that a key means get its scheme, pruned or not, the first
            key that fits counts, and other weights get what None gives. What gets no scheme keeps every bit.
        min_sparsity: a weight is pruned when at least this fraction of it is exactly zero, 0 to 1; with 0 all are.
        function: name of the public function, for errors.

    Raises:
        TypeError: ``weights`` is none of these.
        ValueError: an unknown name, or ``min_sparsity`` is no number from 0 to 1.

    Example:
        >>> import numpy as np
        >>> schemes = Schemes({"dense": Codebook(5), "conv.*": "float16"})
        >>> schemes.of(["conv1/kernel"], np.ones((4, 3, 3, 2)), is_fully_connected=False)
        'float16'
    """

    weights: Any = None
    min_sparsity: float = 0.1
    function: str = "export_tflite"

    def __post_init__(self) -> None:
        check_min_sparsity(self.min_sparsity, self.function)
        parts = self.weights.values() if isinstance(self.weights, Mapping) else [self.weights]
        for part in parts:
            if part is not None:
                _check_scheme(part, self.function)
        for key in self.weights if isinstance(self.weights, Mapping) else ():
            if not isinstance(key, str):
                raise TypeError(f"{self.function}: expected layer names as keys of weights, got {key!r}")

    def of(self, names: Iterable[str], values: np.ndarray, *, is_fully_connected: bool) -> Scheme:
        """The scheme of one weight.

        Args:
            names: all that it is called: the variable's path in Keras, the tensor's name in the file.
            values: the weight, in the file's shape.
            is_fully_connected: read by FULLY_CONNECTED only.

        Returns:
            A `Codebook`, `Int8`, "float16" or "lossless".
        """
        if isinstance(self.weights, Mapping):
            key = self.key_of(names)
            if key is not None and self.weights[key] is not None:
                return self.weights[key]
        if np.ndim(values) < 2 or not self.is_pruned(values):
            return "lossless"
        if self.weights is None or isinstance(self.weights, Mapping):
            return FULLY_CONNECTED if is_fully_connected else OTHERS
        return self.weights

    def key_of(self, names: Iterable[str]) -> str | None:
        """The first key of the mapping that means a weight with these names; None if none does."""
        if not isinstance(self.weights, Mapping):
            return None
        names = list(names)
        return next((key for key in self.weights if any(matches(key, name) for name in names)), None)

    def is_pruned(self, values: np.ndarray) -> bool:
        """Whether enough of a weight is exactly zero."""
        return values.size > 0 and bool(1 - np.count_nonzero(values) / values.size >= self.min_sparsity)

    def check_keys(self, names: Iterable[Iterable[str]]) -> None:
        """Raises ValueError if a key of the mapping means none of the weights.

        Args:
            names: the names of every weight.
        """
        if not isinstance(self.weights, Mapping):
            return
        every = [list(group) for group in names]
        unknown = [key for key in self.weights if not any(matches(key, name) for group in every for name in group)]
        if unknown:
            raise ValueError(
                f"{self.function}: expected names of weights or of their layers, or regular expressions that match "
                f"them, as keys of weights; got {', '.join(map(repr, unknown))}; this model has: "
                f"{', '.join(group[0] for group in every if group)}"
            )


def check_min_sparsity(min_sparsity: Any, function: str) -> None:
    """Raises ValueError for what is no number from 0 to 1."""
    is_number = isinstance(min_sparsity, numbers.Real) and not isinstance(min_sparsity, bool)
    if not is_number or not 0 <= min_sparsity <= 1:
        raise ValueError(
            f"{function}: expected min_sparsity from 0 to 1, got {min_sparsity!r}; pass a number such as 0.1"
        )


def _check_scheme(scheme: Any, function: str) -> None:
    if isinstance(scheme, str):
        if scheme not in NAMES:
            raise ValueError(f"{function}: expected weights to be {_EXPECTED}, got {scheme!r}")
    elif not isinstance(scheme, Codebook | Int8):
        called = f"{scheme.__name__}()" if isinstance(scheme, type) else "Codebook(bits=4)"
        raise TypeError(f"{function}: expected weights to be {_EXPECTED}, got {scheme!r}; pass {called}")
