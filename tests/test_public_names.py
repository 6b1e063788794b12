"""The public names: each loads, in any order, and is what it says."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import keras_prune

MODULES = {path.stem for path in pathlib.Path(keras_prune.__file__).parent.iterdir()}


@pytest.mark.parametrize("name", sorted(set(keras_prune.__all__) - {"__version__", "ops", "layers"}))
def test_a_public_name_is_no_module_and_loads(name):
    # A submodule would take the name's place in the package as soon as it is imported.
    assert name not in MODULES
    assert callable(getattr(keras_prune, name))
    assert name in dir(keras_prune)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        keras_prune.nothing  # noqa: B018


def test_running_a_packed_file_imports_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_prune; keras_prune.load_interpreter; keras_prune.evaluate_tflite; "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
