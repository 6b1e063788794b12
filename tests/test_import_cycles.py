"""The exporter's modules import each other in one direction, so that each can be imported first."""

from __future__ import annotations

import ast
import graphlib
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "export" / "keras_prune_export"


def imported(path, names):
    """The package's modules that a file imports when it is loaded; those inside functions come later."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} & names
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    return found


def test_no_module_needs_itself():
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in files}
    graph = {name: imported(path, set(paths)) for name, path in paths.items()}
    assert graph["keras_prune_export.tflite"], "imports are not found as this test reads them"
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(paths)  # a CycleError names the circle
