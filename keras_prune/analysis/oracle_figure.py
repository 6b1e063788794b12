"""The oracle's ranks by layer, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure; raises ImportError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("figure: expected matplotlib; pip install 'keras-prune[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def draw(ranks: Mapping[str, np.ndarray], changes: Mapping[str, np.ndarray]) -> Any:
    """A column for each layer with a dot for each unit at its rank; lines join the first, the mean and the last.

    Args:
        ranks: name of the layer -> ranks of its units among all, 1 = matters most.
        changes: name of the layer -> change of the loss on removal, same shape: units that the loss falls without are
            drawn apart.

    Returns:
        A matplotlib figure.
    """
    names = [name for name, rank in ranks.items() if len(rank)]
    figure = new_figure(max(6.0, min(2.5 + 0.45 * len(names), 24.0)), 4.8)
    axes = figure.add_subplot()
    for falls, color, label in (
        (False, "tab:blue", "a unit"),
        (True, "tab:orange", "a unit without which the loss falls"),
    ):
        points = [(x, y) for x, name in enumerate(names) for y in ranks[name][(changes[name] < 0) == falls]]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, ".", color=color, markersize=4, alpha=0.55, label=label)
    for statistic, style, label in ((np.min, "v--", "first"), (np.mean, "o-", "mean"), (np.max, "^--", "last")):
        places = [float(statistic(ranks[name])) for name in names]
        axes.plot(range(len(names)), places, style, color="0.2", linewidth=1, markersize=4, label=label)
    axes.set(ylabel="rank among all units (1 = matters most)", title="The oracle's ranks, by layer")
    label_layers(axes, names)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    return figure


def label_layers(axes: Any, names: Sequence[str]) -> None:
    """Names of the layers along the lower side, slanted where they would run into one another."""
    slant = sum(map(len, names)) > 60  # letters that fit on one line
    axes.set_xticks(range(len(names)), names, **({"rotation": 45, "ha": "right"} if slant else {}), fontsize="small")
