"""What was removed from a model, round by round, so that a fresh one can be made as small."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_prune.graph import Dependencies, Group, dependencies
from keras_prune.shrinking import remove_units

_VERSION = 1


class ShrinkHistory:
    """Which units each call of `keras_prune.shrink` removed, in order.

    A model that was pruned, shrunk, fine-tuned and pruned again has an architecture that no code builds. The history
    makes it out of a freshly built model, whose weights can then be loaded.

    Example:
        >>> import keras, keras_prune
        >>> def build():
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(10), keras.layers.Dense(2)])
        >>> history = keras_prune.ShrinkHistory()
        >>> model = keras_prune.prune(build(), 0.5, pattern=keras_prune.Channel())
        >>> small = keras_prune.shrink(model, history=history)
        >>> history.replay(build()).count_params() == small.count_params()
        True
    """

    def __init__(self) -> None:
        self.rounds: list[list[tuple[str, int, list[int]]]] = []  # each group's name, units, places of those removed

    def add(self, found: Dependencies, removed: np.ndarray) -> None:
        """Adds a round.

        Args:
            found: the dependencies of the model before the round.
            removed: (num_units,) bool.
        """
        self.rounds.append(
            [(group.name, len(group.units), np.flatnonzero(removed[group.units]).tolist()) for group in found.groups]
        )

    def replay(self, model: Any, *, exact: bool = True) -> Any:
        """Removes from a model what was removed in each round.

        Args:
            model: built as the first one was; its weights may be any.
            exact: as `keras_prune.shrink` was given.

        Returns:
            A new model, as `keras_prune.shrink` returns it; the model itself, if there were no rounds.

        Raises:
            ValueError: the model has other layers, layers of other sizes, or units that must stay and were removed.
        """
        for number, expected in enumerate(self.rounds):
            found = dependencies(model, exact=exact)
            _check(expected, found, number)
            removed = np.zeros(found.num_units, bool)
            for group, (_, _, places) in zip(found.groups, expected, strict=True):
                _check_free(group, places, number)
                removed[group.units[places]] = True
            model = remove_units(found, removed)
        return model

    def save(self, path: str | os.PathLike) -> None:
        """Writes the history as JSON, whole or not at all."""
        text = json.dumps({"version": _VERSION, "rounds": self.rounds})
        path = pathlib.Path(path)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            pathlib.Path(part).replace(path)
        except BaseException:
            pathlib.Path(part).unlink()
            raise

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads what `save` wrote.

        Raises:
            ValueError: another kind of file, or damaged.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            history = cls()
            history.rounds = [[_group(entry) for entry in groups] for groups in _rounds(content)]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"ShrinkHistory.load: expected a file written by save(), version {_VERSION}, got {os.fspath(path)!r} "
                f"({error})"
            ) from error
        return history


def _rounds(content: Any) -> Sequence[Any]:
    if type(content["version"]) is not int or content["version"] != _VERSION:
        raise ValueError(f"version {content['version']!r}")
    return content["rounds"]


def _group(entry: Any) -> tuple[str, int, list[int]]:
    name, size, places = entry
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (size, *places))
    rising = all(a < b for a, b in itertools.pairwise([-1, *places, size])) if whole else False
    if not isinstance(name, str) or not rising or not len(places) < size:  # each group keeps a unit
        raise ValueError(f"group {str(name)[:80]!r}")
    return name, size, list(places)


def _uncounted(name: str) -> str:
    """A name without the numbers that Keras counts up in a process: ``"dense_2"`` is ``"dense"`` in another one."""
    return re.sub(r"_\d+(?=$|[/+#])", "", name)


def _check_free(group: Group, places: Sequence[int], number: int) -> None:
    """Raises ValueError for units of the round that the model must keep."""
    if places and group.protected is not None:
        raise ValueError(
            f"ShrinkHistory.replay: expected units that may go, got {len(places)} of {group.name!r} in round {number}, "
            f"which must stay: {group.protected}; build the model as the first one was, and give exact=False if it "
            "was shrunk so"
        )


def _check(expected: Sequence[tuple[str, int, list[int]]], found: Dependencies, number: int) -> None:
    """Raises ValueError unless the model's groups are those of the round."""
    wanted = [(_uncounted(name), size) for name, size, _ in expected]
    got = [(_uncounted(group.name), len(group.units)) for group in found.groups]
    if wanted != got:
        place = next(
            (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got))
        )
        one, other = (pairs[place] if place < len(pairs) else "nothing" for pairs in (wanted, got))
        raise ValueError(
            f"ShrinkHistory.replay: expected the model that the history began with, in round {number} with the group "
            f"{one} at place {place}, got {other}; build the model with the same layers, names and sizes, "
            "and give exact=False if it was shrunk so"
        )
