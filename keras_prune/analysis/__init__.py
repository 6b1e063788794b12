"""Looking at a model: how sparse it is, and (by measurement) how sparse it can be."""

from __future__ import annotations

from keras_prune.analysis.search import SearchResult, Trial, find_quality, find_sparsity
from keras_prune.analysis.sensitivity import Sensitivity, SensitivityRow, sensitivity
from keras_prune.analysis.table import SparsityRow, SparsityTable, sparsity_table

__all__ = [
    "SearchResult",
    "Sensitivity",
    "SensitivityRow",
    "SparsityRow",
    "SparsityTable",
    "Trial",
    "find_quality",
    "find_sparsity",
    "sensitivity",
    "sparsity_table",
]
