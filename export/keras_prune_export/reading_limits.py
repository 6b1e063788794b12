"""How much a .tflite file may make its readers build: offsets may share bytes, so that a small file could say a lot."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

_MIN_TABLE_BYTES = 8  # an offset in a vector and an offset to a vtable
_MOST_SHARED = 4  # strings and vectors, each as often as it is referred to, in sizes of the file; writers share few
_UNIONS = {
    "BuiltinOptions": "BuiltinOptions",
    "BuiltinOptions2": "BuiltinOptions2",
    "Details": "QuantizationDetails",
    "ArraySegments": "SparseIndexVector",
    "ArrayIndices": "SparseIndexVector",
}


def check(root: Any, num_bytes: int) -> None:
    """Follows every offset of a file before objects are made of it.

    Args:
        root: ``schema.Model``.
        num_bytes: of the file.

    Raises:
        ValueError: more tables than could stand in the file, or strings and vectors of several times its size.
        Exception: what reading damaged bytes raises.
    """
    _Budget(num_bytes).take(root)


class _Budget:
    """What may still be read."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes, self._tables, self._content = num_bytes, 0, 0

    def take(self, table: Any) -> None:
        """Counts a table and all that it refers to."""
        self._count_tables(1)
        vectors, fields = _accessors(table.__class__)
        for name in vectors:
            if hasattr(table, f"{name}AsNumpy"):
                self._count_content(getattr(getattr(table, f"{name}AsNumpy")(), "nbytes", 0))
                continue
            length = getattr(table, f"{name}Length")()
            self._check_tables(length)  # before the loop, which a damaged length would make long
            for index in range(length):
                self.take(getattr(table, name)(index))
        for name in fields:
            value = getattr(table, name)()
            if isinstance(value, bytes):
                self._count_content(len(value))
            elif isinstance(value, Table):
                self._take_union(table, name, value)
            elif hasattr(value, "_tab"):
                self.take(value)

    def _take_union(self, table: Any, name: str, value: Table) -> None:
        kind = getattr(table, f"{name}Type")()
        member = getattr(schema, _members(_UNIONS[name]).get(kind, ""), None)
        if member is not None:
            found = member()
            found.Init(value.Bytes, value.Pos)
            self.take(found)

    def _count_tables(self, number: int) -> None:
        self._check_tables(number)
        self._tables += number

    def _check_tables(self, number: int) -> None:
        if (self._tables + number) * _MIN_TABLE_BYTES > self._num_bytes:
            raise ValueError(f"{self._tables + number} or more tables in {self._num_bytes} bytes")

    def _count_content(self, number: int) -> None:
        self._content += number
        if self._content > _MOST_SHARED * self._num_bytes:
            raise ValueError(f"strings and vectors of {self._content} bytes or more in {self._num_bytes} bytes")


@functools.cache
def _accessors(cls: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The vectors of a generated class, and its other fields."""
    names = {name: found for name, found in vars(cls).items() if inspect.isfunction(found)}
    vectors = tuple(name for name in names if f"{name}Length" in names)
    helpers = {f"{name}{ending}" for name in vectors for ending in ("Length", "AsNumpy", "IsNone")}
    fields = (name for name in names if name not in helpers and len(inspect.signature(names[name]).parameters) == 1)
    return vectors, tuple(fields)


@functools.cache
def _members(union: str) -> dict[int, str]:
    """The number of each member of a union, and its class."""
    found = vars(getattr(schema, union, object))
    return {number: name for name, number in found.items() if isinstance(number, int) and number}
