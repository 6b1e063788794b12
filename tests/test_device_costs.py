"""Files of costs that a device measured."""

from __future__ import annotations

import contextlib
import json

import pytest
from one_operator import fully_connected  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import kernel_costs, kernel_terms, packing
from keras_prune_export.schemes import Schemes

COSTS = {name: kernel_costs.table()["avx2"][name] for name in (*kernel_terms.PIXELS, *kernel_terms.names())}


def costs_file(path, **changes):
    path.write_text(json.dumps({"isas": {"neon": COSTS | changes}, "nanoseconds": []}))
    return path


def test_costs_of_a_device_decide_within_the_block(tmp_path):
    source = fully_connected()
    path = costs_file(tmp_path / "pi.json", few_kept=1e6)
    forms = []
    for costs in (contextlib.nullcontext(), keras_prune.device_costs(path), contextlib.nullcontext()):
        with costs:
            forms.append(packing.pack(source, Schemes(Codebook()))[1][0].form)
            assert ("neon" in kernel_costs.table()) == (len(forms) == 2)
    assert forms == ["compute", "expand", "compute"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"isas": {}}',
        '{"isas": [1]}',
        '{"isas": {"neon": {"tile": 8}}}',
        json.dumps({"isas": {"neon": COSTS | {"few_kept": -1}}}),
        json.dumps({"isas": {"neon": COSTS | {"few_kept": float("nan")}}}),
        json.dumps({"isas": {"neon": COSTS | {"few_kept": 1e308}}}),
        json.dumps({"isas": {"neon": COSTS | {"few_kept": 10**400}}}),
        json.dumps({"isas": {"neon": COSTS | {"few_kept": "1"}}}),
        json.dumps({"isas": {"neon": COSTS | {"tile": 0}}}),
        json.dumps({"isas": {"neon": COSTS | {"int8_tile_from": 1.5}}}),
        "[" * 100000,
    ],
)
def test_a_file_that_holds_no_costs(tmp_path, text):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with (
        pytest.raises(ValueError, match=r"device_costs: expected a file of costs, got .*costs\.json.; write one on"),
        keras_prune.device_costs(path),
    ):
        pass


@pytest.mark.parametrize("name", ["packed_int8_few_patch_kept", "int8_thin_tile_from"])
def test_a_file_that_another_version_wrote(tmp_path, name):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"isas": {"avx2": COSTS, "neon": {k: v for k, v in COSTS.items() if k != name}}}))
    message = rf"expected all costs that this version knows, got .*costs\.json' without '{name}': another version of "
    with pytest.raises(ValueError, match=message), keras_prune.device_costs(path):
        pass


@pytest.mark.parametrize("name", ["mmx", "NEON", ""])
def test_an_instruction_set_that_no_kernel_has(tmp_path, name):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"isas": {"neon": COSTS, name: COSTS}}))
    message = (
        f"expected instruction sets of reference, scalar, avx2, .* neondot, got {name!r} in .*costs.json.; write one"
    )
    with pytest.raises(ValueError, match=message), keras_prune.device_costs(path):
        pass


def test_a_folder_of_costs(tmp_path):
    with (
        pytest.raises(ValueError, match=r"expected a file of costs, got the folder .*; write one on the device with"),
        keras_prune.device_costs(tmp_path),
    ):
        pass


def test_no_file_of_costs(tmp_path):
    with pytest.raises(FileNotFoundError), keras_prune.device_costs(tmp_path / "none.json"):
        pass
