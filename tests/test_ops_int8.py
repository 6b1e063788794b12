"""The TensorFlow op with int8 activations: bits, gradients, errors, and SavedModels from before it had them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from op_calls import CODEBOOK, cache_counts, random_x, run_fresh  # type: ignore[import-not-found]
from packed_models import load, one_layer, run  # type: ignore[import-not-found]
from tensorflow.core.protobuf import saved_model_pb2

from keras_prune import int8_activations, op_library, ops, sparse_format, tensor_format
from keras_prune_export.targets.fully_connected import Options


def random_codes(units, inputs, *, density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, len(CODEBOOK), (units, inputs)) * (rng.random((units, inputs)) < density)
    return codes.astype(np.uint8)


def as_tensor(packed):
    return tf.constant(np.frombuffer(packed, np.uint8))


def assert_same_bits(got, want):
    """Zeros of either sign are equal, and NaN is NaN."""
    got = np.asarray(got)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("units", "inputs"), [(1, 1), (5, 7), (70, 300), (3, 1000)])
@pytest.mark.parametrize("density", [0.0, 0.04, 1.0])
def test_bits_are_those_of_numpy(units, inputs, density):
    codes = random_codes(units, inputs, density=density)
    packed = as_tensor(sparse_format.encode(codes, CODEBOOK))
    for batch in (1, 3, 70):
        x = random_x(batch, inputs)
        got = ops.relative_index_matmul(x, packed, activations="int8")
        assert_same_bits(got, int8_activations.fully_connected(x, codes, CODEBOOK))
        for scale in (0.01, 1e-30, 1e38):
            got = ops.relative_index_matmul(x, packed, activations="int8", x_scale=scale)
            assert_same_bits(got, int8_activations.fully_connected(x, codes, CODEBOOK, scale=scale))


def test_a_step_too_small_for_an_inverse_is_still_a_step():
    """TensorFlow's threads take such numbers for zeros, which stand for no step."""
    codes, x = random_codes(5, 7, density=1), random_x(2, 7)
    got = ops.relative_index_matmul(x, sparse_format.encode(codes, CODEBOOK), activations="int8", x_scale=1e-40)
    want = int8_activations.fully_connected(x, codes, CODEBOOK, scale=1e-40)
    assert np.abs(want).max() < 1e-30
    assert np.abs(got).max() < 1e-30  # zeros, as products of scales below 2^-126 are to them


@pytest.mark.parametrize("x_scale", [None, 0.015])
@pytest.mark.parametrize("batch", [3, 40])
def test_bits_are_those_of_the_delegate(batch, x_scale):
    codes, x = random_codes(40, 130), random_x(batch, 130)
    x[1, 3] = np.inf
    packed, bias = sparse_format.encode(codes, CODEBOOK), random_x(1, 40, seed=3)[0]
    options = Options(activations="int8", x_scale=x_scale).to_bytes()
    want = run(load(one_layer(packed, bias, x.shape, options=options)), x)
    assert_same_bits(ops.relative_index_matmul(x, as_tensor(packed), activations="int8", x_scale=x_scale) + bias, want)


def test_one_step_for_all_rows_needs_no_layout_of_its_own():
    codes, x = random_codes(20, 90, seed=5), random_x(2, 90)
    packed = as_tensor(sparse_format.encode(codes, CODEBOOK))
    made, _ = cache_counts()
    results = [ops.relative_index_matmul(x, packed, activations="int8", x_scale=scale) for scale in (0.01, 0.1, None)]
    assert len({result.numpy().tobytes() for result in results}) == 3
    assert cache_counts()[0] - made == 1


def test_rows_of_zeros_and_rows_that_are_not_finite():
    codes, x = random_codes(5, 7), random_x(4, 7)
    x[1], x[2, 3], x[3, 0] = 0, np.inf, np.nan
    got = ops.relative_index_matmul(x, sparse_format.encode(codes, CODEBOOK), activations="int8")
    assert_same_bits(got, int8_activations.fully_connected(x, codes, CODEBOOK))
    assert np.isfinite(got[:2]).all()
    assert np.isnan(got[2:]).all()


def test_both_activations_share_packed_bytes():
    codes, x = random_codes(20, 90), random_x(2, 90)
    packed = as_tensor(sparse_format.encode(codes, CODEBOOK))
    made, _ = cache_counts()
    plain = ops.relative_index_matmul(x, packed)
    rounded = ops.relative_index_matmul(x, packed, activations="int8")
    np.testing.assert_allclose(plain, x @ CODEBOOK[codes].T, rtol=1e-5, atol=1e-5)
    assert_same_bits(rounded, int8_activations.fully_connected(x, codes, CODEBOOK))
    np.testing.assert_array_equal(ops.relative_index_matmul(x, packed), plain)
    assert cache_counts()[0] - made == 1


