"""What export_tflite and the converter refuse, before the work where they can, and what they say."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import dense_model, prune  # type: ignore[import-not-found]

import keras_prune
from keras_prune.int8 import Int8
from keras_prune_export import converter, flatbuffer, tflite
from keras_prune_export.layer_report import packed_layers

layers = keras.layers


@pytest.fixture(scope="module")
def lenet():
    return dense_model()


def test_nothing_pruned():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8)])
    with pytest.raises(ValueError, match=r"not pruned: 0\.0% of the weights(.|\n)*prune the model first"):
        tflite.export_tflite(model)
    assert packed_layers(flatbuffer.read(tflite.export_tflite(model, min_sparsity=0)))


def test_unbuilt_model():
    with pytest.raises(ValueError, match="expected a built model"):
        tflite.export_tflite(keras.Sequential([layers.Dense(8)]))


@pytest.mark.parametrize("model", [None, b"model.keras", layers.Dense(3)])
def test_not_a_model(model):
    with pytest.raises(TypeError, match="expected a Keras 3 model"):
        tflite.export_tflite(model)


def test_keras_2_model_is_named():
    legacy = type("Sequential", (), {"__module__": "tf_keras.src.engine"})()
    with pytest.raises(TypeError, match=r"tf_keras(.|\n)*TF_USE_LEGACY_KERAS"):
        tflite.export_tflite(legacy)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"activations": "int8", "weights": Int8()}, ValueError, "expected representative_data with activations="),
        ({"activations": "int8", "target": "stock"}, ValueError, "expected representative_data with activations="),
        ({"activations": "int16"}, ValueError, r"expected activations to be one of \('float32', 'int8'\), got 'int16'"),
        ({"activations": None}, ValueError, "got None"),
        ({"representative_data": [0]}, ValueError, "expected representative_data only with activations='int8'"),
        ({"target": "microcontroller"}, ValueError, "target to be one of"),
        ({"weights": "codebook"}, ValueError, "Codebook(.|\\n)*got .codebook."),
        ({"min_sparsity": 1.5}, ValueError, "min_sparsity from 0 to 1"),
        ({"min_sparsity": "a"}, ValueError, "min_sparsity from 0 to 1, got 'a'"),
        ({"min_sparsity": None}, ValueError, "min_sparsity from 0 to 1, got None"),
        ({"path": 5}, TypeError, "path: expected the name of a file as str or os.PathLike, got 5"),
        ({"path": b"model.tflite"}, TypeError, "got b'model.tflite'; pass 'model.tflite'"),
        ({"path": "/tmp"}, IsADirectoryError, "add a file name"),
        ({"path": "/no/such/folder/model.tflite"}, FileNotFoundError, "/no/such/folder to exist"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(lenet, monkeypatch, *, arguments, error, match):
    monkeypatch.setattr(converter, "convert", lambda model: pytest.fail("converted"))
    with pytest.raises(error, match=match):
        tflite.export_tflite(lenet, **arguments)


def test_converter_refusal_is_explained():
    model = keras.Sequential([keras.Input((4, 3)), layers.GRU(5)])
    with pytest.raises(ValueError, match=r"converter refused the model(.|\n)*unroll=True"):
        converter.convert(model)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's, while it quantizes
def test_refused_layers_are_named():
    dense = layers.Dense(8)
    dense.build((None, 10))
    packed = keras.Sequential([keras.Input((10,)), keras_prune.layers.PackedDense.from_dense(dense)])
    with pytest.raises(ValueError, match=r"'dense\w*' \(PackedDense\)(.|\n)*before from_dense") as caught:
        tflite.export_tflite(packed)
    assert len(str(caught.value)) < 400
    assert "RelativeIndexMatmul" in str(caught.value)
    assert "neither a custom op" in str(caught.value.__cause__)
    lookup = layers.IntegerLookup(vocabulary=[1, 2, 3], name="ids")
    stack = [lookup, layers.Embedding(5, 4), layers.Flatten(), layers.Dense(4)]
    with pytest.raises(ValueError, match=r"layer 'ids' \(IntegerLookup\) looks values up in a table"):
        converter.convert(keras.Sequential([keras.Input((1,), dtype="int64"), *stack]))
    quantized = keras.Sequential([keras.Input((10,)), layers.Dense(8, name="small")])
    quantized.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"layer 'small' was quantized to int8 by Keras(.|\n)*before model\.quantize"):
        converter.convert(quantized)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_weights_that_are_not_finite(which, bad):
    model = prune(keras.Sequential([keras.Input((16,)), layers.Dense(24, name="a"), layers.Dense(8, name="b")]))
    variable = model.weights[which]
    values = variable.numpy()
    values.flat[3] = bad
    variable.assign(values)
    with pytest.raises(
        ValueError, match=rf"expected finite weights, got {variable.path} with \d NaN and \d infinite of"
    ):
        tflite.export_tflite(model)


def test_pruned_weights_that_were_overwritten_are_refused():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
    dense = model.get_weights()
    keras_prune.prune(model, 0.8)
    model.set_weights(dense)
    with pytest.raises(ValueError, match=r"160 of 160 pruned weights \(100\.0%\)(.|\n)*list PruneCallback last"):
        tflite.export_tflite(model)
    assert packed_layers(flatbuffer.read(tflite.export_tflite(keras_prune.strip(model))))


def test_folder_as_path(tmp_path, lenet):
    with pytest.raises(IsADirectoryError, match="add a file name"):
        tflite.export_tflite(lenet, tmp_path)


def test_convert_options(lenet):
    sizes = [len(converter.convert(lenet, optimize=kind)) for kind in (None, "float16", "dynamic_range")]
    assert sizes[0] > 1.9 * sizes[1] > 1.9 * 1.9 * sizes[2]
    data = np.random.default_rng(0).random((20, 784))
    assert len(converter.convert(lenet, optimize="int8", representative_data=data)) < sizes[0] / 3.5
    with pytest.raises(ValueError, match="one of"):
        converter.convert(lenet, optimize="int4")
    with pytest.raises(ValueError, match="representative_data"):
        converter.convert(lenet, optimize="int8")
