"""Looking at a model: how sparse it is, and (by measurement) how sparse it can be."""

from __future__ import annotations

from keras_prune.analysis.table import SparsityRow, SparsityTable, sparsity_table

__all__ = ["SparsityRow", "SparsityTable", "sparsity_table"]
