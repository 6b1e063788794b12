"""Where packed layers and dense ones need the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def find(
    points: Sequence[dict[str, Any]], state: str, *, packed: Sequence[str], dense: Sequence[str]
) -> list[dict[str, Any]]:
    """The crossings of each packed form with each dense one, on straight lines between points of logarithmic axes.

    Args:
        points: by rising "x"; "states": state -> form -> row with "median_ms".
        state: of the caches.
        packed: names of packed forms.
        dense: names of dense ones.

    Returns:
        For each crossing "packed", "dense", "x", and "faster": on which side of x the packed form is, "below" or
        "above".
    """
    logs = np.log([point["x"] for point in points])
    found = []
    for name in packed:
        for other in dense:
            medians = [[point["states"][state][form]["median_ms"] for point in points] for form in (other, name)]
            gains = np.log(medians[0]) - np.log(medians[1])
            for left in np.flatnonzero((gains[:-1] > 0) != (gains[1:] > 0)):
                share = gains[left] / (gains[left] - gains[left + 1])
                x = math.exp(logs[left] + share * (logs[left + 1] - logs[left]))
                found.append(
                    {"packed": name, "dense": other, "x": x, "faster": "below" if gains[left] > 0 else "above"}
                )
    return found
