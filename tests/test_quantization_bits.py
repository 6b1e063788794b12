"""Bits of each layer under a budget: the choice by hand-made measurements, and of a small trained net."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune import Codebook
from keras_prune_export import bit_budget
from keras_prune_export.bit_budget import Option


def test_hull_leaves_out_what_no_price_of_a_byte_makes_best():
    options = [Option(2, 100, 1.0), Option(3, 150, 0.9), Option(4, 200, 0.2), Option(5, 250, 0.3), Option(6, 300, 0.1)]
    assert [option.bits for option in bit_budget._hull(options)] == [2, 4, 6]
    assert [option.bits for option in bit_budget._hull([Option(2, 9, 0.0), Option(3, 9, 0.0)])] == [2]


def test_path_takes_the_step_that_gains_most_for_its_bytes():
    table = {
        "a": (Option(2, 100, 1.0), Option(3, 200, 0.5), Option(4, 300, 0.4)),  # .005 a byte, .001
        "b": (Option(2, 10, 0.3), Option(3, 20, 0.28), Option(4, 30, 0.27)),  # .002, .001
    }
    assert bit_budget._path(table) == [
        {"a": 2, "b": 2},
        {"a": 3, "b": 2},
        {"a": 3, "b": 3},
        {"a": 3, "b": 4},
        {"a": 4, "b": 4},
    ]


def test_every_choice_of_the_path_is_the_best_of_its_size():
    rng = np.random.default_rng(0)
    table = {
        name: tuple(
            Option(bits, int(num_bytes), float(damage))
            for bits, num_bytes, damage in zip(
                range(2, 7), np.sort(rng.choice(np.arange(10, 90), 5, replace=False)), rng.random(5), strict=True
            )
        )
        for name in "abc"
    }
    of = {(name, option.bits): option for name, row in table.items() for option in row}

    def total(choice):
        chosen = [of[name, bits] for name, bits in choice.items()]
        return sum(o.num_bytes for o in chosen), sum(o.damage for o in chosen)

    every = [total(dict(zip("abc", bits, strict=True))) for bits in itertools.product(range(2, 7), repeat=3)]
    for choice in bit_budget._path(table):
        num_bytes, damage = total(choice)
        assert damage <= min(d for b, d in every if b <= num_bytes) + 1e-12


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 20)).astype(np.float32)
    y = (x[:, :10] ** 2).sum(axis=1) > 9.3
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(60, "relu", name="first"),
            keras.layers.Dense(30, "relu"),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y.astype(int), epochs=20, verbose=0)
    keras_prune.strip(keras_prune.prune(model, 0.5))
    model.fit(x, y.astype(int), epochs=5, verbose=0)
    keras_prune.strip(keras_prune.prune(model, 0.5))
    return model, (x, y.astype(int))


def test_budget_of_accuracy(trained):
    model, data = trained
    before = model.get_weights()
    found = keras_prune.choose_bits(model, data, accuracy_drop=0.01, bits=range(2, 7))
    assert found.baseline == model.evaluate(*data, verbose=0, return_dict=True)["accuracy"]
    assert found.accuracy >= found.baseline - 0.01 - 1e-6
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    packed = keras_prune.export_tflite(model, weights=found)
    assert found.num_bytes == len(packed)
    predictions = keras_prune.predict_tflite(packed, data[0]).argmax(axis=1)
    assert np.mean(predictions == data[1]) == pytest.approx(found.accuracy, abs=1 / 600)  # one example on the border
    assert len(packed) < len(keras_prune.export_tflite(model, weights=Codebook(6)))
    lines = str(found).splitlines()
    assert lines[0].split()[:5] == ["layer", "bits", "bytes", "damage", "at"]
    assert len(lines) == 5
    assert lines[1].split()[:2] == ["first/kernel", str(found.bits["first/kernel"])]


@pytest.mark.slow
def test_budget_of_bytes_and_the_same_again(trained):
    model, data = trained
    sizes = {bits: len(keras_prune.export_tflite(model, weights=Codebook(bits))) for bits in (2, 6)}
    limit = sum(sizes.values()) // 2
    found = keras_prune.choose_bits(model, data, max_bytes=limit, bits=(2, 4, 6))
    assert sizes[2] < found.num_bytes <= limit
    assert found == keras_prune.choose_bits(model, data, max_bytes=limit, bits=(2, 4, 6))
    with pytest.raises(ValueError, match=f"expected max_bytes of at least {sizes[2]}, the file with the fewest bits"):
        keras_prune.choose_bits(model, data, max_bytes=100, bits=(2, 4))


def test_a_function_says_how_good_the_model_is(trained):
    model, (x, y) = trained
    found = keras_prune.choose_bits(
        model, lambda m: np.mean(m.predict(x, verbose=0).argmax(axis=1) == y), accuracy_drop=0.5, bits=(2, 3)
    )
    assert set(found.bits.values()) == {2}
    assert dict(found) == dict.fromkeys(found.bits, Codebook(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one budget, max_bytes or accuracy_drop"),
        ({"max_bytes": 10, "accuracy_drop": 0.1}, "expected one budget"),
        ({"accuracy_drop": -0.1}, "expected accuracy_drop >= 0"),
        ({"accuracy_drop": 0.1, "bits": ()}, "expected at least one number of bits"),
        ({"accuracy_drop": 0.1, "bits": (1, 2)}, "expected bits from 2 to 8, got 1"),
        ({"accuracy_drop": 0.1, "min_sparsity": 0.99}, "expected a layer with at least min_sparsity=0.99"),
    ],
)
def test_wrong_arguments(trained, options, message):
    model, data = trained
    with pytest.raises(ValueError, match=message):
        keras_prune.choose_bits(model, data, **options)


def test_accuracy_that_no_choice_keeps(trained):
    model, _ = trained
    kernel = model.layers[0].kernel
    full = kernel.numpy()

    def exact(m):
        return float(np.array_equal(m.layers[0].kernel.numpy(), full))

    with pytest.raises(ValueError, match=r"expected bits that keep 1\.0000 of the accuracy 1\.0000, got 0\.0000"):
        keras_prune.choose_bits(model, exact, accuracy_drop=0.0, bits=(2, 3))
    np.testing.assert_array_equal(kernel.numpy(), full)
