"""What a model costs, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_prune.layer_costs.energy import Energy, Traffic, make_energy
from keras_prune.layer_costs.entries import Entry, entries

_HEAD = ("layer", "output", "MACs", "FLOPs", "parameters", "bytes", "activations", "bandwidth", "units")
_LEFT = 2  # columns of names


@dataclasses.dataclass(frozen=True)
class LayerCosts:
    """What one call of a layer costs, for a batch of one, in inference.

    Attributes:
        layer: the layer's name, behind those of the models and layers that it is in: ``"encoder/conv1"``.
        kind: its class; for a class of the user's own without a ``call`` of its own that of Keras.
        shape: shape of its (first) output, without the batch.
        times: how often `TimeDistributed` repeats it; in all figures.
        macs: multiply-accumulates; None if unknown.
        flops: floating-point operations, two for each multiply-accumulate; None if unknown.
        parameters: weights, trainable or not; those of a shared layer are counted in its first call.
        parameter_bytes: their bytes, as Keras holds them.
        activations: elements of its outputs; 0 for a view of its input, such as of Reshape or Dropout.
        activation_bytes: their bytes.
        activation_traffic: bytes of its inputs and its outputs.
        weight_traffic: bytes of the weights that it reads: each once a call.
        units: output channels that it makes (filters, units, attention heads); 0 in a shared layer's later calls.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    times: int
    macs: int | None
    flops: int | None
    parameters: int
    parameter_bytes: int
    activations: int
    activation_bytes: int
    activation_traffic: int
    weight_traffic: int
    units: int

    @property
    def bandwidth(self) -> int:
        """Bytes read and written."""
        return self.activation_traffic + self.weight_traffic

    @property
    def known(self) -> bool:
        """Whether its operations are known."""
        return self.flops is not None

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        counts = (self.macs, self.flops, self.parameters, self.parameter_bytes, self.activations, self.bandwidth)
        shape = " × ".join(map(str, self.shape))
        name = self.layer if self.times == 1 else f"{self.layer} ({self.times}×)"
        return name, shape, *("?" if count is None else f"{count:,}" for count in counts), f"{self.units:,}"


@dataclasses.dataclass(frozen=True)
class Costs:
    """Rows of calls and their total; ``str`` is a table, ``costs["conv1"]`` the row of a layer, all calls together."""

    rows: tuple[LayerCosts, ...]

    @property
    def total(self) -> LayerCosts:
        """All rows together; operations that are unknown are not in it (`unknown`)."""
        return _sum("total", self.rows)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Layers whose operations are unknown, and not in the total: such as those of the user's own."""
        return tuple(dict.fromkeys(row.layer for row in self.rows if not row.known))

    @property
    def conv_units(self) -> int:
        """Feature maps that convolutions make, as they are counted where filters are pruned: 4,224 in VGG-16."""
        return sum(row.units for row in self.rows if "Conv" in row.kind)

    def __getitem__(self, layer: Any) -> LayerCosts:
        """What a layer costs, all its calls together: by its name, the end of its path, or itself."""
        name = layer.name if isinstance(layer, keras.Operation) else layer
        paths = dict.fromkeys(row.layer for row in self.rows)
        found = [path for path in paths if path == name] or [path for path in paths if f"/{path}".endswith(f"/{name}")]
        if len(found) != 1:
            raise KeyError(f"expected the name of one of the layers {list(paths)}, got {name!r}: {len(found)} of them")
        return _sum(found[0], [row for row in self.rows if row.layer == found[0]])

    def energy(self, weight_bytes: int | None = None, *, sram_bytes: int) -> Energy:
        """Energy of one inference, by Han's table for a 45 nm process.

        E = MACs · (3.7 + 0.9 pJ) + other FLOPs · 0.9 pJ + 32-bit words moved · (5 pJ from SRAM or 640 pJ from DRAM)

        Weights are read from SRAM if all of them fit, else all from DRAM; each call's inputs and outputs likewise,
        judged by themselves. Each word is moved once a call: what a cache cannot hold costs more.

        Args:
            weight_bytes: of all weights as they are stored, such as of a packed file; None: as Keras holds them.
                Operations are those of the dense model.
            sram_bytes: size of the SRAM, > 0.

        Returns:
            Picojoules by cause; ``total_pj``, ``weights_fit``.

        Raises:
            ValueError: a size is not positive, or the operations of some layers are unknown.

        Paper: Han, Pool, Tran, Dally 2015, table 1 (Horowitz's figures).

        Example:
            >>> import keras, keras_prune
            >>> model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(100, use_bias=False)])
            >>> energy = keras_prune.costs(model).energy(sram_bytes=512 * 1024)
            >>> energy.weights_fit, round(energy.macs_pj), round(energy.weights_pj)
            (True, 460000, 500000)
        """
        if self.unknown:
            raise ValueError(f"energy: expected layers whose operations are known, got unknown ones in {self.unknown}")
        total = self.total
        held = total.parameter_bytes
        stored = held if weight_bytes is None else weight_bytes
        # A shared layer's weights are read in each of its calls.
        read = total.weight_traffic * stored / held if held else 0.0
        activations = tuple(row.activation_traffic for row in self.rows)
        traffic = Traffic(total.macs or 0, total.flops or 0, stored, read, activations)
        return make_energy(traffic, sram_bytes)

    def __str__(self) -> str:
        """The table, with aligned columns."""
        lines = [_HEAD, *(row.cells() for row in self.rows), self.total.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [_line(cells, widths) for cells in lines]
        rule = "-" * len(text[0])
        notes = [f"FLOPs unknown, not in the total: {', '.join(self.unknown)}"] if self.unknown else []
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], *notes])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    pairs = list(zip(cells, widths, strict=True))
    left = [cell.ljust(width) for cell, width in pairs[:_LEFT]]
    return "  ".join([*left, *(cell.rjust(width) for cell, width in pairs[_LEFT:])])


