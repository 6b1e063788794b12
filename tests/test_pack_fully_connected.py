"""Fully connected operators on packed weights, on models made by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from stock_files import as_stock, assert_same, run  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import flatbuffer, packing
from keras_prune_export.flatbuffer import schema
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed as target
from keras_prune_export.targets.fully_connected import Options
from keras_prune_export.transformations.tidy import shorten_names

pytestmark = pytest.mark.usefixtures("packed_layers_compute")


def packed(model, schemes=None):
    return packing.pack(flatbuffer.write(model), schemes or Schemes(Codebook()))


def test_every_subgraph_is_edited_and_weights_are_stored_once():
    data, (layer,) = packed(small_model(sparse()))
    assert (layer.form, layer.kept) == ("compute", np.count_nonzero(sparse()))
    assert re.fullmatch(r"computes on the \d\d\.\d% of the weights that are kept", layer.reason)
    model = flatbuffer.read(data)
    assert [flatbuffer.text(code.customCode) for code in model.operatorCodes] == [target.COMPUTE]
    first, second = (graph.tensors[graph.operators[0].inputs[1]] for graph in model.subgraphs)
    assert first.buffer == second.buffer
    assert data.count(sparse_format.MAGIC) == 1
    x = np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)
    np.testing.assert_allclose(run(data, x)["y"], x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [0, 1, 2, 3])
@pytest.mark.parametrize("keep_num_dims", [False, True])
def test_fused_activation_and_dimensions(activation, keep_num_dims):
    data, _ = packed(small_model(sparse(), activation=activation, keep_num_dims=keep_num_dims))
    x = np.random.default_rng(0).normal(size=(2, 3, 40)).astype(np.float32) * 5
    got, want = run(data, x), run(as_stock(data), x)
    assert got["y"].shape == ((2, 3, 24) if keep_num_dims else (6, 24))
    assert_same(got, want)


OPTIONS = {
    "010301006137a582": Options(3, True),
    "01010001d8e23def": Options(1, activations="int8"),
    "0200384100000040": Options(activations="int8", x_scale=2.0),
    "020785f10000003f": Options(3, True, "int8", 0.5),
}


def test_options_golden():
    for text, options in OPTIONS.items():
        assert options.to_bytes().hex() == text
        assert Options.from_bytes(bytes.fromhex(text)) == options


def test_the_longer_options_of_version_1_are_read():
    assert Options.from_bytes(bytes.fromhex("0100000207cd94a500000040")) == Options(activations="int8", x_scale=2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected 8 bytes of options of version 1 or 2, got  \(0 bytes\)"),
        ("010301006137a5", "7 bytes"),
        ("030301006137a582", "version 1 or 2, got 030301006137a582"),
        ("010401006137a582", "010401006137a582 are not known"),
        ("010302006137a582", "are not known"),
        ("010301026137a582", "are not known"),  # a scale is missing
        ("010301016137a58200000040", "are not known"),  # a scale too many
        ("01000002000000000000807f", "are not known"),  # infinite
        ("0100000207cd94a500000041", "checksum does not match"),
        ("020000000000807f", "are not known"),  # infinite
        ("0200000000000080", "are not known"),
        ("0200000000000000", "are not known"),
        ("0208000000000040", "are not known"),
        ("0200000000000041", "checksum does not match"),
        ("010301006137a583", "checksum does not match"),
    ],
)
def test_options_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Options.from_bytes(bytes.fromhex(text))


def test_report_golden():
    codes = np.zeros((2, 64), np.uint8)
    codes[0, 40], codes[1, 63] = 1, 2
    # 40 zeros before the first weight, 86 before the second: one entry each with 7-bit gaps
    data = sparse_format.encode(codes, np.array([0, 0.5, -1], np.float32))
    assert target.describe("w", data, form="compute", reason="because").to_dict() == {
        "name": "w",
        "shape": [2, 64],
        "form": "compute",
        "reason": "because",
        "kept": 2,
        "fillers": 0,
        "gap_bits": 7,
        "code_bits": 2,
        "header_bytes": 36,
        "codebook_bytes": 8,
        "gap_bytes": 2,
        "code_bytes": 1,
        "low_bytes": 0,
        "activations": "",  # of a file's operators; these bytes are in none yet
        "num_bytes": 47,
    }


def activations(kind):
    def edit(model):
        model.subgraphs[0].tensors[0].type = kind

    return edit


def shuffled(model):
    model.subgraphs[0].operators[0].builtinOptions.weightsFormat = 1


def tanh(model):
    model.subgraphs[0].operators[0].builtinOptions.fusedActivationFunction = 4


def returned(model):
    model.subgraphs[0].outputs = np.array([1], np.int32)


def wide_bias(model):
    model.subgraphs[0].tensors[2].shape = np.array([1, 24], np.int32)


def read_by_another(model):
    model.subgraphs[1].operators[0].opcodeIndex = 0
    model.subgraphs[1].operators[0].builtinOptionsType = 0
    model.subgraphs[1].operators[0].builtinOptions = None


@pytest.mark.parametrize(
    ("edit", "form", "reason"),
    [
        (activations(schema.TensorType.INT8), "expand", "expanded at load: its activations are not float32"),
        (shuffled, "expand", "expanded at load: its weights are shuffled"),
        (tanh, "expand", "expanded at load: its fused activation is not"),
        (wide_bias, "expand", "expanded at load: its bias is not float32"),
        (read_by_another, "expand", "expanded at load for ADD, FULLY_CONNECTED"),
        (returned, "stock", "the caller reads it"),
    ],
)
def test_what_cannot_be_computed_is_expanded_or_stays_and_says_why(edit, form, reason):
    model = small_model(sparse() + 0)  # +0 for -0
    edit(model)
    data, (layer,) = packed(model)
    assert layer.form == form
    assert layer.reason.startswith(reason)
    # Operators as they were, and every weight: these have few values, which a codebook holds.
    want = flatbuffer.write(packing.load(flatbuffer.write(model), "test"))
    assert flatbuffer.content(flatbuffer.read(as_stock(data))) == flatbuffer.content(flatbuffer.read(want))


@pytest.mark.parametrize(
    ("weights", "form", "reason"),
    [
        (sparse(density=0.95), "expand", r"9\d\.\d% of the weights are kept, dense kernels are \d+\.\d times as fast"),
        (np.eye(2, 4, dtype=np.float32), "stock", r"packed it would need \d+ bytes, as it is it needs 32"),
        (np.full((24, 40), np.nan, np.float32), "stock", "NaN"),
    ],
)
def test_what_does_not_pay_stays(weights, form, reason):
    _, (layer,) = packed(small_model(weights), Schemes(Codebook(), 0.0))
    assert layer.form == form
    assert re.search(reason, layer.reason), layer.reason


def test_a_small_file_that_would_not_shrink_is_left_as_it_is():
    model = small_model(np.eye(2, 4, dtype=np.float32))
    data, (layer,) = packed(model)
    assert not layer.packed
    want = packing.load(flatbuffer.write(model), "test")
    shorten_names(want)
    assert data == flatbuffer.write(want)
    again, _ = packing.pack(data, Schemes(Codebook()))
    assert again == data


def test_two_matrices_are_chosen_one_by_one():
    _, layers = packed(small_model(sparse(), second_weights=sparse(density=0.97)))
    assert [layer.form for layer in layers] == ["compute", "expand"]


def test_all_zero_layer():
    data, (layer,) = packed(small_model(np.zeros((24, 40), np.float32)))
    assert (layer.kept, layer.num_bytes) == (0, 36)
    np.testing.assert_array_equal(run(data, np.ones((1, 40), np.float32))["y"], [np.arange(24)])


def test_pruned_weights_that_stay_are_reported(caplog):
    model = small_model(sparse())
    returned(model)
    packed(model)
    (record,) = caplog.records
    assert "is pruned but stays dense: the caller reads it" in record.getMessage()
    caplog.clear()
    packed(small_model(np.eye(2, 4, dtype=np.float32)))
    assert not caplog.records  # packing it does not pay
