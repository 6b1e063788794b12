"""SavedModels whose Dense layers compute on packed weights, by our op."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import saved_models  # type: ignore[import-not-found]
import serving_session  # type: ignore[import-not-found]
from op_calls import run_fresh  # type: ignore[import-not-found]
from tensorflow.core.protobuf import saved_model_pb2

import keras_prune
from keras_prune import native, ops
from keras_prune.layers import PackedDense
from keras_prune_export import flatbuffer, kernel_costs
from keras_prune_export.transformations.int8_activations import computing, options_of

layers = keras.layers


@pytest.fixture(autouse=True)
def _op():
    ops.load()


def graph_of(path):
    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def


def op_nodes(path):
    graph = graph_of(path)
    every = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return [node for node in every if node.op == ops.OP_NAME]


def examples(path, batch):
    rng = np.random.default_rng(3)
    inputs = serving_session.signature(path).inputs
    return {
        name: rng.normal(size=(batch, *[dim.size for dim in info.tensor_shape.dim][1:])).astype(np.float32)
        for name, info in inputs.items()
    }


def assert_close(got, want):
    """Sums of at most 100 products of normal numbers in another order: float32 rounds each to 6e-8 of the largest."""
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["dense", "convolutional", "nested_and_shared", "several", "normalized"])
def test_computes_what_the_quantized_keras_model_does(kind, tmp_path):
    model = saved_models.prune(saved_models.KINDS[kind]())
    before = [weight.numpy() for weight in model.weights]
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed")
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), values)
    number = sum(isinstance(layer, layers.Dense) for layer in model._flatten_layers())
    assert len(op_nodes(tmp_path / "1")) >= number  # a shared layer is called twice
    model.set_weights(saved_models.quantized_weights(model))
    session = serving_session.Session(tmp_path / "1")
    for batch in (1, 5):
        inputs = examples(tmp_path / "1", batch)
        want = model(inputs if len(inputs) > 1 else next(iter(inputs.values())))
        got = session(inputs)
        if isinstance(want, dict):
            for name, values in want.items():
                assert_close(got[name], values)
        else:
            assert_close(next(iter(got.values())), want)


SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
tf.load_op_library(sys.argv[1])
loaded = tf.saved_model.load("1")
assert "keras_prune" not in sys.modules
assert {str(variable.dtype.name) for variable in loaded.variables} == {"float32", "uint8"}
assert all(len(variable.shape) == 1 for variable in loaded.variables)  # no kernel, only packed bytes and biases
np.save("y.npy", loaded.signatures["serving_default"](x=tf.constant(np.load("x.npy")))["output_0"])
"""


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_a_fresh_process_needs_the_library_only(activations, tmp_path):
    model = saved_models.prune(saved_models.sequential((40,), layers.Dense(30, activation="relu"), layers.Dense(5)))
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed", activations=activations)
    x = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    run_fresh(SCRIPT, tmp_path, native.op_path())
    ours = keras.Sequential([PackedDense.from_dense(layer, activations=activations) for layer in model.layers])
    got = np.load(tmp_path / "y.npy")
    assert_close(got, ours(x))
    if activations == "float32":
        assert_close(got, keras_prune.quantize(model)(x))
    else:
        np.testing.assert_array_equal(got, ours(x))  # sums are exact


def two_layers():
    return saved_models.prune(saved_models.sequential((40,), layers.Dense(30, activation="relu"), layers.Dense(5)))


def scales_of(path):
    return sorted(node.attr["x_scale"].f for node in op_nodes(path))


def test_one_scale_a_layer_is_that_of_the_tflite_file(tmp_path):
    model, x = two_layers(), np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
    int8 = {"activations": "int8", "representative_data": x[:50]}
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed", **int8)
    file = flatbuffer.read(keras_prune.export_tflite(model, **int8))
    want = [options_of(file, op).x_scale for _, op in computing(file)]
    # What the first layer gets is the data; the second one's inputs are float32 sums in another order.
    assert want[0] == np.abs(x[:50]).max() / np.float32(127)
    got = sorted(scales_of(tmp_path / "1"), key=lambda scale: scale != want[0])
    assert got[0] == want[0]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    pairs = zip(model.layers, got, strict=True)
    ours = keras.Sequential([PackedDense.from_dense(a, activations="int8", x_scale=scale) for a, scale in pairs])
    np.testing.assert_array_equal(serving_session.Session(tmp_path / "1")({"x": x})["output_0"], ours(x))