def _sum(name: str, rows: Sequence[LayerCosts]) -> LayerCosts:
    """Rows as one: that of a layer if they are its calls."""
    names = [field.name for field in dataclasses.fields(LayerCosts)][4:]
    sums: dict[str, Any] = {field: sum(getattr(row, field) or 0 for row in rows) for field in names}
    if not rows or rows[0].layer != name:
        return LayerCosts(name, "", (), 1, **sums)
    if not rows[0].known:
        sums |= {"macs": None, "flops": None}
    return LayerCosts(name, rows[0].kind, rows[0].shape, rows[0].times, **sums)


def costs(model: Any, input_shape: Any = None) -> Costs:
    """Operations, parameters, activations and memory traffic of a model by layer, for one example in inference.

    FLOPs = 2 · MACs + other operations: a multiply-accumulate (MAC) is two. Borders that are padded count as data, as
    in TensorFlow's profiler; batch normalization is 2 an element (its statistics are constants), softmax 5, any other
    activation 1. Masks are not seen: a pruned weight costs what it did; `shrink` makes the model smaller.

    Args:
        model: a Keras 3 model that is built: Sequential, functional, nested, or subclassed.
        input_shape: shape of one example without the batch, for models that leave sizes open; a list of shapes, or a
            dict by name, for several inputs.

    Returns:
        `Costs`: ``rows`` (one a call of a layer or operator), ``total``, ``unknown`` (layers whose operations are
        unknown, such as the user's own: never in the total), ``conv_units``, ``energy(sram_bytes=...)``.

    Raises:
        TypeError: not a Keras 3 model.
        ValueError: the model is not built, or a size is unknown.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3, name="conv")])
        >>> print(keras_prune.costs(model))
        layer  output         MACs    FLOPs  parameters  bytes  activations  bandwidth  units
        -------------------------------------------------------------------------------------
        conv   26 × 26 × 8  48,672  102,752          80    320        5,408     25,088      8
        -------------------------------------------------------------------------------------
        total               48,672  102,752          80    320        5,408     25,088      8
    """
    return Costs(tuple(map(_row, entries(model, input_shape))))


def _row(entry: Entry) -> LayerCosts:
    parameters = sum(math.prod(variable.shape) for variable in entry.new)
    num_bytes = sum(map(bytes_of, entry.new))
    if entry.call is None:
        return LayerCosts(entry.name, entry.kind, (), 1, 0, 0, parameters, num_bytes, 0, 0, 0, 0, 0)
    call, work, times = entry.call, entry.work, entry.call.times
    outputs = call.outputs if work is None or work.copies else ()
    inputs = call.inputs if work is None or work.copies else ()
    written = sum(output.num_bytes for output in outputs)
    return LayerCosts(
        layer=entry.name,
        kind=entry.kind,
        shape=call.outputs[0].shape[1:] if call.outputs else (),
        times=times,
        macs=None if work is None else times * work.num_macs,
        flops=None if work is None else times * work.num_flops,
        parameters=parameters,
        parameter_bytes=num_bytes,
        activations=times * sum(output.size for output in outputs),
        activation_bytes=times * written,
        activation_traffic=times * (written + sum(tensor.num_bytes for tensor in inputs)),
        weight_traffic=weight_traffic(entry),
        units=0 if work is None or (entry.weights and not entry.new) else work.units,
    )


def bytes_of(variable: Any) -> int:
    """Bytes of a variable as Keras holds it."""
    return math.prod(variable.shape) * item_bytes(variable)


def item_bytes(variable: Any) -> int:
    """Bytes of one of its elements."""
    return int(tf.as_dtype(variable.dtype).size)


def weight_traffic(entry: Entry) -> int:
    """Bytes of the weights that a call reads."""
    if entry.call is None:
        return 0
    if entry.work is not None and entry.work.rows is not None:
        return entry.call.times * entry.work.rows * item_bytes(entry.weights[0])
    return sum(map(bytes_of, entry.weights))