def test_gradient_goes_straight_through_the_rounding_of_x():
    codes, x, upstream = random_codes(17, 33), tf.Variable(random_x(4, 33)), random_x(4, 17, seed=2)
    packed = as_tensor(sparse_format.encode(codes, CODEBOOK))

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            y = ops.relative_index_matmul(x, packed, units=17, input_dim=33, activations="int8")
        return tape.gradient(y, x, upstream)

    values, scale = int8_activations.quantize_codebook(CODEBOOK)
    weights = values[codes].astype(np.float64) * scale
    # Sums of 17 products, each rounded to float32.
    np.testing.assert_allclose(gradient(), upstream.astype(np.float64) @ weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x_scale", [1.0, 1e-45, 3e38])
def test_gradient_is_zero_where_x_was_clipped(x_scale):
    packed = as_tensor(sparse_format.encode(random_codes(3, 4, density=1), CODEBOOK))
    reach = min(127 * max(np.float64(np.float32(x_scale)), 2.0**-126), np.finfo(np.float32).max)
    last = np.float32(reach)
    with np.errstate(over="ignore"):
        beyond = np.nextafter(last, np.float32(np.inf))
    x = tf.Variable([[0, last, -last, beyond]])
    with tf.GradientTape() as tape:
        y = ops.relative_index_matmul(x, packed, activations="int8", x_scale=x_scale)
    dx = tape.gradient(y, x, tf.ones_like(y))[0].numpy()
    assert (dx != 0).tolist() == [True, True, True, False]


def test_second_order_gradients_are_refused():
    packed, x = as_tensor(sparse_format.encode(random_codes(5, 7), CODEBOOK)), tf.Variable(random_x(2, 7))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = tf.reduce_sum(ops.relative_index_matmul(x, packed, activations="int8") ** 2)
        gradient = inner.gradient(loss, x)
    with pytest.raises(NotImplementedError, match="at most a first-order gradient with activations='int8'"):
        outer.gradient(gradient, x)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"activations": "int4"}, r"expected activations to be one of \('float32', 'int8'\), got 'int4'"),
        ({"activations": ["int8"]}, r"expected activations to be one of .* got \['int8'\]"),
        ({"activations": "int8", "transpose": True}, "expected activations='float32' with transpose=True, got 'int8'"),
        ({"x_scale": 0.1}, "expected x_scale only with activations='int8', got 0.1 with 'float32'"),
        ({"activations": "int8", "x_scale": 0.0}, "expected x_scale, .* to be a float32 above 0, or None, got 0.0"),
        ({"activations": "int8", "x_scale": np.inf}, "got inf"),
        ({"activations": "int8", "x_scale": tf.constant(1.0)}, "got <tf.Tensor"),
    ],
)
def test_errors(arguments, match):
    packed = sparse_format.encode(random_codes(5, 7), CODEBOOK)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        ops.relative_index_matmul(random_x(2, 7), packed, **arguments)


@pytest.mark.parametrize(
    "attributes",
    [
        {"activations": "float32", "x_scale": 0.5},
        {"activations": "int8", "x_scale": -0.5},
        {"activations": "int8", "x_scale": float("inf")},
        {"activations": "int8", "x_scale": float("nan")},
    ],
)
def test_the_op_itself_checks_its_attributes(attributes):
    ops.load()
    packed = as_tensor(sparse_format.encode(random_codes(5, 7), CODEBOOK))
    matmul = op_library.load("keras_prune_relative_index_matmul").keras_prune_relative_index_matmul
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected x_scale above 0 with activations int8, or 0"):
        matmul(random_x(2, 7), packed, **attributes)


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_version_2_gives_the_same_bits_as_version_1(activations):
    codes = random_codes(30, 120)
    one, two = as_tensor(sparse_format.encode(codes, CODEBOOK)), as_tensor(tensor_format.encode_codes(codes, CODEBOOK))
    assert len(two) < len(one)
    for batch in (1, 64):
        x = random_x(batch, 120)
        want = ops.relative_index_matmul(x, one, activations=activations)
        got = ops.relative_index_matmul(x, two, units=30, activations=activations)
        np.testing.assert_array_equal(got, want)
    dy = random_x(2, 30)
    got = ops.relative_index_matmul(dy, two, transpose=True, input_dim=120)
    np.testing.assert_array_equal(got, ops.relative_index_matmul(dy, one, transpose=True))


def test_version_2_needs_both_sizes():
    packed = tensor_format.encode_codes(random_codes(5, 7), CODEBOOK)
    made, _ = cache_counts()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected the number of units .*version 2.* pass units"):
        ops.relative_index_matmul(random_x(2, 7), packed)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected the number of inputs .* pass input_dim"):
        ops.relative_index_matmul(random_x(2, 5), packed, transpose=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected packed weights of 6 units .* got 5 and 7"):
        ops.relative_index_matmul(random_x(2, 7), packed, units=6)
    assert cache_counts()[0] == made


def test_version_2_of_other_values_or_damaged_is_refused():
    x = random_x(2, 7)
    exact = tensor_format.encode_exact(random_x(5, 7))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected values of a codebook, got another kind"):
        ops.relative_index_matmul(x, exact, units=5)
    packed = bytearray(tensor_format.encode_codes(random_codes(5, 7), CODEBOOK))
    for at in range(len(packed)):
        packed[at] ^= 16
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"relative_index_matmul: .*pack"):
            ops.relative_index_matmul(x, packed, units=5)
        packed[at] ^= 16


def test_a_saved_model_from_before_activations_loads(tmp_path):
    codes, x = random_codes(5, 7), random_x(3, 7)
    module = tf.Module()
    module.packed = tf.Variable(np.frombuffer(sparse_format.encode(codes, CODEBOOK), np.uint8), trainable=False)
    signature = [tf.TensorSpec([None, 7], tf.float32)]
    module.serve = tf.function(lambda x: ops.relative_index_matmul(x, module.packed, units=5), signature)
    want = module.serve(x).numpy()
    tf.saved_model.save(module, tmp_path / "model")
    file = tmp_path / "model" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [node for function in graph.library.function for node in function.node_def if node.op == ops.OP_NAME]
    assert nodes
    for node in nodes:
        node.attr.pop("activations", None)
        node.attr.pop("x_scale", None)
    file.write_bytes(saved.SerializeToString())
    np.save(tmp_path / "x.npy", x)
    code = """
import numpy as np, tensorflow as tf
from keras_prune import native
tf.load_op_library(str(native.op_path()))
model = tf.saved_model.load("model")
np.save("y.npy", model.serve(tf.constant(np.load("x.npy"))))
"""
    run_fresh(code, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want)
