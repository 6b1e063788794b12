"""The lower bounds that setup.cfg states, in an environment of their own (slow).

This is for what trains and writes files; in what they run is the matter of `make test-matrix`.
"""

from __future__ import annotations

import configparser
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What crosses TensorFlow, Keras and the runtime; the pure modules do not depend on versions.
FILES = (
    "callbacks callbacks_fits callbacks_steps channels cleanup codebook_training constants delegate densify "
    "dependencies distillation evaluate export_errors export_tflite export_types files followers freezing graph "
    "greedy layer_axes layer_costs layer_costs_energy layers masks objective ops oracle pack_files "
    "pack_fully_connected pack_tflite "
    "quantize_model rank_correlation retraining runtime saved_model saved_model_folder saved_model_storage "
    "shrink_history stand_before surgery unit_costs unit_criteria unit_scores unit_statistics unit_statistics_kinds "
    "ways_to_train wrappers"
).split()
# TensorFlow 2.16 allows only NumPy 1.
PINNED = {"numpy": "numpy<2"}
# Keras 3.4 warns of any data set that ends within an epoch, as that of the last, shorter execution does.
IGNORED = ("ignore:Your input ran out of data:UserWarning",)


def lowest() -> list[str]:
    """The dependencies at their lower bounds."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    bounds = re.findall(r"^([\w-]+)>=([\d.]+)$", config["options"]["install_requires"], re.MULTILINE)
    assert {"tensorflow", "keras", "ai-edge-litert"} <= {name for name, _ in bounds}
    return [PINNED.get(name, f"{name}~={version}.0") for name, version in bounds]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="TensorFlow 2.16 has no wheel for Python 3.13")
def test_lowest_versions_pass(tmp_path):
    python = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    install = [python, "-m", "pip", "install", "--quiet", *lowest(), "pytest", "hypothesis", "scikit-learn", "scipy"]
    subprocess.run(list(map(str, install)), check=True)
    warnings = [f"-W{rule}" for rule in IGNORED]
    tests = [str(ROOT / "tests" / f"test_{name}.py") for name in FILES]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *warnings, *tests]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert re.search(r"\d{2,} passed", result.stdout)
