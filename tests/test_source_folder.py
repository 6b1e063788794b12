"""export_tflite and convert take a SavedModel's folder in place of a Keras model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import prune  # type: ignore[import-not-found]
from stock_files import as_stock, assert_equal, assert_same, run, weights_of  # type: ignore[import-not-found]
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

import keras_prune
from keras_prune import Codebook, Int8
from keras_prune_export import converter, flatbuffer, source_folder
from keras_prune_export.layer_report import packed_layers

layers = keras.layers


def small_model():
    inputs = keras.Input((8, 8, 16), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3)(inputs)))
    return prune(keras.Model(inputs, layers.Dense(20, name="head")(layers.Flatten()(x))), density=0.2)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "1"
    with converter.quiet():
        model.export(path)
    return path


def test_lossless_file_is_that_of_the_keras_model(model, folder):
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 16)).astype(np.float32)
    data = keras_prune.export_tflite(folder, weights="lossless")
    assert_equal(run(data, x), run(keras_prune.export_tflite(model, weights="lossless"), x))
    (got,) = run(data, x).values()
    np.testing.assert_allclose(got, model.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
    assert len(data) < 0.5 * len(converter.convert(folder))


@pytest.mark.parametrize(("weights", "number"), [(None, 16), (Codebook(3), 8), ({"head.*": Codebook(5)}, 32)], ids=str)
def test_weights_are_quantized_in_the_file_as_by_pack_tflite(folder, tmp_path, *, weights, number):
    path = tmp_path / "model.tflite"
    data = keras_prune.export_tflite(str(folder), path, weights=weights)
    assert path.read_bytes() == data
    assert data == keras_prune.pack_tflite(converter.convert(folder), weights=weights)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 16)).astype(np.float32)
    assert_same(run(data, x), run(as_stock(data), x))
    (head,) = [values for values in weights_of(data).values() if values.shape == (20, 576)]
    assert len(np.unique(head)) == number


@pytest.mark.parametrize("options", [{"weights": "float16"}, {"weights": Int8()}, {"activations": "int8"}], ids=str)
def test_stock_files(model, folder, options):
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 16)).astype(np.float32)
    if "activations" in options:
        options = {**options, "representative_data": x}
    data = keras_prune.export_tflite(folder, target="stock", **options)
    assert_equal(run(data, x), run(keras_prune.export_tflite(model, target="stock", **options), x))


def test_int8_activations_are_packed(folder):
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 16))
    options = {"activations": "int8", "weights": Int8(), "representative_data": x}
    data = keras_prune.export_tflite(folder, **options)
    plain = keras_prune.export_tflite(folder, target="stock", **options)
    assert len(data) < 0.8 * len(plain)
    assert_equal(run(data, x[:1].astype(np.float32)), run(plain, x[:1].astype(np.float32)))


@pytest.fixture(scope="module", params=["logits", "serve"])  # a name of Keras' own makes the converter drop others
def two_signatures(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "two"
    stack = prune(keras.Sequential([keras.Input((40,)), layers.Dense(60), layers.Dense(8)]))
    archive = keras.export.ExportArchive()
    archive.track(stack)
    shape = [keras.InputSpec("float32", (None, 40))]
    with converter.quiet():
        archive.add_endpoint(request.param, stack.call, input_signature=shape)
        archive.add_endpoint("scores", lambda x: {"scores": keras.ops.tanh(stack(x))}, input_signature=shape)
        archive.write_out(path, verbose=False)
    return path, stack, request.param


def test_signatures_are_kept(two_signatures):
    path, stack, first = two_signatures
    interpreter = keras_prune.load_interpreter(keras_prune.export_tflite(path, weights="lossless"))
    x = np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32)
    want = stack.predict(x, verbose=0)
    first = "serving_default" if first == "serve" else first
    keys = interpreter.get_signature_list()
    assert {first, "scores"} <= keys.keys() <= {first, "scores", "serving_default"}
    for key, values in {first: want, "scores": np.tanh(want)}.items():
        (name,) = keys[key]["inputs"]
        (got,) = interpreter.get_signature_runner(key)(**{name: x}).values()
        np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-5)


def test_weights_of_two_signatures_are_stored_once(two_signatures):
    path, _, _ = two_signatures
    data = keras_prune.export_tflite(path)
    assert {layer.shape for layer in packed_layers(flatbuffer.read(data))} == {(60, 40), (8, 60)}
    assert data.count(b"KPRI") == 2


def test_data_for_several_signatures_is_a_function(two_signatures):
    path, _, _ = two_signatures
    with pytest.raises(ValueError, match=r"as a function(.|\n)*has \d inputs in \d signatures, got ndarray"):
        keras_prune.export_tflite(path, activations="int8", weights=Int8(), representative_data=np.zeros((3, 40)))


def test_nothing_pruned(tmp_path):
    with converter.quiet():
        keras.Sequential([keras.Input((16,)), layers.Dense(8)]).export(tmp_path / "dense")
    with pytest.raises(ValueError, match=r"not pruned: 0\.0% of the weights"):
        keras_prune.export_tflite(tmp_path / "dense")


def test_converter_refusal_names_the_folder(tmp_path):
    with converter.quiet():
        keras.Sequential([keras.Input((4, 3)), layers.GRU(5)]).export(tmp_path / "loop")
    with pytest.raises(ValueError, match=r"refused the model '.*loop'(.|\n)*unroll=True"):
        converter.convert(tmp_path / "loop")


def saved_model_pb(**fields):
    return saved_model_pb2.SavedModel(meta_graphs=[meta_graph_pb2.MetaGraphDef(**fields)]).SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a folder without saved_model.pb"),
        (b"\xff" * 40, "is damaged"),
        (saved_model_pb(), "tag 'serve'"),
        (saved_model_pb(meta_info_def={"tags": ["serve"]}), "has none; save it with model.export"),
    ],
    ids=["empty", "damaged", "untagged", "without a signature"],
)
def test_folders_that_are_refused(tmp_path, *, content, message):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ValueError, match=f"export_tflite: expected (.|\n)*{message}"):
        keras_prune.export_tflite(tmp_path)


def test_paths_of_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        keras_prune.export_tflite(tmp_path / "missing")
    file = tmp_path / "model.keras"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.keras, a file; load \.keras and \.h5 files with"):
        converter.convert(file)


def test_packed_saved_models_are_refused(model, tmp_path):
    path = keras_prune.export_saved_model(model, tmp_path / "packed")
    with pytest.raises(ValueError, match="export_saved_model packed those of"):
        keras_prune.export_tflite(path)


def test_inputs_of_signatures(folder):
    assert source_folder.read(folder, "test").signatures["serving_default"] == {"image": "float32"}
