"""quantize(model): Keras computes with the values of the packed file."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_prune import sparse_format, surgery
from keras_prune.quantization import Codebook
from keras_prune_export import converter, evaluate, flatbuffer, tflite
from keras_prune_export.quantization import quantize
from keras_prune_export.targets.packed import decode

layers = keras.layers


def prune(model, *, density=0.2):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.dtype != "float32":
            continue
        values = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        if len(variable.shape) >= 2:
            values *= rng.random(variable.shape) < density
        variable.assign(values)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def packed_matrices(data):
    model = flatbuffer.read(data)
    found = [bytes(b.data) for b in model.buffers if b.data is not None and bytes(b.data[:4]) == sparse_format.MAGIC]
    return [decode(packed) for packed in found], found


def biases(data):
    return list(flatbuffer.float_constants(flatbuffer.read(data)).values())


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def classifier():
    return sequential((64,), layers.Dense(48, activation="relu"), layers.Dense(10))


def folded_after():
    return sequential((64,), layers.Dense(48), layers.BatchNormalization(), layers.ReLU(), layers.Dense(10))


def folded_before():
    norm = layers.BatchNormalization()
    return sequential((64,), layers.Dense(48, activation="relu"), layers.Dropout(0.5), norm, layers.Dense(10))


def rescaled():
    return sequential((64,), layers.Rescaling(1 / 255), layers.Dense(48, activation="relu"), layers.Dense(10))


def convolutional():
    return sequential((8, 8, 2), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(20))


def shared_and_nested():
    inner = sequential((32,), layers.Dense(24, activation="relu"))
    inputs = keras.Input((32,))
    return keras.Model(inputs, layers.Dense(8)(inner(inputs)) + layers.Dense(8)(inner(inputs * 2.0)))


def einsum():
    dense = layers.EinsumDense("abc,cd->abd", output_shape=(6, 24), bias_axes="d")
    return sequential((6, 16), dense, layers.GlobalAveragePooling1D())


def attention():
    inputs = keras.Input((6, 16))
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 8)(inputs, inputs)))


def recurrent():
    return sequential((5, 12), layers.LSTM(16, unroll=True), layers.Dense(5))


def offset():
    return sequential((64,), layers.Rescaling(1.0, offset=-5.0), layers.Dense(16))


def offset_through_two():
    return sequential((64,), layers.BatchNormalization(), layers.Dense(48), layers.Dense(16))


def normalized():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(3).normal(2, 3, (500, 64)))
    return sequential((64,), norm, layers.Dense(48, activation="relu"), layers.Dense(10))


EXACT = [classifier, convolutional, shared_and_nested, einsum, attention, recurrent]
FOLDED = [folded_after, folded_before, rescaled, offset, offset_through_two, normalized]
LONG = {convolutional, einsum, recurrent, folded_before, offset, normalized}  # others show the same in less time


def some_slow(builds):
    return [pytest.param(build, marks=[pytest.mark.slow] * (build in LONG)) for build in builds]


@pytest.mark.parametrize("build", EXACT + FOLDED)
def test_predictions_are_those_of_the_file(build):
    model = prune(build())
    data = tflite.export_tflite(model, weights=Codebook(bits=3))
    quantized = quantize(model, Codebook(bits=3))
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype(np.float32)
    got, want = evaluate.predict_tflite(data, x, batch_size=64), quantized.predict(x, verbose=0)
    # float32 sums in another order; the answers themselves must be the same
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.argmax(axis=1), want.argmax(axis=1))
    assert np.abs(want - model.predict(x, verbose=0)).max() > 1e-3  # 3 bits are not nothing


@pytest.mark.parametrize("build", some_slow(EXACT))
def test_exporting_the_quantized_model_packs_the_same_bytes(build):
    model = prune(build())
    _, before = packed_matrices(tflite.export_tflite(model))
    _, after = packed_matrices(tflite.export_tflite(quantize(model)))
    assert before == after


@pytest.mark.parametrize("build", some_slow(FOLDED))
def test_exporting_a_folded_quantized_model_packs_the_same_values(build):
    model = prune(build())
    before, after = tflite.export_tflite(model), tflite.export_tflite(quantize(model))
    for one, other in zip(packed_matrices(before)[0], packed_matrices(after)[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # a scale multiplied in and divided out: a few roundings
    for one, other in zip(biases(before), biases(after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_exporting_a_quantized_model_with_a_folded_offset_gives_the_same_file_content():
    model = prune(offset())
    before, after = tflite.export_tflite(model), tflite.export_tflite(quantize(model))
    assert packed_matrices(before)[1] == packed_matrices(after)[1]
    np.testing.assert_array_equal(biases(before), biases(after))
    bias, kernel = model.layers[-1].bias.numpy(), packed_matrices(before)[0][0]
    np.testing.assert_allclose(biases(before)[0], bias - 5.0 * kernel.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_kernels_are_converted_once_where_nothing_else_comes_from_them(monkeypatch):
    calls = []
    convert = converter.convert
    monkeypatch.setattr(converter, "convert", lambda model: calls.append(model) or convert(model))
    tflite.export_tflite(prune(convolutional()))
    assert len(calls) == 1
    tflite.export_tflite(prune(offset()))
    assert len(calls) == 3


def test_kernels_are_the_codebook_and_everything_else_stays():
    model = prune(convolutional())
    before = [variable.numpy() for variable in model.variables]
    quantized = quantize(model, Codebook(bits=4))
    assert quantized is not model
    dense = model.layers[-1].kernel.numpy()
    codes, codebook = Codebook(bits=4).fit(dense)
    np.testing.assert_array_equal(quantized.layers[-1].kernel.numpy(), codebook[codes])
    np.testing.assert_array_equal(quantized.layers[-1].kernel.numpy() == 0, dense == 0)
    for variable, values in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)
    for one, other in zip(model.layers, quantized.layers, strict=True):
        if one.variables:
            np.testing.assert_array_equal(one.bias.numpy(), other.bias.numpy())
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), quantized.layers[0].kernel.numpy())


def test_what_is_not_pruned_stays():
    model = prune(classifier(), density=0.95)
    quantized = quantize(model)
    for one, other in zip(model.weights, quantized.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    changed = quantize(model, min_sparsity=0.0)
    assert len(np.unique(changed.layers[0].kernel.numpy())) == 16


def test_in_place():
    model = prune(classifier())
    assert quantize(model, in_place=True) is model
    assert len(np.unique(model.layers[0].kernel.numpy())) == 16


class Subclassed(keras.Model):
    def __init__(self, size):
        super().__init__()
        self.dense = layers.Dense(size)

    def call(self, x):
        return self.dense(x)


def test_model_that_cannot_be_copied():
    model = Subclassed(24)
    x = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    model(x)
    prune(model)
    with pytest.raises(ValueError, match=r"cannot be copied(.|\n)*in_place=True"):
        quantize(model)
    quantize(model, in_place=True)
    assert len(np.unique(model.dense.kernel.numpy())) == 16


@keras.saving.register_keras_serializable("keras_prune_tests")
class Forgetful(keras.layers.Layer):
    """Holds what it computes with outside its weights and its configuration."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


