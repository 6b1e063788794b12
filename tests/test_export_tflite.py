"""export_tflite: what is packed, what is kept, how small the file is, and that it computes what it should."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from pruned_models import conv_model, dense_model, prune  # type: ignore[import-not-found]
from stock_files import as_stock, assert_same, run  # type: ignore[import-not-found]

from keras_prune import sparse_format
from keras_prune.quantization import Codebook
from keras_prune_export import converter, flatbuffer, runtime, tflite
from keras_prune_export.layer_report import packed_layers
from keras_prune_export.targets.packed import decode

layers = keras.layers


@pytest.fixture(scope="module")
def lenet():
    return dense_model()


@pytest.fixture(scope="module")
def lenet_float(lenet):
    return converter.convert(lenet)


@pytest.fixture(scope="module")
def lenet_packed(lenet):
    return tflite.export_tflite(lenet)


@pytest.fixture(scope="module")
def conv():
    return conv_model()


def test_float_file_equals_keras(lenet, lenet_float):
    x = np.random.default_rng(0).normal(size=(5, 784)).astype(np.float32)
    (got,) = run(lenet_float, x).values()
    np.testing.assert_allclose(got, lenet.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_packed_file_is_small_and_dense_bytes_are_gone(lenet, lenet_float, lenet_packed):
    assert len(lenet_packed) < len(lenet_float) / 25
    found = packed_layers(flatbuffer.read(lenet_packed))
    assert [layer.shape for layer in found] == [(300, 784), (100, 300), (10, 100)]
    kept = [np.count_nonzero(layer.kernel.numpy()) for layer in lenet.layers]
    assert [layer.kept for layer in found] == kept
    biases = 4 * (300 + 100 + 10)
    # names, tables, padding: the promise is 2 KB
    assert len(lenet_packed) - sum(layer.num_bytes for layer in found) - biases < 2048
    for layer in lenet.layers:
        row = np.ascontiguousarray(layer.kernel.numpy().T[0])
        assert row.tobytes() in lenet_float
        assert row.tobytes() not in lenet_packed
        assert layer.bias.numpy().tobytes() in lenet_packed


def test_packed_weights_are_64_byte_aligned(lenet_packed):
    positions = [i for i in range(0, len(lenet_packed), 4) if lenet_packed[i : i + 4] == sparse_format.MAGIC]
    assert len(positions) == 3
    assert all(position % 64 == 0 for position in positions)


def test_packed_file_computes_what_it_stands_for(lenet_packed):
    x = np.random.default_rng(0).normal(size=(7, 784)).astype(np.float32)
    assert_same(run(lenet_packed, x), run(as_stock(lenet_packed), x))


def test_weights_are_the_codebook_of_the_keras_kernel(lenet, lenet_packed):
    graph = flatbuffer.read(lenet_packed)
    buffers = [np.array(b.data) for b in graph.buffers if b.data is not None and bytes(b.data[:4]) == b"KPRI"]
    got = {matrix.shape: matrix for matrix in map(decode, buffers)}
    for layer in lenet.layers:
        codes, codebook = Codebook().fit(layer.kernel.numpy().T)
        np.testing.assert_array_equal(got[codes.shape], codebook[codes])


def test_convolutions_several_outputs_and_folded_batch_normalization(conv, tmp_path):
    path = tmp_path / "conv.tflite"
    data = tflite.export_tflite(conv, path, weights=Codebook(bits=8))
    assert path.read_bytes() == data
    found = {layer.shape: layer.form for layer in packed_layers(flatbuffer.read(data))}
    assert found == {(8, 3, 3, 2): "expand", (3, 32): "compute", (10, 32): "compute", (32, 200): "compute"}
    x = np.random.default_rng(0).normal(size=(4, 12, 12, 2)).astype(np.float32)
    got = run(path, x)
    assert_same(got, run(as_stock(data), x))
    want = conv.predict(x, verbose=0)
    assert {values.shape for values in got.values()} == {(4, 10), (4, 3)}
    for values in got.values():
        # 255 shared values: the error of one weight is below 1/255 of their range, that of a sum a few percent of it
        reference = want["first" if values.shape == (4, 10) else "second"]
        np.testing.assert_allclose(values, reference, atol=0.02 * np.abs(reference).max())


def test_signatures_keep_their_names(conv):
    interpreter = runtime.load_interpreter(tflite.export_tflite(conv))
    (details,) = interpreter.get_signature_list().values()
    assert sorted(details["outputs"]) == ["first", "second"]
    x = np.ones((1, 12, 12, 2), np.float32)
    runner = interpreter.get_signature_runner("serving_default")
    result = runner(**{details["inputs"][0]: x})
    assert {name: values.shape for name, values in result.items()} == {"first": (1, 10), "second": (1, 3)}


def test_shared_layer_is_packed_once():
    inputs = [keras.Input((32,)), keras.Input((32,))]
    dense = layers.Dense(48, activation="relu")
    model = prune(keras.Model(inputs, layers.Concatenate()([dense(x) for x in inputs])))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 1
    assert data.count(sparse_format.MAGIC) == 1
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(3, 32)).astype(np.float32) for _ in inputs]
    assert_same(run(data, *x), run(as_stock(data), *x))


def test_rank_3_input():
    model = prune(keras.Sequential([keras.Input((6, 32)), layers.Dense(24, activation="relu"), layers.Dense(16)]))
    data = tflite.export_tflite(model)
    assert len(packed_layers(flatbuffer.read(data))) == 2
    x = np.random.default_rng(0).normal(size=(3, 6, 32)).astype(np.float32)
    got = run(data, x)
    assert_same(got, run(as_stock(data), x))
    assert next(iter(got.values())).shape == (3, 6, 16)


def test_model_is_not_changed(lenet):
    before = [variable.numpy() for variable in lenet.variables]
    tflite.export_tflite(lenet, weights=Codebook(bits=2))
    for variable, values in zip(lenet.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)


def test_fewer_bits_make_a_smaller_file(lenet, lenet_packed):
    assert len(tflite.export_tflite(lenet, weights=Codebook(bits=2))) < len(lenet_packed)


def test_stock_target_is_the_plain_file(lenet, lenet_float):
    data = tflite.export_tflite(lenet, target="stock")
    assert len(data) == len(lenet_float)
    assert not packed_layers(flatbuffer.read(data))


def test_export_prints_nothing(lenet, capfd):
    tflite.export_tflite(lenet)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_model_is_not_changed_where_batch_normalization_is_folded(conv, monkeypatch):
    before = [variable.numpy() for variable in conv.variables]
    calls = []
    convert = converter.convert

    def fail_at_the_second(model):
        calls.append(model)
        if len(calls) == 2:
            assert any((v.numpy() != b).any() for v, b in zip(conv.variables, before, strict=True))
            raise ValueError("stop")
        return convert(model)

    monkeypatch.setattr(converter, "convert", fail_at_the_second)
    with pytest.raises(ValueError, match="stop"):
        tflite.export_tflite(conv)
    for variable, values in zip(conv.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), values)
