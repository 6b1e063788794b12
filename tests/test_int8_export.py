"""What the exports write for int8 activations: the options of each packed operator, and scales from typical inputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import dense_model, prune  # type: ignore[import-not-found]
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

import keras_prune
from keras_prune.quantization import Codebook
from keras_prune_export import converter, flatbuffer
from keras_prune_export.targets.fully_connected import Options
from keras_prune_export.transformations.int8_activations import computing, options_of, set_activations

layers = keras.layers
pytestmark = pytest.mark.usefixtures("packed_layers_compute")


@pytest.fixture(scope="module")
def model():
    return prune(dense_model())


@pytest.fixture(scope="module")
def source(model):
    return converter.convert(model)


@pytest.fixture(scope="module")
def examples(model):
    return np.random.default_rng(0).normal(size=(50, *model.input_shape[1:])).astype(np.float32)


def packed(source, data=None, **options):
    arguments = {"weights": Codebook(4), "activations": "int8", "representative_data": data}
    return keras_prune.pack_tflite(source, **{**arguments, **options})


def options(data):
    model = flatbuffer.read(data)
    return [options_of(model, op) for _, op in computing(model)]


def as_float32(data):
    file = flatbuffer.read(data)
    set_activations(file, "float32")
    return flatbuffer.write(file)


def test_only_the_options_change(model, source, examples):
    plain = keras_prune.export_tflite(model)
    dynamic = keras_prune.export_tflite(model, activations="int8")
    static = keras_prune.export_tflite(model, activations="int8", representative_data=examples)
    assert {o.activations for o in options(plain)} == {"float32"}
    assert {(o.activations, o.x_scale) for o in options(dynamic)} == {("int8", None)}
    assert all(o.activations == "int8" and o.x_scale > 0 for o in options(static))
    assert as_float32(dynamic) == as_float32(static) == plain
    assert (packed(source), packed(source, examples)) == (dynamic, static)


def test_scales_are_the_largest_inputs_of_the_quantized_layers(model, source, examples):
    found, inputs = [o.x_scale for o in options(packed(source, examples))], examples
    dense = [layer for layer in keras_prune.quantize(model).layers if isinstance(layer, layers.Dense)]
    assert len(found) == len(dense) == 3
    for scale, layer in zip(found, dense, strict=True):
        # the first exactly; inputs of the others are float32 sums in another order
        np.testing.assert_allclose(scale, np.abs(inputs).max() / np.float32(127), rtol=0 if layer is dense[0] else 1e-5)
        inputs = layer(inputs).numpy()


def test_a_function_gives_the_scales_of_its_arrays(source, examples):
    def batches():
        for start in range(0, 50, 10):
            yield [examples[start : start + 10]]

    assert packed(source, batches) == packed(source, examples)


def test_examples_beyond_the_first_300_are_not_used(source, examples):
    data = np.resize(examples, (301, 784))
    data[300] *= 1000
    assert packed(source, data) == packed(source, data[:300])


def fixed_batch(size):
    """A file of one layer that takes so many examples at once."""
    model = small_model(sparse())
    model.subgraphs, model.signatureDefs = model.subgraphs[:1], model.signatureDefs[:1]
    for index in (0, 3):
        model.subgraphs[0].tensors[index].shape[0] = size
    return flatbuffer.write(model)


@pytest.mark.parametrize(("size", "count"), [(8, 13), (8, 16), (310, 310), (310, 400)])
def test_a_fixed_batch_takes_whole_batches_and_the_last_one_again(size, count):
    x = np.ones((count, 40), np.float32)
    x[min(count, max(size, 300)) - 1] = 254
    (option,) = options(packed(fixed_batch(size), x))
    assert option.x_scale == 2


def test_fewer_examples_than_a_fixed_batch_are_refused():
    message = "representative_data: expected at least 8 examples, which the model takes at once, got 7; pass 8 or more"
    with pytest.raises(ValueError, match=message):
        packed(fixed_batch(8), np.ones((7, 40), np.float32))


def test_each_signature_has_its_own_scales():
    source = flatbuffer.write(small_model(sparse()))
    x = np.ones((1, 40), np.float32)
    pairs = [("signature0", {"x": x * 127}), ("signature1", {"x": -x * 254}), ("signature1", {"x": x})]
    assert [o.x_scale for o in options(packed(source, lambda: pairs))] == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"got none for (.|\n)*pairs \(signature, \{input: array\}\)"):
        packed(source, x)
    with pytest.raises(
        ValueError, match=r"signature of \['signature0', 'signature1'\] and a dict of inputs, got 'other'"
    ):
        packed(source, lambda: [("other", {"x": x})])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 0, "got nothing but zeros for "),
        (lambda x: x * np.float32(1e-40), "got nothing but zeros for "),
        (lambda x: x * np.nan, "got NaN or infinity for "),
        (lambda x: x + np.inf, "got NaN or infinity for "),
        (
            lambda x: x[:, :5],
            r"pack_tflite: representative_data: expected at least one example of shape \(\d+,\), got",
        ),
        (lambda x: x[:0], "representative_data: expected at least one example"),
        (lambda x: [x, x], r"got an array of shape \(2, 50, 784\)"),
        (lambda x: lambda: iter(()), "got none for "),
        (lambda x: lambda: None, "pack_tflite: representative_data: expected a function that yields lists of inputs"),
        (lambda x: x[0], r"got an array of shape \(784,\), not of \(examples, 784\)"),
        (lambda x: x.astype(np.complex64), "expected real numbers for the input '.*', got an array of complex64"),
        (lambda x: x.astype(str), "expected real numbers for the input '.*', got an array of <U"),
        (lambda x: [None], "expected real numbers for the input"),
        (lambda x: lambda: [[[x, x[0]]]], "expected arrays, each of one shape, for the inputs"),
    ],
)
def test_data_that_gives_no_scale(source, examples, *, change, message):
    with pytest.raises(ValueError, match=message):
        packed(source, change(examples))


def test_nan_of_which_an_operator_makes_zeros_is_still_named():
    model = prune(keras.Sequential([keras.Input((40,)), layers.Dense(30, activation="relu"), layers.Dense(20)]))
    model.layers[0].kernel.assign(np.random.default_rng(0).normal(size=(40, 30)))
    with pytest.raises(ValueError, match="got NaN or infinity for "):
        keras_prune.export_tflite(model, activations="int8", representative_data=np.full((20, 40), np.nan, np.float32))


def test_a_file_without_a_layer_that_computes_is_refused():
    depthwise = keras.Sequential([keras.Input((6, 6, 96)), layers.DepthwiseConv2D(3)])
    message = r"activations='int8', got\n(.|\n)*for DEPTHWISE_CONV_2D(.|\n)*leave activations='float32'(.|\n)*Int8\(\)"
    with pytest.raises(ValueError, match=message):
        keras_prune.export_tflite(prune(depthwise), activations="int8")


def test_set_activations_keeps_the_other_options():
    file = flatbuffer.read(packed(flatbuffer.write(small_model(sparse(), activation=3, keep_num_dims=True))))
    scales = {place: 0.5 + number for number, (place, _) in enumerate(computing(file))}
    set_activations(file, "int8", scales)
    assert [options_of(file, op) for _, op in computing(file)] == [
        Options(3, True, "int8", scale) for scale in (0.5, 1.5)
    ]
