"""The TensorFlow op: values, shapes, gradients, errors."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from op_calls import assert_equals_dense, cache_counts, random_packed, random_x  # type: ignore[import-not-found]
from packed_bytes import REFUSED, TINY, refused_bytes  # type: ignore[import-not-found]

from keras_prune import ops, sparse_format
from keras_prune.quantization import Codebook

# (inputs, units): vector tails of every width, one row, one column, more than one block of columns
SHAPES = [(1, 1), (1, 40), (40, 1), (7, 5), (16, 16), (33, 17), (65, 31), (300, 70), (1000, 3)]


@pytest.mark.parametrize(("inputs", "units"), SHAPES)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_equals_dense(inputs, units, batch):
    packed, kernel = random_packed(inputs, units)
    x, dy = random_x(batch, inputs), random_x(batch, units)
    assert_equals_dense(ops.relative_index_matmul(x, packed), x, kernel)
    assert_equals_dense(ops.relative_index_matmul(dy, packed, transpose=True), dy, kernel.T)


@pytest.mark.parametrize("density", [0.0, 0.004, 0.04, 0.5, 1.0])
def test_densities(density):
    packed, kernel = random_packed(257, 66, density=density)
    x, dy = random_x(3, 257), random_x(3, 66)
    assert_equals_dense(ops.relative_index_matmul(x, packed), x, kernel)
    assert_equals_dense(ops.relative_index_matmul(dy, packed, transpose=True), dy, kernel.T)


def test_golden_values():
    packed = ops.pack_weights(np.array([[0.0, 2.0], [0.5, 0.0], [0.0, -1.0]], np.float32))
    x = np.array([[1, 10, 100], [-1, 0, 1]], np.float32)
    assert ops.relative_index_matmul(x, packed).numpy().tolist() == [[5.0, -98.0], [0.0, -3.0]]
    dy = np.array([[1.0, 10.0]], np.float32)
    assert ops.relative_index_matmul(dy, packed, transpose=True).numpy().tolist() == [[20.0, 0.5, -10.0]]


def test_empty_batch():
    packed, _ = random_packed(7, 5)
    assert ops.relative_index_matmul(np.zeros((0, 7), np.float32), packed).shape == (0, 5)
    assert ops.relative_index_matmul(np.zeros((0, 5), np.float32), packed, transpose=True).shape == (0, 7)
    assert ops.relative_index_matmul(np.zeros((2, 0, 7), np.float32), packed).shape == (2, 0, 5)


def test_leading_dimensions():
    packed, kernel = random_packed(7, 5)
    x = random_x(24, 7).reshape(2, 3, 4, 7)
    y = ops.relative_index_matmul(x, packed)
    assert y.shape == (2, 3, 4, 5)
    assert_equals_dense(tf.reshape(y, [24, 5]), x.reshape(24, 7), kernel)


def test_unaligned_input():
    packed, kernel = random_packed(7, 5)
    x = random_x(6, 7)
    assert_equals_dense(ops.relative_index_matmul(tf.constant(x)[1:], packed), x[1:], kernel)


def test_packed_may_be_bytes_tensor_or_variable():
    packed, kernel = random_packed(7, 5)
    x = random_x(2, 7)
    data = packed.tobytes()
    for same in (data, bytearray(data), memoryview(data), packed, tf.constant(packed), tf.Variable(packed)):
        assert_equals_dense(ops.relative_index_matmul(x, same), x, kernel)


def test_pack_weights_transposes_and_quantizes():
    kernel = np.array([[0, 1, -2], [3, 0, 0]], np.float32)
    assert sparse_format.to_dense(ops.pack_weights(kernel)).tolist() == [[0, 3], [1, 0], [-2, 0]]
    many = random_x(50, 40)
    dense = sparse_format.to_dense(ops.pack_weights(tf.Variable(many), weights=Codebook(bits=2)))
    assert dense.shape == (40, 50)
    assert len(np.unique(dense)) == 3
    with pytest.raises(ValueError, match=r"expected a kernel of shape \(inputs, units\), got \(3,\)"):
        ops.pack_weights(np.ones(3, np.float32))


@pytest.mark.parametrize("transpose", [False, True])
def test_gradient(transpose):
    packed, kernel = random_packed(33, 17)
    kernel = kernel.T if transpose else kernel
    x = tf.Variable(random_x(4, kernel.shape[0]))
    packed = tf.Variable(packed, trainable=False)
    upstream = random_x(4, kernel.shape[1], seed=2)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(ops.relative_index_matmul(x, packed, transpose=transpose) * upstream)
    gradients = tape.gradient(y, [x, packed])
    assert gradients[1] is None
    assert_equals_dense(gradients[0], upstream, kernel.T)


def test_second_order_gradient_in_a_function():
    packed, kernel = random_packed(9, 6)
    held = tf.constant(packed)

    def second_order(matmul, x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(matmul(x) ** 3)
            gradient = inner.gradient(loss, x)
        return outer.gradient(gradient, x)

    signature = [tf.TensorSpec([None, 9], tf.float32)]
    ours = tf.function(lambda x: second_order(lambda v: ops.relative_index_matmul(v, held), x), signature)
    x = tf.constant(random_x(3, 9))
    expected = second_order(lambda v: v @ tf.constant(kernel, tf.float64), tf.cast(x, tf.float64))
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-3)  # values of about 100, third powers in float32


def test_gradient_of_a_gathered_output():
    packed, kernel = random_packed(9, 6)
    x = tf.Variable(random_x(3, 9))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(ops.relative_index_matmul(x, packed), [2]))
    gradient = tape.gradient(loss, x).numpy()
    np.testing.assert_allclose(gradient, np.stack([np.zeros(9), np.zeros(9), kernel.sum(1)]), rtol=1e-5, atol=1e-5)


def test_static_shapes():
    packed = tf.constant(random_packed(7, 5)[0])

    def output_shape(x_shape, **arguments):
        function = tf.function(lambda x: ops.relative_index_matmul(x, packed, **arguments))
        return function.get_concrete_function(tf.TensorSpec(x_shape, tf.float32)).outputs[0].shape.as_list()

    assert output_shape([None, 7]) == [None, None]
    assert output_shape([None, 7], units=5) == [None, 5]
    assert output_shape([3, 5], transpose=True, units=5, input_dim=7) == [3, 7]
    assert output_shape([2, None, 7], units=5) == [2, None, 5]
    assert output_shape([2, 3, 7]) == [2, 3, None]
    function = tf.function(lambda x: ops.relative_index_matmul(x, packed, units=5), [tf.TensorSpec(None, tf.float32)])
    assert function.get_concrete_function().outputs[0].shape.rank is None


def test_function_with_unknown_batch():
    packed, kernel = random_packed(33, 17)
    variable = tf.Variable(packed)
    signature = [tf.TensorSpec([None, 33], tf.float32)]
    function = tf.function(lambda x: ops.relative_index_matmul(x, variable), signature)
    made, _ = cache_counts()
    for batch in (1, 2, 64, 3, 1):
        x = random_x(batch, 33, seed=batch)
        assert_equals_dense(function(x), x, kernel)
    assert cache_counts()[0] - made <= 1
    assert function(np.zeros((0, 33), np.float32)).shape == (0, 17)


@pytest.mark.parametrize(
    ("x", "arguments", "match"),
    [
        (np.zeros((2, 6), np.float32), {}, r"expected x of shape \(batch, 7\).*got \(2, 6\)"),
        (np.zeros((2, 7), np.float32), {"transpose": True}, r"expected x of shape \(batch, 5\).*got \(2, 7\)"),
        (np.zeros((2, 3, 6), np.float32), {}, r"expected x of shape \(batch, 7\).*got \(2, 3, 6\)"),
        (np.zeros(7, np.float32), {}, r"expected x of shape \(batch, size\).*got \(7,\)"),
        (np.float32(1), {}, r"expected x of shape \(batch, size\).*got \(\)"),
        (np.zeros((2, 7)), {}, "expected x of type float32, got float64"),
        (np.zeros((2, 7), np.int32), {}, "expected x of type float32, got int32"),
        (np.zeros((2, 7), np.float32), {"units": 4}, "expected packed weights of 4 units .* got 5 and 7"),
        (np.zeros((2, 7), np.float32), {"input_dim": 8}, "-1 units and 8 inputs .* got 5 and 7"),
    ],
)
def test_errors_of_x(x, arguments, match):
    packed, _ = random_packed(7, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        ops.relative_index_matmul(x, packed, **arguments)


@pytest.mark.parametrize(
    "spoil",
    [lambda p: p[None], lambda p: p.astype(np.int8), lambda p: p[:0], lambda p: np.zeros(64, np.uint8), lambda p: p[0]],
    ids=["rank 2", "int8", "empty", "zeros", "scalar"],
)
def test_errors_of_packed(spoil):
    packed, _ = random_packed(7, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"relative_index_matmul: .*pack"):
        ops.relative_index_matmul(np.zeros((2, 7), np.float32), spoil(packed))


@pytest.mark.parametrize("what", list(REFUSED))
def test_every_broken_rule_is_refused(what):
    x = np.array([[1, 10, 100]], np.float32)
    assert ops.relative_index_matmul(x, TINY).numpy().tolist() == [[1.25, -25.0]]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"relative_index_matmul: .*packed weights"):
        ops.relative_index_matmul(x, refused_bytes(what))


@pytest.mark.parametrize("size", [-5, -1, 0, 2.5, True, "5"])
@pytest.mark.parametrize("name", ["units", "input_dim"])
def test_errors_of_sizes(name, size):
    packed, _ = random_packed(7, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"expected {name} of at least 1, or None, got {size!r}"):
        ops.relative_index_matmul(np.zeros((2, 7), np.float32), packed, **{name: size})


def test_sizes_may_be_numpy_integers():
    packed, kernel = random_packed(7, 5)
    x = random_x(2, 7)
    result = ops.relative_index_matmul(x, packed, units=np.int64(5), input_dim=np.int32(7))
    assert_equals_dense(result, x, kernel)


@pytest.mark.parametrize(
    ("name", "arguments", "match"),
    [
        ("rows_at_the_limit", {"units": 3}, "expected packed weights of 3 units .* got 2147483647 and 1"),
        ("rows_at_the_limit", {"transpose": True}, r"expected x of shape \(batch, 2147483647\)"),
        ("cols_at_the_limit", {}, r"expected x of shape \(batch, 2147483647\)"),
        ("rows_past_the_limit", {}, "sizes contradict"),
    ],
)
def test_sizes_that_x_does_not_have_cost_nothing(name, arguments, match):
    packed = (pathlib.Path(__file__).parent / "golden" / f"{name}.packed").read_bytes()
    made, _ = cache_counts()
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        ops.relative_index_matmul(np.zeros((1, 1), np.float32), packed, **arguments)
    assert cache_counts()[0] == made


def test_every_truncation_and_every_bit_flip_is_refused():
    packed, _ = random_packed(5, 3)
    x = tf.zeros((1, 5))
    spoiled = [packed[:size] for size in range(len(packed))]
    for bit in range(8 * len(packed)):
        flipped = packed.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        spoiled.append(flipped)
    for bad in [*spoiled, np.append(packed, np.uint8(0))]:
        with pytest.raises(tf.errors.InvalidArgumentError, match="relative_index_matmul"):
            ops.relative_index_matmul(x, bad)
    assert ops.relative_index_matmul(x, packed).shape == (1, 3)


@pytest.mark.parametrize("sizes", [{}, {"units": 5, "input_dim": 7}])
def test_rank_unknown_while_tracing(sizes):
    packed, kernel = random_packed(7, 5)
    held = tf.constant(packed)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.relative_index_matmul(x, held, **sizes)
        return y, tape.gradient(y, x)

    for shape in ((2, 7), (2, 3, 7), (2, 1, 3, 7), (0, 3, 7)):
        x = random_x(24, 7).reshape(-1)[: int(np.prod(shape))].reshape(shape)
        y, dx = call(x)
        assert y.shape == (*shape[:-1], 5)
        np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(dx, np.broadcast_to(kernel.sum(1), shape), rtol=1e-5, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected x of shape \(batch, size\).*got rank 1"):
        call(np.zeros(7, np.float32))


def test_xla_says_that_it_cannot():
    packed = tf.constant(random_packed(7, 5)[0])
    function = tf.function(lambda x: ops.relative_index_matmul(x, packed), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="No registered 'KerasPruneRelativeIndexMatmul' OpKernel"):
        function(np.zeros((2, 7), np.float32))
