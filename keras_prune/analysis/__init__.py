"""Looking at a model: how sparse it is, and (by measurement) how sparse it can be."""

from __future__ import annotations

from keras_prune.analysis.oracle import Oracle, oracle
from keras_prune.analysis.rank_correlation import (
    CRITERIA,
    Agreement,
    RankCorrelation,
    correlate,
    rank_correlation,
)
from keras_prune.analysis.search import SearchResult, Trial, find_quality, find_sparsity
from keras_prune.analysis.sensitivity import Sensitivity, SensitivityRow, sensitivity
from keras_prune.analysis.table import SparsityRow, SparsityTable, sparsity_table

__all__ = [
    "CRITERIA",
    "Agreement",
    "Oracle",
    "RankCorrelation",
    "SearchResult",
    "Sensitivity",
    "SensitivityRow",
    "SparsityRow",
    "SparsityTable",
    "Trial",
    "correlate",
    "find_quality",
    "find_sparsity",
    "oracle",
    "rank_correlation",
    "sensitivity",
    "sparsity_table",
]