def test_data_for_several_inputs_in_every_form(tmp_path):
    model = saved_models.prune(saved_models.KINDS["several"]())
    rng = np.random.default_rng(0)
    arrays = {tensor.name: rng.normal(size=(20, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs}
    forms = [
        arrays,
        [*arrays.values()],
        lambda: ([values[i : i + 5] for values in arrays.values()] for i in (0, 5, 10, 15)),
    ]
    found = []
    for number, data in enumerate(forms):
        path = tmp_path / str(number)
        keras_prune.export_saved_model(model, path, target="packed", activations="int8", representative_data=data)
        found.append(scales_of(path))
    assert all(scale > 0 for scale in found[0])
    np.testing.assert_allclose(found, [found[0]] * len(forms), rtol=1e-6)  # batches of another size: sums may differ


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.zeros((3, 40)), "got nothing but zeros for 'dense"),
        (np.ones((3, 7)), r"representative_data: expected at least one example of shape \(40,\)"),
        (np.full((3, 40), np.nan), "got NaN or infinity"),
        (lambda: None, "got one that returned NoneType"),
        (lambda: iter(()), "got none for 'dense"),
    ],
)
def test_data_that_gives_no_scale(data, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        keras_prune.export_saved_model(
            two_layers(), tmp_path / "1", target="packed", activations="int8", representative_data=data
        )
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_needs_as_many_examples(tmp_path):
    inputs = keras.Input((40,), batch_size=8, name="x")
    model = saved_models.prune(keras.Model(inputs, layers.Dense(30)(inputs)))
    x = np.ones((13, 40), np.float32)
    x[12] = 254
    int8 = {"target": "packed", "activations": "int8"}
    keras_prune.export_saved_model(model, tmp_path / "1", **int8, representative_data=x)
    assert scales_of(tmp_path / "1") == [2.0]
    with pytest.raises(ValueError, match="expected at least 8 examples, which the model takes at once, got 7"):
        keras_prune.export_saved_model(model, tmp_path / "2", **int8, representative_data=x[:7])


@pytest.mark.parametrize("kind", ["mixed_precision", "nested_and_shared"])
def test_calibrated_kinds(kind, tmp_path):
    model = saved_models.prune(saved_models.KINDS[kind]())
    x = np.random.default_rng(0).normal(size=(30, *model.input_shape[1:])).astype(np.float32)
    path = keras_prune.export_saved_model(
        model, tmp_path / "1", target="packed", activations="int8", representative_data=x
    )
    assert min(scales_of(path)) > 0
    (name,) = serving_session.signature(path).inputs
    got = np.asarray(serving_session.Session(path)({name: x})["output_0"], np.float32)
    model.set_weights(saved_models.quantized_weights(model))
    want = np.asarray(model(x), np.float32)
    # Each of the layers rounds its inputs to 1/127 of the largest, the codebook likewise.
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_mixed_precision(tmp_path):
    model = saved_models.prune(saved_models.mixed_precision())
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed")
    assert len(op_nodes(tmp_path / "1")) == 2
    x = examples(tmp_path / "1", 3)
    got = serving_session.Session(tmp_path / "1")(x)["output_0"]
    model.set_weights(saved_models.quantized_weights(model))
    # bfloat16 has 8 bits: the dense layer rounds its inputs, kernel and results to 2^-8 each.
    np.testing.assert_allclose(got.astype(np.float32), np.asarray(model(x["x"]), np.float32), rtol=0.05, atol=0.05)


def test_is_not_larger_than_the_stock_form(tmp_path):
    model = saved_models.prune(saved_models.sequential((784,), layers.Dense(300), layers.Dense(10)), 0.08)
    sizes = {}
    for target in ("stock", "packed"):
        path = keras_prune.export_saved_model(model, tmp_path / target, target=target)
        sizes[target] = sum(file.stat().st_size for file in path.rglob("*.*"))
    assert sizes["packed"] < sizes["stock"]


def test_layers_that_are_not_pruned_or_have_another_scheme_stay_dense(tmp_path):
    model = saved_models.sequential(
        (20,), layers.Dense(16), layers.Dense(8, name="whole"), layers.Dense(4, name="eight")
    )
    saved_models.prune(model)
    model.get_layer("whole").kernel.assign(np.random.default_rng(0).normal(size=(16, 8)))
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed", weights={"eight": keras_prune.Int8()})
    assert len(op_nodes(tmp_path / "1")) == 1
    with pytest.raises(ValueError, match="as keys of weights; got 'nine'"):
        keras_prune.export_saved_model(model, tmp_path / "2", target="packed", weights={"nine": keras_prune.Int8()})


def test_keys_mean_packed_layers_too(tmp_path):
    model = saved_models.prune(saved_models.dense())
    weights = {re.escape(layer.name): keras_prune.Codebook(2) for layer in model.layers}
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed", weights=weights)
    assert len(op_nodes(tmp_path / "1")) == 2


def test_lossless_keeps_what_was_quantized_before(tmp_path):
    model = saved_models.prune(saved_models.sequential((40,), layers.Dense(60)))  # more than 255 different weights
    with pytest.raises(ValueError, match="expected a Dense layer for target='packed'"):
        keras_prune.export_saved_model(model, tmp_path / "1", target="packed", weights="lossless")
    quantized = keras_prune.quantize(model)
    keras_prune.export_saved_model(quantized, tmp_path / "1", target="packed", weights="lossless")
    x = examples(tmp_path / "1", 3)
    assert_close(serving_session.Session(tmp_path / "1")(x)["output_0"], quantized(x["x"]))


@pytest.mark.parametrize(("dense", "kinds"), [(3.0, ["float32", "int8"]), (1.5, ["int8"]), (0.5, [])])
def test_each_kind_compares_our_kernel_with_dense_float32(tmp_path, monkeypatch, *, dense, kinds):
    """TensorFlow computes a dense layer in float32, however fast dense int8 kernels are."""
    milliseconds = {"packed": 2, "packed_int8": 1, "dense": dense, "dense_int8": 1e-3}
    monkeypatch.setattr(kernel_costs, "nanoseconds", lambda work, form, costs: 1e6 * milliseconds[form])
    for kind in ("float32", "int8"):
        if kind in kinds:
            keras_prune.export_saved_model(two_layers(), tmp_path / kind, target="packed", activations=kind)
            assert len(op_nodes(tmp_path / kind)) == 2
        else:
            with pytest.raises(ValueError, match=r"of which so much is pruned, .* that packed weights are faster"):
                keras_prune.export_saved_model(two_layers(), tmp_path / kind, target="packed", activations=kind)


def test_a_model_with_our_layers(tmp_path):
    dense = saved_models.prune(saved_models.dense())
    model = keras.Sequential([keras.Input((40,), name="x"), *map(PackedDense.from_dense, dense.layers)])
    with pytest.raises(ValueError, match=f"uses {ops.OP_NAME}.* target='packed'"):
        keras_prune.export_saved_model(model, tmp_path / "1", weights="lossless")
    keras_prune.export_saved_model(model, tmp_path / "1", target="packed")
    x = examples(tmp_path / "1", 3)
    np.testing.assert_array_equal(serving_session.Session(tmp_path / "1")(x)["output_0"], model(x["x"]))


@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        ("dense", {"target": "op"}, r"expected target to be one of \('stock', 'packed'\), got 'op'"),
        (
            "dense",
            {"target": "packed", "activations": "int4"},
            r"activations to be one of \('float32', 'int8'\), got 'int4'",
        ),
        ("dense", {"target": "packed", "representative_data": np.ones((2, 40))}, "only with activations='int8'"),
        ("dense", {"activations": "int8"}, "expected activations='float32' with target='stock', got 'int8'"),
        ("dense", {"target": "packed", "weights": keras_prune.Int8()}, "expected a Dense layer for target='packed'"),
        ("recurrent", {"target": "packed"}, "expected a Dense layer for target='packed'.* use target='stock'"),
        ("subclassed", {"target": "packed"}, "expected a Sequential or functional model for target='packed'"),
    ],
)
def test_errors(kind, arguments, *, match, tmp_path):
    model = saved_models.prune(saved_models.KINDS[kind]())
    with pytest.raises(ValueError, match=match):
        keras_prune.export_saved_model(model, tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []
