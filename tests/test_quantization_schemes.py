"""What weights= means for one weight."""

from __future__ import annotations

import numpy as np
import pytest

from keras_prune import Codebook, Int8
from keras_prune_export.schemes import Schemes

PRUNED = np.array([[0, 0, 0, 1.5], [0, 0, 2.5, 0]], np.float32)
DENSE = np.array([[1, 2], [3, 4]], np.float32)


@pytest.mark.parametrize(
    ("weights", "values", "expected"),
    [
        (None, PRUNED, Codebook(8)),
        (None, DENSE, "lossless"),
        (None, PRUNED[0], "lossless"),  # a bias
        (Int8(), PRUNED, Int8()),
        (Codebook(3), PRUNED, Codebook(3)),
        ("float16", PRUNED, "float16"),
        ("float16", DENSE, "lossless"),
        ("lossless", PRUNED, "lossless"),
    ],
)
def test_one_scheme_for_all_pruned_weights(weights, values, expected):
    assert Schemes(weights).of(["a/kernel"], values, is_fully_connected=False) == expected


def test_fully_connected_layers_get_four_bits_by_default():
    assert Schemes().of([], PRUNED, is_fully_connected=True) == Codebook(4)
    assert Schemes().of([], DENSE, is_fully_connected=True) == "lossless"


def test_least_sparsity_zero_takes_every_weight_of_two_dimensions():
    schemes = Schemes(Int8(), min_sparsity=0)
    assert schemes.of([], DENSE, is_fully_connected=True) == Int8()
    assert schemes.of([], DENSE[0], is_fully_connected=True) == "lossless"


def test_mapping_first_key_counts_and_the_others_get_the_default():
    schemes = Schemes({"dense": Codebook(5), "dense.*": "lossless", "conv": Int8(), "out": None})
    for names, values, expected in [
        (["dense/kernel"], PRUNED, Codebook(5)),
        (["dense_1/kernel"], PRUNED, "lossless"),
        (["a/conv/kernel"], DENSE, Int8()),  # named: pruned or not
        (["functional/conv2d;x", "conv/kernel"], DENSE, Int8()),  # any of its names
        (["other/kernel"], PRUNED, Codebook(4)),
        (["out/kernel"], PRUNED, Codebook(4)),
        (["other/kernel"], DENSE, "lossless"),
    ]:
        assert schemes.of(names, values, is_fully_connected=True) == expected


def test_keys_that_mean_nothing_are_named():
    schemes = Schemes({"dense": Int8(), "dens": Int8()}, function="pack_tflite")
    with pytest.raises(ValueError, match=r"pack_tflite: expected names of weights(.|\n)*got 'dens'; this model has: d"):
        schemes.check_keys([["dense/kernel"], ["conv/kernel"]])
    Schemes(Int8()).check_keys([])
    Schemes({"d.*": Int8()}).check_keys([["other/kernel"], ["x", "dense/kernel"]])


@pytest.mark.parametrize("weights", [4, Codebook, Int8, b"float16", {"a": 4}, {3: Int8()}, [Int8()]])
def test_weights_of_a_wrong_type(weights):
    with pytest.raises(TypeError, match="quantize: expected"):
        Schemes(weights, function="quantize")


@pytest.mark.parametrize("weights", ["int8", "", {"a": "float32"}])
def test_unknown_names(weights):
    with pytest.raises(ValueError, match=r"expected weights to be None, keras_prune.Codebook\(bits=...\)"):
        Schemes(weights)


@pytest.mark.parametrize("min_sparsity", [-0.1, 1.1, "0", None, True])
def test_least_sparsity_out_of_range(min_sparsity):
    with pytest.raises(ValueError, match="expected min_sparsity from 0 to 1"):
        Schemes(None, min_sparsity)
