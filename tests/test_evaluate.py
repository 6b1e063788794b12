"""evaluate_tflite and compare_tflite: right figures, one table, clear errors."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from tflite_models import small_model, sparse  # type: ignore[import-not-found]

from keras_prune.quantization import Codebook
from keras_prune_export import evaluate, flatbuffer, measure, model_inputs, packing, progress
from keras_prune_export.schemes import Schemes


@pytest.fixture(scope="module")
def stock():
    model = small_model(sparse())
    model.subgraphs[0].tensors[0].shapeSignature = np.array([-1, 40], np.int32)
    model.subgraphs[0].tensors[3].shapeSignature = np.array([-1, 24], np.int32)
    return flatbuffer.write(model)


@pytest.fixture(scope="module")
def packed(stock):
    return packing.pack(stock, Schemes(Codebook()))[0]


@pytest.fixture(scope="module")
def files(stock, packed):
    return {"float": stock, "packed": packed}


@pytest.fixture(scope="module")
def examples():
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) * 30
    return x, (x @ sparse().T + np.arange(24)).argmax(axis=1)


@pytest.fixture(scope="module", autouse=True)
def fewer_rounds():
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "_ROUNDS", 3)
    patch.setattr(measure, "_BLOCK_NS", 1_000_000)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def comparison(files, examples):
    x, y = examples
    y = y.copy()
    y[:5] = (y[:5] + 1) % 24  # five answers are made wrong: 90 % are right
    return evaluate.compare_tflite(files, x, y, batch_size=16)


def test_figures(comparison, files, examples):
    for name, data in files.items():
        result = comparison[name]
        assert result.name == name
        assert result.accuracy == pytest.approx(0.9)
        assert result.error_percent == pytest.approx(10)
        assert result.num_bytes == len(data)
        assert result.gzip_bytes == len(gzip.compress(data, mtime=0))
        assert 0 < result.latency_ms_p10 <= result.latency_ms <= result.latency_ms_p90 < 1000
        # a few hundred KB to a few MB of interpreter; a process is not that small, nor this model that large
        assert 10_000 < result.peak_memory_bytes < 50_000_000
        np.testing.assert_array_equal(result.predictions, examples[1])
    assert comparison["float"].layers == ()
    (layer,) = comparison["packed"].layers
    assert layer.kept == comparison["packed"].weights_kept == np.count_nonzero(sparse())
    assert comparison["packed"].other_bytes == len(files["packed"]) - layer.num_bytes


def test_table(comparison):
    lines = str(comparison).splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["file", "accuracy", "error", "%"]
    assert lines[2].startswith("float   ")
    assert lines[3].startswith("packed  ")
    assert len({len(line) for line in lines}) == 1
    assert f"{comparison['packed'].num_bytes:,}" in lines[3]


def test_json(comparison):
    data = json.loads(comparison.to_json())
    assert list(data) == ["float", "packed"]
    assert data["packed"] == json.loads(comparison["packed"].to_json())
    assert data["packed"]["weights_kept"] == np.count_nonzero(sparse())
    assert data["packed"]["layers"][0]["shape"] == [24, 40]
    assert "predictions" not in data["packed"]


def test_evaluate_one_file(packed, examples, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(packed)
    result = evaluate.evaluate_tflite(path, *examples, num_threads=2)
    assert result.accuracy == 1
    text = str(result)
    assert "entropy bound" in text
    assert "24x40" in text
    assert result.errors == result.operators == ()  # only on request


@pytest.mark.parametrize("batch_size", [1, 7, 50, 999])
def test_predictions_of_any_batch(packed, examples, batch_size):
    x, y = examples
    got = evaluate.predict_tflite(packed, x, batch_size=batch_size)
    np.testing.assert_allclose(got, x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(axis=1), y)


def test_latency_is_measured_in_turn(stock, packed, monkeypatch):
    order = []

    def record(invoke, count):
        order.append(invoke.__self__)
        return np.full(count, 2_000_000)

    monkeypatch.setattr(measure, "_time_block", record)
    result = measure.latencies({"a": stock, "b": packed}, np.ones(40, np.float32))
    assert result["a"] == measure.Latency(2.0, 2.0, 2.0, 3)
    rounds = order[4:]  # after two blocks of warm-up each
    assert [rounds.index(interpreter) for interpreter in rounds] == [0, 1] * 3


def test_progress_shows_after_two_seconds(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = progress.Progress("work", 3)
    for _ in range(3):
        shown.step()
    assert capsys.readouterr().err == "\rwork: 66 %\rwork: 100 %\n"


def test_wrong_data(stock, examples):
    x, y = examples
    with pytest.raises(ValueError, match=r"shape \(40,\), got an array of shape \(50, 39\)"):
        evaluate.evaluate_tflite(stock, x[:, 1:], y)
    with pytest.raises(ValueError, match=r"50 integer labels of shape \(50,\), got int64 of shape \(49,\)"):
        evaluate.evaluate_tflite(stock, x, y[1:])
    with pytest.raises(ValueError, match="argmax"):
        evaluate.evaluate_tflite(stock, x, np.eye(24)[y])
    with pytest.raises(ValueError, match="at least one example"):
        evaluate.predict_tflite(stock, x[:0])
    with pytest.raises(ValueError, match="batch_size"):
        evaluate.predict_tflite(stock, x, batch_size=0)
    with pytest.raises(ValueError, match="at least one model"):
        evaluate.compare_tflite({}, x, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.astype(float), r"got float64 of shape \(50,\); convert labels that are whole numbers"),
        (lambda y: np.eye(24)[y], r"got float64 of shape \(50, 24\); turn one-hot labels into classes"),
        (lambda y: y[:, None], r"got int64 of shape \(50, 1\); take the only column"),
        (lambda y: y[1:], r"got int64 of shape \(49,\); give one label for each example"),
        (lambda y: y * 0 + 24, r"labels from 0 to 23, the model's classes, got 24 \(50 of 50"),
        (lambda y: y * 0 - 1, r"labels from 0 to 23, the model's classes, got -1"),
    ],
)
def test_labels(stock, examples, *, change, message):
    x, y = examples
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate_tflite(stock, x, change(y))


@pytest.mark.parametrize("batch_size", [0, 1.5, True, None, "8"])
def test_wrong_batch_size(stock, examples, batch_size):
    with pytest.raises(ValueError, match=r"expected batch_size to be an integer >= 1, got"):
        evaluate.predict_tflite(stock, examples[0], batch_size=batch_size)


def test_models_without_names(stock, examples):
    with pytest.raises(TypeError, match="expected a dict of names and files, got list"):
        evaluate.compare_tflite([stock], *examples)


@pytest.fixture(scope="module")
def sequences():
    """Takes (examples, steps, 40) with any number of steps, and flattens both."""
    model = small_model(sparse())
    for tensor, size in ((0, 40), (3, 24)):
        model.subgraphs[0].tensors[tensor].shape = np.array([1, 1, size], np.int32)
        model.subgraphs[0].tensors[tensor].shapeSignature = np.array([-1, -1, size], np.int32)
    model.subgraphs[0].operators[0].builtinOptions.keepNumDims = True
    return flatbuffer.write(model)


def test_second_free_dimension(sequences):
    rng = np.random.default_rng(0)
    for steps in (1, 7, 3):
        x = rng.normal(size=(5, steps, 40)).astype(np.float32)
        got = evaluate.predict_tflite(sequences, x, batch_size=2)
        np.testing.assert_allclose(got, x @ sparse().T + np.arange(24), rtol=1e-5, atol=1e-4)
    for shape in ((5, 40), (5, 7, 41), (5, 0, 40), (5, 7, 40, 1)):
        with pytest.raises(ValueError, match=r"expected at least one example of shape \(None, 40\)"):
            evaluate.predict_tflite(sequences, np.zeros(shape, np.float32))
    latency = measure.latencies({"a": sequences}, np.ones((7, 40), np.float32))
    assert latency["a"].median > 0


def test_peak_memory_of_the_shape_that_is_asked_for(sequences):
    # 4 MB of inputs and 2.4 MB of outputs are resident, whatever the runtime itself needs
    small, large = (measure.peak_memory(sequences, shape=(1, steps, 40)) for steps in (1, 25_000))
    assert large - small > 4_000_000


def test_percentiles_on_known_samples():
    samples = np.arange(101)[::-1] * 10_000
    assert measure._latency(samples) == measure.Latency(0.5, 0.1, 0.9, 101)


def test_table_shows_microseconds(comparison):
    header, _, *rows = str(comparison).splitlines()
    assert "latency µs  p10 µs" in " ".join(header.split()).replace("p10", " p10")
    assert f" {1000 * comparison['float'].latency_ms:,.1f} " in rows[0]


def test_output_that_is_no_classifier(examples):
    one_row = flatbuffer.write(small_model(sparse(1, 40)))
    x, y = examples
    with pytest.raises(ValueError, match="expected a classifier"):
        evaluate.evaluate_tflite(one_row, x, y, batch_size=1)


def test_fixed_batch():
    data = flatbuffer.write(small_model(sparse()))  # no shape signature: the batch is 1
    x = np.ones((4, 40), np.float32)
    with pytest.raises(ValueError, match="pass batch_size=1"):
        evaluate.predict_tflite(data, x)
    assert evaluate.predict_tflite(data, x, batch_size=1).shape == (4, 24)


def test_several_inputs(examples):
    model = small_model(sparse())
    model.subgraphs[0].inputs = np.array([0, 3], np.int32)
    with pytest.raises(ValueError, match=r"list or dict of 2 arrays, for the inputs \['x', 'y'\], got one ndarray"):
        evaluate.predict_tflite(flatbuffer.write(model), examples[0])


def test_integer_inputs_are_quantized():
    details = {"shape": np.array([1, 3]), "dtype": np.int8, "quantization": (0.5, 3), "index": 0}
    got = model_inputs.quantized(details, np.array([[0.0, 1.2, 1000.0]]))
    assert got.dtype == np.int8
    assert got.tolist() == [[3, 5, 127]]


def test_failed_memory_measurement_is_explained(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"measuring process failed(.|\n)*expected a \.tflite file"):
        measure.peak_memory(path)
