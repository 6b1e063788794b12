"""Correlations of criteria with the oracle, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_prune.analysis.oracle_figure import new_figure


def draw(rows: Mapping[str, Mapping[str, float]], *, num_layers: int) -> Any:
    """A field for each criterion and layer, with its number; red is the oracle's order, blue the reverse.

    Args:
        rows: name of the criterion -> name of the column -> correlation in [-1, 1], or NaN; from top to bottom.
        num_layers: how many columns are layers; those behind them are set apart.

    Returns:
        A matplotlib figure.
    """
    columns = list(next(iter(rows.values())))
    values = np.array([[row[column] for column in columns] for row in rows.values()])
    figure = new_figure(max(6.0, 2.5 + 0.55 * len(columns)), 1.6 + 0.36 * len(rows))
    axes = figure.add_subplot()
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.2f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.7 else "black")
    axes.set_yticks(range(len(rows)), list(rows), fontsize="small")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize="small")
    axes.axvline(num_layers - 0.5, color="white", linewidth=4)
    axes.set_title("Spearman's correlation with the oracle's |change of the loss|", fontsize="medium")
    figure.colorbar(picture, ax=axes, label="Spearman's correlation", fraction=0.04)
    return figure
