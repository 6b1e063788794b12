"""Objects by name, as in Keras: ``criterion="magnitude"`` stands for ``Magnitude()``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any, Self


class Value:
    """Makes a dataclass serializable: its configuration is all its arguments."""

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes the object from `get_config`'s result."""
        return cls(**config)


def register_with_keras(cls: type) -> None:
    """Registers a class with Keras, if Keras has been imported: it is not imported for this, as devices have none."""
    saving = getattr(sys.modules.get("keras"), "saving", None)
    if saving is not None:
        saving.register_keras_serializable("keras_prune")(cls)


def snake_case(name: str) -> str:
    """``"PolynomialDecay"`` -> ``"polynomial_decay"``, ``"NByM"`` -> ``"n_by_m"``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _make(cls: type, config: dict[str, Any], what: str) -> Any:
    """The object, with an error that says which arguments it takes."""
    try:
        return cls.from_config(config) if hasattr(cls, "from_config") else cls(**config)
    except TypeError as error:
        raise TypeError(
            f"{what}: expected the arguments {cls.__name__}{inspect.signature(cls)}, got {config!r} ({error}); "
            f"give an object: {cls.__name__}(...)"
        ) from error


def lookup(identifier: Any, known: Sequence[type], what: str) -> Any:
    """Makes an object from its name, its class or its configuration; returns any other object as it is.

    Args:
        identifier: ``"snake_case"``, ``"ClassName"`` or ``"lowercase"``, a class, an object, or
            ``{"class_name": ..., "config": ...}``.
        known: the classes that a name may stand for.
        what: the kind of object, for error messages, such as ``"criterion"``.

    Returns:
        The object.

    Raises:
        ValueError: no known class has this name.
    """
    config: dict[str, Any] = {}
    if isinstance(identifier, dict) and "class_name" in identifier:
        identifier, config = identifier["class_name"], identifier.get("config", {})
    if isinstance(identifier, type):
        return _make(identifier, config, what)
    if not isinstance(identifier, str):
        return identifier
    for cls in known:
        if identifier.rpartition(">")[2].replace("_", "").lower() == cls.__name__.lower():
            return _make(cls, config, what)
    names = ", ".join(repr(getattr(cls, "spelled", snake_case(cls.__name__))) for cls in known)
    raise ValueError(f"{what}: expected one of {names} or an object, got {identifier!r}")