def test_copy_that_computes_something_else_is_refused():
    model = prune(sequential((64,), Forgetful(), layers.Dense(48)))
    model.layers[0].factor = 3.0
    with pytest.raises(ValueError, match=r"computes what the model does(.|\n)*in_place=True"):
        quantize(model)
    quantize(model, in_place=True)


def test_adapted_normalization_is_copied():
    model = prune(normalized())
    copy = quantize(model, min_sparsity=1.0)
    x = np.random.default_rng(0).normal(2, 3, (8, 64)).astype(np.float32)
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad):
    model = prune(classifier())
    kernel = model.layers[1].kernel
    kernel.assign(np.where(np.arange(kernel.shape[1]) == 3, bad, kernel.numpy()))
    with pytest.raises(
        ValueError, match=r"quantize: expected finite weights, got \S*kernel with (48 NaN|0 NaN and 48)"
    ):
        quantize(model)


def test_pruned_weights_that_were_overwritten():
    model = surgery.prune(classifier(), 0.8)
    model.layers[0].kernel.assign(np.ones((64, 48)))
    with pytest.raises(
        ValueError, match=r"quantize: expected zeros where the mask of(.|\n)*keras_prune\.strip\(model\)"
    ):
        quantize(model)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 4e-3), ("mixed_bfloat16", 4e-2), ("float64", 1e-5)]
)
def test_other_types_are_quantized_to_the_precision_they_have(policy, tolerance):
    stack = [layers.Dense(48, activation="relu", dtype=policy), layers.Dense(10, dtype=policy)]
    model = prune(sequential((64,), *stack))
    for variable in model.weights:  # `prune` above fills float32 only
        variable.assign(np.round(np.random.default_rng(1).normal(size=variable.shape)) * 0.3)
    quantized = quantize(model, Codebook(bits=2))
    assert [str(v.dtype) for v in quantized.weights] == [str(v.dtype) for v in model.weights]
    assert len(np.unique(quantized.layers[0].kernel.numpy())) == 4
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    got = evaluate.predict_tflite(tflite.export_tflite(model, weights=Codebook(bits=2)), x)
    want = quantized.predict(x, verbose=0).astype(np.float32)
    np.testing.assert_allclose(got, want, atol=tolerance * np.abs(got).max())  # 11, 8 and 53 bits of significand


def test_wrong_arguments():
    model = prune(classifier())
    with pytest.raises(TypeError, match="Codebook"):
        quantize(model, 4)
    with pytest.raises(ValueError, match="min_sparsity"):
        quantize(model, min_sparsity=-1)
    with pytest.raises(TypeError, match="Keras 3 model"):
        quantize(model.layers[0])
    with pytest.raises(ValueError, match="built"):
        quantize(keras.Sequential([layers.Dense(3)]))


def test_matrix_that_the_converter_mixed_with_another_is_refused(monkeypatch):
    model = prune(classifier())
    other = prune(classifier())
    for variable in other.weights:
        variable.assign(np.roll(variable.numpy(), 1, axis=-1) * 0.7)
    data = converter.convert(other)
    monkeypatch.setattr(converter, "convert", lambda _: data)
    with pytest.raises(ValueError, match="none of the model's variables"):
        quantize(model)
