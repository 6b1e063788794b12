"""How many weights each layer keeps."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from keras_prune.masks import check_model, is_kernel, named
from keras_prune.wrappers import without_masks


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One weight of the model, or the total.

    Attributes:
        layer: the weight's path, such as ``"dense/kernel"``; ``"total"`` in the last row.
        shape: its shape; empty for the total.
        size: number of weights.
        kept: number of weights that are not zero.
        num_bytes: bytes as stored in Keras, zeros included.
    """

    layer: str
    shape: tuple[int, ...]
    size: int
    kept: int
    num_bytes: int

    @property
    def density(self) -> float:
        """Fraction of weights that are not zero."""
        return self.kept / self.size if self.size else 0.0

    @property
    def sparsity(self) -> float:
        """Fraction of weights that are zero."""
        return 1.0 - self.density

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        shape = " × ".join(map(str, self.shape))
        return self.layer, shape, f"{self.kept:,} of {self.size:,}", f"{self.density:.2%}", f"{self.num_bytes:,}"


@dataclasses.dataclass(frozen=True)
class SparsityTable:
    """Rows of weights and their total; ``str(table)`` is the table as text."""

    rows: tuple[SparsityRow, ...]

    @property
    def total(self) -> SparsityRow:
        """All rows together."""
        size, kept, num_bytes = (sum(getattr(row, name) for row in self.rows) for name in ("size", "kept", "num_bytes"))
        return SparsityRow("total", (), size, kept, num_bytes)

    def __str__(self) -> str:
        """The table, with aligned columns."""
        head = ("layer", "shape", "kept", "density", "bytes")
        lines = [head, *(row.cells() for row in self.rows), self.total.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [_line(cells, widths) for cells in lines]
        rule = "-" * len(text[0])
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    names, numbers = zip(cells[:2], widths[:2], strict=True), zip(cells[2:], widths[2:], strict=True)
    return "  ".join([*(cell.ljust(width) for cell, width in names), *(cell.rjust(width) for cell, width in numbers)])


def sparsity_table(model: Any) -> SparsityTable:
    """Prints how many weights each layer keeps, and returns the table.

    Weights of two dimensions or more are counted, trainable or not: what pruning is about. Biases, scales and masks
    are left out.

    Args:
        model: a Keras 3 model that has been built.

    Returns:
        The table: ``rows`` (layer, shape, size, kept, density, num_bytes) and ``total``.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: the model has no weights yet.

    Example:
        >>> import keras, keras_prune
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.Dense(5, name="dense")(inputs))
        >>> table = keras_prune.sparsity_table(keras_prune.prune(model, 0.8))
        layer         shape     kept  density  bytes
        --------------------------------------------
        dense/kernel  4 × 5  4 of 20   20.00%     80
        --------------------------------------------
        total                4 of 20   20.00%     80
    """
    check_model(model)
    if not model.built and not model.weights:
        raise ValueError("sparsity_table: expected a model that has weights, got one not built yet; call it on data")
    weights = named(model, [variable for variable in without_masks(model.weights) if is_kernel(variable)])
    table = SparsityTable(tuple(_row(path, variable) for path, variable in weights.items()))
    sys.stdout.write(f"{table}\n")
    return table


def _row(path: str, variable: Any) -> SparsityRow:
    values = variable.numpy()
    return SparsityRow(path, tuple(values.shape), values.size, int(np.count_nonzero(values)), values.nbytes)
