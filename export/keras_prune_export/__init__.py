"""Export of pruned Keras models to the device, its runtime, and the judgement of the result.

Names are loaded when they are first used: running a packed file needs neither TensorFlow nor Keras.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "choose_bits": "keras_prune_export.bit_budget",
    "compare_tflite": "keras_prune_export.evaluate",
    "convert": "keras_prune_export.converter",
    "device_costs": "keras_prune_export.kernel_costs",
    "evaluate_tflite": "keras_prune_export.evaluate",
    "export_saved_model": "keras_prune_export.saved_model",
    "export_tflite": "keras_prune_export.tflite",
    "load_interpreter": "keras_prune_export.runtime",
    "measure_latency": "keras_prune_export.latency",
    "measure_latency_table": "keras_prune_export.latency",
    "pack_tflite": "keras_prune_export.packing",
    "predict_tflite": "keras_prune_export.evaluate",
    "quantize": "keras_prune_export.quantization",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'keras_prune_export' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
