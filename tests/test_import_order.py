"""Modules import only from those before them in the design's list."""

from __future__ import annotations

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORDER = (
    "native op_library mask_op registry names targets schedules selection kernel_axes patterns kmeans "
    "quantization int8 int8_activations sparse_format symbol_frequencies entropy_coding unit_grid position_coding "
    "value_coding tensor_layout tensor_header tensor_encoder tensor_decoder tensor_format layer_axes graph layer_costs "
    "criteria allocation masks followers regrow gradients averages hooks unit_memory unit_activations unit_gates "
    "unit_statistics unit_scores state channels kernel_masks unit_selection latency_table objective recipes "
    "unit_pruning removal run_state engine pruner wrappers callbacks wrapper_training surgery shrinking "
    "shrink_history rewinding freezing dropout regularizers distillation cleanup codebook_training analysis "
    "iterative ops layers keras_prune_export"
).split()
FILES = sorted([*(ROOT / "keras_prune").rglob("*.py"), *(ROOT / "export" / "keras_prune_export").rglob("*.py")])


def module_of(parts: tuple[str, ...]) -> str:
    return "keras_prune_export" if parts[0] == "keras_prune_export" else (*parts, "")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path):
    parts = path.relative_to(ROOT / "export" if "export" in path.parts else ROOT).with_suffix("").parts
    here = module_of(parts)
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            top, *_ = split = tuple(name.split("."))
            if top in ("keras_prune", "keras_prune_export") and here not in ("", "__init__"):
                other = module_of(split)
                if top == "keras_prune_export" or other in ORDER:
                    assert ORDER.index(other) <= ORDER.index(here), f"{here} imports {other}"
            assert top not in ("tensorflow_model_optimization", "tf_keras"), f"{path} imports {top}"
            assert not name.startswith("tensorflow.python"), f"{path} imports {name}"
