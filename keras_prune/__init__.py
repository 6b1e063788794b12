"""keras_prune: pruning for Keras 3 that makes models smaller and faster on the device.

Every public name is loaded when it is first used, so that a device that only runs packed files needs
neither TensorFlow nor Keras for ``keras_prune.load_interpreter``.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "APoZ": "keras_prune.criteria",
    "ActivationMean": "keras_prune.criteria",
    "ActivationStd": "keras_prune.criteria",
    "Allocation": "keras_prune.allocation",
    "Balanced": "keras_prune.patterns",
    "BatchNormScale": "keras_prune.criteria",
    "Block": "keras_prune.patterns",
    "Channel": "keras_prune.patterns",
    "Codebook": "keras_prune.quantization",
    "CodebookCallback": "keras_prune.codebook_training",
    "ConstantSparsity": "keras_prune.schedules",
    "CosineSparsity": "keras_prune.schedules",
    "Criterion": "keras_prune.criteria",
    "Distiller": "keras_prune.distillation",
    "ERK": "keras_prune.allocation",
    "Exempt": "keras_prune.allocation",
    "ExponentialSparsity": "keras_prune.schedules",
    "FreezeCallback": "keras_prune.freezing",
    "FromSensitivity": "keras_prune.allocation",
    "GeometricMedian": "keras_prune.criteria",
    "Global": "keras_prune.allocation",
    "Greedy": "keras_prune.schedules",
    "Int8": "keras_prune.int8",
    "LAMP": "keras_prune.criteria",
    "LatencyTable": "keras_prune.latency_table",
    "Magnitude": "keras_prune.criteria",
    "Movement": "keras_prune.criteria",
    "MutualInformation": "keras_prune.criteria",
    "NByM": "keras_prune.patterns",
    "OBD": "keras_prune.criteria",
    "OneShot": "keras_prune.schedules",
    "PerLayer": "keras_prune.allocation",
    "PolynomialDecay": "keras_prune.schedules",
    "Prune": "keras_prune.wrappers",
    "PruneCallback": "keras_prune.callbacks",
    "Pruner": "keras_prune.pruner",
    "PruningRounds": "keras_prune.schedules",
    "QualityParameter": "keras_prune.allocation",
    "Random": "keras_prune.criteria",
    "Regularized": "keras_prune.objective",
    "RigL": "keras_prune.regrow",
    "SET": "keras_prune.regrow",
    "SNIP": "keras_prune.criteria",
    "Schedule": "keras_prune.schedules",
    "ShrinkHistory": "keras_prune.shrink_history",
    "StandardizedMagnitude": "keras_prune.criteria",
    "StepTable": "keras_prune.schedules",
    "Target": "keras_prune.targets",
    "Taylor": "keras_prune.criteria",
    "TaylorFO": "keras_prune.criteria",
    "Uniform": "keras_prune.allocation",
    "Unstructured": "keras_prune.patterns",
    "WeightNorm": "keras_prune.criteria",
    "choose_bits": "keras_prune_export",
    "compare_tflite": "keras_prune_export",
    "costs": "keras_prune.layer_costs",
    "dependencies": "keras_prune.graph",
    "device_costs": "keras_prune_export",
    "evaluate_tflite": "keras_prune_export",
    "export_saved_model": "keras_prune_export",
    "export_tflite": "keras_prune_export",
    "find_quality": "keras_prune.analysis",
    "find_sparsity": "keras_prune.analysis",
    "frozen": "keras_prune.freezing",
    "geometric_sparsities": "keras_prune.iterative",
    "iterative_prune": "keras_prune.iterative",
    "load_interpreter": "keras_prune_export",
    "measure_latency": "keras_prune_export",
    "measure_latency_table": "keras_prune_export",
    "oracle": "keras_prune.analysis",
    "pack_tflite": "keras_prune_export",
    "predict_tflite": "keras_prune_export",
    "prune": "keras_prune.surgery",
    "quantize": "keras_prune_export",
    "rank_correlation": "keras_prune.analysis",
    "reinitialize": "keras_prune.rewinding",
    "remove_dead_units": "keras_prune.cleanup",
    "rescale_dropout": "keras_prune.dropout",
    "rewind": "keras_prune.rewinding",
    "sensitivity": "keras_prune.analysis",
    "set_regularizer": "keras_prune.regularizers",
    "shrink": "keras_prune.shrinking",
    "sparsity_table": "keras_prune.analysis",
    "strip": "keras_prune.surgery",
    "wrap": "keras_prune.wrappers",
    "wrapper_callbacks": "keras_prune.wrapper_training",
}
_MODULES = ("layers", "ops")

__all__ = ["__version__", *_EXPORTS, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"keras_prune.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'keras_prune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Keras finds a saved model's layers only if they are registered. Who has imported Keras means to use it; a device
# without Keras loads nothing.
if "keras" in sys.modules:
    importlib.import_module("keras_prune.wrappers")
