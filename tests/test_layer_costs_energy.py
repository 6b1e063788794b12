"""Costs: shapes to give, wrong input, the table, energy."""

from __future__ import annotations

import keras
import pytest
from keras import layers

import keras_prune
from keras_prune.layer_costs import costs


def model_of(layer, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def test_open_sizes_need_a_shape():
    model = keras.Sequential([keras.Input((None, None, 3), name="image"), layers.Conv2D(2, 1, name="conv")])
    with pytest.raises(ValueError, match=r"every dimension of the input 'image' to be known, got \(None, None, 3\)"):
        costs(model)
    assert costs(model, (4, 5, 3))["conv"].macs == 20 * 6
    with pytest.raises(ValueError, match=r"expected \(None, None, 3\) as the shape of the input 'image', got \(4, 5\)"):
        costs(model, (4, 5))
    with pytest.raises(ValueError, match=r"every dimension"):
        costs(model, (4, None, 3))


def test_shapes_of_several_inputs():
    inputs = {"b": keras.Input((None, 3), name="b"), "a": keras.Input((None, 3), name="a")}
    model = keras.Model(inputs, [layers.Dense(2, name="one")(inputs["a"]), layers.Dense(2, name="two")(inputs["b"])])
    result = costs(model, {"a": (5, 3), "b": (7, 3)})
    assert (result["one"].macs, result["two"].macs) == (30, 42)
    names = [tensor.name for tensor in model.inputs]
    shapes = [{"a": (5, 3), "b": (7, 3)}[name] for name in names]
    assert costs(model, shapes) == result
    with pytest.raises(ValueError, match="for each input"):
        costs(model, (5, 3))
    with pytest.raises(ValueError, match="for each input"):
        costs(model, {"a": (5, 3)})


def test_wrong_models():
    with pytest.raises(TypeError, match=r"expected a Keras 3 model \(keras.Model\), got builtins.str"):
        costs("model")
    inputs = keras.Input((6, 2), batch_size=8, name="steps")
    with pytest.raises(ValueError, match="takes a batch of 1, got a fixed batch of 8 for the input 'steps'"):
        costs(keras.Model(inputs, layers.LSTM(3)(inputs)))


def test_a_shape_that_the_model_does_not_take():
    model = keras.Sequential([keras.Input((None, 3)), layers.Flatten(), layers.Reshape((2, 3))])
    with pytest.raises(ValueError, match=r"the model cannot be called on one example of \(5, 3\)"):
        costs(model, (5, 3))


def test_layers_by_name_path_and_object():
    model = model_of(layers.Dense(5, name="dense"), (7,))
    result = keras_prune.costs(model)
    assert result["dense"] == result[model.layers[1]] == result.rows[0]
    with pytest.raises(KeyError, match=r"expected the name of one of the layers \['dense'\], got 'other': 0 of them"):
        result["other"]


def test_the_table():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(10, name="dense"),
        ]
    )
    assert str(costs(model)) == (
        "layer    output      MACs  FLOPs  parameters  bytes  activations  bandwidth  units\n"
        "----------------------------------------------------------------------------------\n"
        "conv     6 × 6 × 4  1,296  2,880          40    160          144        992      4\n"
        "flatten  144            0      0           0      0            0          0      0\n"
        "dense    10         1,440  2,890       1,450  5,800           10      6,416     10\n"
        "----------------------------------------------------------------------------------\n"
        "total               2,736  5,770       1,490  5,960          154      7,408     14"
    )


def test_energy_by_hans_table():
    result = costs(model_of(layers.Dense(100), (1000,)))
    energy = result.energy(sram_bytes=1_000_000)  # 100,100 weights of 4 bytes
    assert energy.weights_fit
    assert energy.macs_pj == pytest.approx(100_000 * 4.6)
    assert energy.flops_pj == pytest.approx(100 * 0.9)
    assert energy.weights_pj == pytest.approx(100_100 * 5)
    assert energy.activations_pj == pytest.approx(1100 * 5)
    assert energy.total_pj == pytest.approx(460_000 + 90 + 500_500 + 5500)
    outside = result.energy(sram_bytes=400_399)
    assert not outside.weights_fit
    assert outside.weights_pj == pytest.approx(100_100 * 640)
    assert outside.activations_pj == energy.activations_pj  # 4,400 bytes, which fit
    assert result.energy(sram_bytes=4399).activations_pj == pytest.approx(1100 * 640)


def test_energy_of_packed_weights():
    result = costs(model_of(layers.Dense(100), (1000,)))
    packed = result.energy(weight_bytes=20_000, sram_bytes=32 * 1024)
    assert packed.weights_fit
    assert packed.weights_pj == pytest.approx(5000 * 5)
    assert str(packed).splitlines()[-1] == "weights of 20,000 bytes fit 32,768 bytes of SRAM"
    assert "do not fit" in str(result.energy(sram_bytes=32 * 1024))


def test_energy_reads_shared_weights_in_each_call():
    a = keras.Input((4,))
    shared = layers.Dense(4, use_bias=False)
    result = costs(keras.Model(a, shared(shared(a))))
    assert result.energy(sram_bytes=1000).weights_pj == pytest.approx(2 * 16 * 5)
    assert result.energy(weight_bytes=32, sram_bytes=1000).weights_pj == pytest.approx(2 * 8 * 5)


def test_energy_wants_sizes():
    result = costs(model_of(layers.Dense(3), (4,)))
    with pytest.raises(ValueError, match="sram_bytes: expected the bytes of the SRAM, > 0, got 0"):
        result.energy(sram_bytes=0)
    with pytest.raises(ValueError, match="weight_bytes: expected the bytes of all weights, >= 0, got -1"):
        result.energy(weight_bytes=-1, sram_bytes=10)
