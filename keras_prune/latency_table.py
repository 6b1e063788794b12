"""How long an inference takes by the number of channels of a layer: a table, measured on the device."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_prune.registry import Value

_FORMAT = "keras_prune latency table"
_VERSION = 1
_MAX_BYTES = 16 << 20  # of a file: a point takes about 30 bytes, so this is half a million of them
_HOW = "make one with keras_prune.measure_latency_table, or see docs/training.md for the format"


@dataclasses.dataclass(frozen=True)
class LatencyTable(Value):
    """Seconds of one inference by the number of channels of a layer, all other layers as they are.

    Between two points of a layer time changes linearly, outside of them as between the nearest two. Only differences
    matter, so the seconds may be those of the whole model or of the layer and what it feeds.

    Args:
        layers: name of a layer or group -> ``{channels: seconds}``, two points or more.
        total: seconds of the whole dense model.
        device: what it was measured on, for people.

    Raises:
        TypeError: not a mapping of mappings.
        ValueError: a layer with fewer than two points, or numbers that are no channels or no seconds.

    Example:
        >>> table = LatencyTable({"conv1": {8: 0.002, 16: 0.004}}, total=0.01)
        >>> round(table.seconds_per_channel("conv1", 12), 6)
        0.00025
    """

    layers: Mapping[str, Mapping[int, float]]
    total: float
    device: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Mapping) or not self.layers:
            raise TypeError(f"LatencyTable.layers: expected {{layer: {{channels: seconds}}}}, got {self.layers!r:.200}")
        layers = {_text(name): _points(name, points) for name, points in self.layers.items()}
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "total", _seconds("total", self.total, least=math.ulp(0.0)))
        object.__setattr__(self, "device", _text(self.device))

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`, with channels as text, as JSON has them."""
        layers = {name: {str(n): seconds for n, seconds in points.items()} for name, points in self.layers.items()}
        return {"layers": layers, "total": self.total, "device": self.device}

    def seconds_per_channel(self, layer: str, channels: int) -> float:
        """What the last of so many channels of a layer costs, in seconds: the slope there; below 0 counts as 0."""
        points = self.layers[layer]
        numbers = np.array(list(points))
        left = int(np.clip(np.searchsorted(numbers, channels) - 1, 0, len(numbers) - 2))
        low, high = (int(n) for n in numbers[left : left + 2])
        return max(0.0, (points[high] - points[low]) / (high - low))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as JSON, whole or not at all."""
        target = pathlib.Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        content = {"format": _FORMAT, "version": _VERSION, **self.get_config()}
        try:
            temporary.write_text(json.dumps(content, indent=1))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Reads a table that `save` has written, or that was measured elsewhere and has the same format.

        Raises:
            ValueError: not such a file: too large, no JSON, or fields that are missing or wrong.
        """
        with pathlib.Path(path).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"{path}: expected a latency table of at most {_MAX_BYTES} bytes, got more; {_HOW}")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected a latency table in JSON, got no JSON ({error}); {_HOW}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise ValueError(f'{path}: expected {{"format": "{_FORMAT}", "version": {_VERSION}, ...}}; {_HOW}')
        missing = {"layers", "total"} - content.keys()
        if missing:
            raise ValueError(f"{path}: expected the fields layers and total, got none named {sorted(missing)}; {_HOW}")
        try:
            return cls(content["layers"], content["total"], content.get("device", ""))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}; {_HOW}") from error


def _points(layer: Any, points: Any) -> dict[int, float]:
    if not isinstance(points, Mapping) or len(points) < 2:  # a line has two
        raise ValueError(
            f"LatencyTable.layers[{layer!r:.100}]: expected seconds at two numbers of channels or more, "
            f"got {points!r:.100}"
        )
    found = {_channels(layer, number): _seconds(layer, seconds) for number, seconds in points.items()}
    if len(found) < len(points):
        raise ValueError(f"LatencyTable.layers[{layer!r:.100}]: expected each number of channels once")
    return dict(sorted(found.items()))


def _channels(layer: Any, number: Any) -> int:
    text = isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10  # fits int32
    if not text and (isinstance(number, (bool, str)) or not isinstance(number, (int, np.integer)) or number < 0):
        raise ValueError(
            f"LatencyTable.layers[{layer!r:.100}]: expected whole numbers of channels >= 0, got {number!r:.100}"
        )
    return int(number)


def _seconds(name: Any, seconds: Any, *, least: float = 0.0) -> float:
    number = isinstance(seconds, (int, float, np.floating)) and not isinstance(seconds, bool)
    if not number or not least <= seconds < math.inf:
        raise ValueError(f"LatencyTable[{name!r:.100}]: expected seconds, a finite number >= 0, got {seconds!r:.100}")
    return float(seconds)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"LatencyTable: expected text for names of layers and of the device, got {value!r:.100}")
    return value


def slopes(table: LatencyTable, names: Sequence[str], channels: int) -> float | None:
    """Seconds that one channel of a group costs now: of the first name that the table has, else of all its layers.

    Args:
        table: measured.
        names: the group's, then its layers'.
        channels: that the group has now.

    Returns:
        Seconds; None if the table has none of the names.
    """
    first, *rest = names
    if first in table.layers:
        return table.seconds_per_channel(first, channels)
    found = [table.seconds_per_channel(name, channels) for name in rest if name in table.layers]
    return sum(found) if found else None
