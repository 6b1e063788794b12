"""The ``activations=`` argument of the exports: float32 or int8, and what int8 is calibrated on."""

from __future__ import annotations

import dataclasses
from typing import Any

KINDS = ("float32", "int8")


@dataclasses.dataclass(frozen=True)
class Activations:
    """The arguments ``activations`` and ``representative_data``, checked.

    Args:
        kind: "float32" or "int8".
        representative_data: for "int8": typical inputs, from which each layer gets one scale for good; None: each row
            of activations gets its own while the model runs.
        function: name of the public function, for errors.

    Raises:
        ValueError: an unknown kind, or data for float32.
    """

    kind: str = "float32"
    representative_data: Any = None
    function: str = "export_tflite"

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ValueError(f"{self.function}: expected activations to be one of {KINDS}, got {self.kind!r}")
        if self.kind == "float32" and self.representative_data is not None:
            raise ValueError(
                f"{self.function}: expected representative_data only with activations='int8', got it with "
                f"{self.kind!r}; leave it out"
            )
