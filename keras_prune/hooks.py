"""Functions that stand in for an object's own method for a while, and can leave in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stand_around(holder: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Puts a function around a method of one object, not of its class.

    Args:
        holder: the object, such as a layer.
        name: of the method, such as ``"call"``.
        around: called with what stood there before and the arguments of the call; returns what the method returns.

    Returns:
        What takes it away again.

    Example:
        >>> numbers = type("Numbers", (), {"double": lambda self, x: 2 * x})()
        >>> undo = stand_around(numbers, "double", lambda double, x: double(x) + 1)
        >>> numbers.double(5)
        11
        >>> undo()
        >>> numbers.double(5)
        10
    """
    own, before = vars(holder).get(name), getattr(holder, name)

    def instead(*args: Any, **kwargs: Any) -> Any:
        if instead.gone:  # type: ignore[attr-defined]
            return before(*args, **kwargs)
        return around(before, *args, **kwargs)

    def undo() -> None:
        instead.gone = True  # type: ignore[attr-defined]
        first = vars(holder).get(name)
        while getattr(first, "gone", False):  # those that left while others stood around them
            first = first.own
        vars(holder).pop(name, None)
        if first is not None:
            vars(holder)[name] = first

    instead.gone, instead.own = False, own  # type: ignore[attr-defined]
    vars(holder)[name] = instead  # not setattr: Keras and TensorFlow look for variables in what is set
    return undo
