"""Finished runs in a folder: a checkpoint and a result each; a run that was broken off leaves nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import keras

from keras_prune_export.files import write_atomic


@dataclasses.dataclass(frozen=True)
class Runs:
    """What is finished; a run counts as such when its result is there, which is written after its checkpoint.

    Attributes:
        folder: it is made.
        settings: what all results of a folder have in common.
    """

    folder: pathlib.Path
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        if not path.exists():
            write_atomic(path, (json.dumps(self.settings, indent=1) + "\n").encode())
        found = json.loads(path.read_text())
        if found != self.settings:
            raise ValueError(
                f"{path}: expected results made with {self.settings}, got {found}; give another "
                "--out, or delete the folder"
            )

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a run; None: it is not finished."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def need(self, name: str) -> dict[str, Any]:
        """The result of a run that is finished."""
        return json.loads((self.folder / f"{name}.json").read_text())

    def model(self, name: str) -> keras.Model:
        """The checkpoint of a finished run."""
        return keras.saving.load_model(self.path(name))

    def path(self, name: str) -> pathlib.Path:
        """Where a run's checkpoint is."""
        return self.folder / f"{name}.keras"

    def finish(self, name: str, result: dict[str, Any], model: keras.Model | None = None) -> dict[str, Any]:
        """Stores a run's checkpoint, then its result; returns the result."""
        if model is not None:
            part = self.folder / f"{name}.part.keras"
            model.save(part)
            os.replace(part, self.path(name))  # noqa: PTH105
        write_atomic(self.folder / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
        return result
