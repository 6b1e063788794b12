"""The scan of each layer's sensitivity, on a model whose answers are known."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest

import keras_prune
from keras_prune.allocation import FromSensitivity
from keras_prune.analysis import Sensitivity, SensitivityRow, sensitivity

# Four examples, one for each class; pruning the smallest diagonal weight makes its class wrong.
X, Y = np.eye(4, dtype=np.float32), np.arange(4)
SPARSITIES = (0.75, 13 / 16, 14 / 16)  # keep 4, 3 and 2 of 16 weights


def classifier() -> keras.Model:
    """Two layers of diagonal weights: all right when the diagonals are kept."""
    layers = [keras.layers.Dense(4, use_bias=False, name=name) for name in ("first", "second")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    layers[0].set_weights([np.diag([4.0, 3.0, 2.0, 1.0]).astype(np.float32)])
    layers[1].set_weights([np.diag([1.0, 2.0, 4.0, 8.0]).astype(np.float32)])
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_known_accuracies():
    scan = sensitivity(classifier(), (X, Y), sparsities=SPARSITIES)
    assert scan.baseline == 1.0
    # Both layers lose one class after the other. Outputs of zeros choose class 0, so where `second` loses class 0
    # first, that class stays right by luck, and the next one is the first that is wrong.
    assert [(r.layer, r.sparsity, r.accuracy) for r in scan.rows] == [
        ("first/kernel", 0.75, 1.0),
        ("first/kernel", 13 / 16, 0.75),
        ("first/kernel", 14 / 16, 0.5),
        ("second/kernel", 0.75, 1.0),
        ("second/kernel", 13 / 16, 1.0),
        ("second/kernel", 14 / 16, 0.75),
    ]
    assert str(scan) == (
        "accuracy 1.0000 with nothing pruned; with one layer pruned to:\n"
        "layer            0.75  0.8125   0.875\n"
        "first/kernel   1.0000  0.7500  0.5000\n"
        "second/kernel  1.0000  1.0000  0.7500"
    )


def test_weights_are_restored():
    model = classifier()
    before = model.get_weights()
    sensitivity(model, (X, Y), sparsities=[0.9])
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_weights_are_restored_after_an_error():
    model, calls = classifier(), []
    before = model.get_weights()

    def measure(model):
        calls.append(np.count_nonzero(model.layers[0].kernel))
        if len(calls) == 2:
            raise RuntimeError("out of power")
        return 1.0

    with pytest.raises(RuntimeError, match="out of power"):
        sensitivity(model, measure, sparsities=[0.875])
    assert calls == [4, 2]
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_one_compilation_for_all_points():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    def count(sparsities):
        model = keras.Sequential([keras.Input((4,)), Counting(), keras.layers.Dense(4), keras.layers.Dense(4)])
        model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        traces.clear()
        sensitivity(model, (X, Y), sparsities=sparsities)
        return len(traces)

    assert count([0.1, 0.3, 0.5, 0.7, 0.9]) == count([0.5])


def test_layers_and_criterion():
    scan = sensitivity(classifier(), (X, Y), sparsities=[13 / 16], layers="first", criterion=lambda w: -w * w)
    assert scan.layers == ["first/kernel"]
    assert scan.rows[0].accuracy == 0.25  # the largest go first: three zeros are kept, outputs choose class 0


def test_gradients_are_gathered_on_the_data():
    scan = sensitivity(classifier(), (X, Y), sparsities=[0.75], criterion="taylor")
    assert [row.accuracy for row in scan.rows] == [1.0, 1.0]  # only diagonal weights have |w * gradient| > 0
    with pytest.raises(ValueError, match=r"give data=\(x, y\)"):
        sensitivity(classifier(), lambda model: 1.0, criterion="taylor")


def test_half_precision_weights(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = classifier()
    finally:
        keras.config.set_dtype_policy("float32")
    scan = sensitivity(model, lambda model: 1.0, sparsities=[0.75], resume=tmp_path / "scan.json")
    again = sensitivity(model, lambda model: 0.0, sparsities=[0.75], resume=tmp_path / "scan.json")
    assert again == scan


def test_masks_of_the_model_stay():
    model = keras_prune.prune(classifier(), 0.75)
    sensitivity(model, (X, Y), sparsities=[0.9])
    assert [int(np.sum(layer.kernel.constraint.mask.numpy())) for layer in model.layers] == [4, 4]


def test_resume(tmp_path):
    path, calls = tmp_path / "scan.json", []

    def measure(model):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(np.count_nonzero(model.layers[0].kernel))

    with pytest.raises(KeyboardInterrupt):
        sensitivity(classifier(), measure, sparsities=SPARSITIES, resume=path)
    assert len(json.loads(path.read_text())["points"]) == 3
    scan = sensitivity(classifier(), measure, sparsities=SPARSITIES, resume=path)
    assert len(calls) == 4 + 4  # baseline and six points, of which three were there
    assert [row.accuracy for row in scan.rows] == [4.0, 3.0, 2.0, 4.0, 4.0, 4.0]
    assert [file.name for file in tmp_path.iterdir()] == ["scan.json"]


def test_resume_refuses_another_scan(tmp_path):
    path = tmp_path / "scan.json"
    sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=path)
    with pytest.raises(ValueError, match=r"sparsities: \[0.5\] there, \[0.5, 0.9\] here.*delete the file"):
        sensitivity(classifier(), (X, Y), sparsities=[0.9, 0.5], resume=path)
    with pytest.raises(ValueError, match=r"other settings .criterion: 'Magnitude\(\)' there"):
        sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=path, criterion="random")
    other = tmp_path / "other.json"
    sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=other, criterion=lambda w: w * w)
    sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=other, criterion=lambda w: w * w)
    with pytest.raises(ValueError, match=r"other settings .criterion"):
        sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=other, criterion=lambda w: -w * w)
    with pytest.raises(ValueError, match=r"other settings .data"):
        sensitivity(classifier(), (X[:2], Y[:2]), sparsities=[0.5], resume=path)
    model = classifier()
    model.layers[0].kernel.assign(np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"other settings .weights"):
        sensitivity(model, (X, Y), sparsities=[0.5], resume=path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected a file that `sensitivity` wrote"):
        sensitivity(classifier(), (X, Y), sparsities=[0.5], resume=path)


def scanned() -> Sensitivity:
    points = {"a/kernel": {0.5: 0.98, 0.8: 0.96, 0.9: 0.86}, "b/kernel": {0.5: 0.94, 0.8: 0.99, 0.9: 0.5}}
    rows = [SensitivityRow(name, s, value) for name, curve in points.items() for s, value in curve.items()]
    return Sensitivity(0.98, tuple(rows))


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        (0.0, {"a/kernel": 0.5, "b/kernel": 0.0}),
        (0.01, {"a/kernel": 0.65, "b/kernel": 0.125}),  # half of the way from .5 to .8; a quarter from 0 to .5
        (0.02, {"a/kernel": 0.8, "b/kernel": 0.25}),  # what rises again after it was too low does not count
        (1.0, {"a/kernel": 0.9, "b/kernel": 0.9}),  # nothing was measured beyond
    ],
)
def test_allocation(drop, expected):
    assert scanned().allocation(drop).sparsities == pytest.approx(expected)


def test_allocation_at_the_limit_but_for_rounding():
    """0.96 in float32 is below 0.97 - 0.01 in float64; the layer costs exactly what it may."""
    rows = [SensitivityRow("a", sparsity, float(np.float32(0.96))) for sparsity in (0.5, 0.9)]
    assert Sensitivity(float(np.float32(0.97)), tuple(rows)).allocation(0.01).sparsities == {"a": 0.9}
    assert FromSensitivity(rows, 0.01, baseline=0.97)({"a": np.ones(2)}, 0.5, 0.5) == {"a": 0.9}


def test_allocation_prunes_a_model():
    scan = sensitivity(classifier(), (X, Y), sparsities=SPARSITIES)
    model = keras_prune.prune(classifier(), 0.5, allocation=scan.allocation(drop=0.0))
    assert [int(np.count_nonzero(layer.kernel)) for layer in model.layers] == [4, 3]


def test_allocation_of_a_path_that_ends_another():
    rows = (SensitivityRow("dense/kernel", 0.5, 1.0), SensitivityRow("encoder/dense/kernel", 0.9, 1.0))
    allocation = Sensitivity(1.0, rows).allocation()
    scores = {"dense/kernel": np.ones(2), "encoder/dense/kernel": np.ones(2)}
    assert allocation(scores, 0.5, 0.5) == {"dense/kernel": 0.5, "encoder/dense/kernel": 0.9}


def test_figure():
    pytest.importorskip("matplotlib")
    axes = scanned().figure().axes[0]
    assert axes.get_xlabel() == "sparsity of the layer (% zeros)"
    assert axes.get_ylabel() == "accuracy, without retraining"
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["a/kernel"] == [[0.0, 0.98], [50.0, 0.98], [80.0, 0.96], [90.0, 0.86]]
    assert lines.keys() == {"a/kernel", "b/kernel", "nothing pruned"}


def test_figure_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-prune\[plot\]"):
        scanned().figure()


def test_wrong_arguments():
    model = classifier()
    with pytest.raises(ValueError, match="sparsities: expected a sparsity"):
        sensitivity(model, (X, Y), sparsities=[0.5, 1.5])
    for wrong in ([], 0.5):
        with pytest.raises(ValueError, match="sparsities: expected one or more"):
            sensitivity(model, (X, Y), sparsities=wrong)
    with pytest.raises(ValueError, match="layers: expected names"):
        sensitivity(model, (X, Y), layers="third")
    with pytest.raises(ValueError, match="metric: expected one of 'accuracy', 'loss', got 'auc'"):
        sensitivity(model, (X, Y), metric="auc")
    with pytest.raises(TypeError, match="data: expected"):
        sensitivity(model, X)
    with pytest.raises(TypeError, match="a generator"):
        sensitivity(model, ((X, Y) for _ in range(2)))
    with pytest.raises(TypeError, match="Keras 3 model"):
        sensitivity("model", (X, Y))
    with pytest.raises(ValueError, match="drop"):
        scanned().allocation(-1)
    with pytest.raises(ValueError, match="not compiled"):
        sensitivity(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]), (X, Y))
