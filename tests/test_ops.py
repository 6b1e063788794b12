"""The TensorFlow op: values, shapes, gradients, errors, its cache, and SavedModels."""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_prune
from keras_prune import native, ops, sparse_format
from keras_prune.quantization import Codebook

PACKAGE_PARENT = pathlib.Path(keras_prune.__file__).absolute().parents[1]
CODEBOOK = np.array([0, 0.5, -1.25, 2, -0.03125, 0.7, -3, 1e-3], np.float32)
# (inputs, units): vector tails of every width, one row, one column, more than one block of columns
SHAPES = [(1, 1), (1, 40), (40, 1), (7, 5), (16, 16), (33, 17), (65, 31), (300, 70), (1000, 3)]


def random_packed(inputs, units, *, density=0.3, seed=0):
    """Packed bytes and the dense (inputs, units) kernel they stand for."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, len(CODEBOOK), (units, inputs)) * (rng.random((units, inputs)) < density)
    codes = codes.astype(np.uint8)
    return np.frombuffer(sparse_format.encode(codes, CODEBOOK), np.uint8), CODEBOOK[codes].T


def random_x(batch, size, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, size)).astype(np.float32)


def assert_equals_dense(result, x, kernel):
    """Compares with float64: the whole within 1e-5 of the norm, each value within 1e-5 of the sum of magnitudes."""
    expected = x.astype(np.float64) @ kernel.astype(np.float64)
    result = np.asarray(result)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    error = np.abs(result - expected)
    assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(expected)
    assert (error <= 1e-5 * (np.abs(x).astype(np.float64) @ np.abs(kernel))).all()


def cache_counts():
    """Layouts made since the library was loaded, and buffers that its cache holds now."""
    ops.load()
    made, entries = ctypes.c_int64(), ctypes.c_int64()
    ctypes.CDLL(str(native.op_path())).KerasPruneTfCacheCounts(ctypes.byref(made), ctypes.byref(entries))
    return made.value, entries.value


def run_fresh(code, folder, *arguments):
    """Runs Python code in a new process whose current folder is outside the checkout; returns its output."""
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    for same in (packed.tobytes(), packed, tf.constant(packed), tf.Variable(packed)):
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


def test_concurrent_calls_of_one_function():
    packed, kernel = random_packed(300, 70, seed=99)
    variable = tf.Variable(packed)
    function = tf.function(lambda x: ops.relative_index_matmul(x, variable), [tf.TensorSpec([None, 300], tf.float32)])
    xs = [random_x(1 + i % 5, 300, seed=i) for i in range(64)]
    made, _ = cache_counts()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(function, xs))
    for x, result in zip(xs, results, strict=True):
        assert_equals_dense(result, x, kernel)
    assert cache_counts()[0] - made == 1


def test_concurrent_first_calls_on_many_weights():
    layers = [random_packed(40, 30, seed=100 + i) for i in range(24)]
    constants = [tf.constant(packed) for packed, _ in layers]
    x = random_x(2, 40)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda packed: ops.relative_index_matmul(x, packed), constants * 4))
    for index, result in enumerate(results):
        assert_equals_dense(result, x, layers[index % 24][1])


def test_many_eager_layers_keep_their_layouts():
    layers = [random_packed(20, 10, seed=200 + i) for i in range(300)]
    constants = [tf.constant(packed) for packed, _ in layers]
    x = random_x(1, 20)
    made, _ = cache_counts()
    for _ in range(3):
        for constant, (_, kernel) in zip(constants, layers, strict=True):
            assert_equals_dense(ops.relative_index_matmul(x, constant), x, kernel)
    assert cache_counts()[0] - made == 300


def test_functions_gradients_and_copies_share_a_layout():
    packed, kernel = random_packed(31, 8, seed=300)
    variable, copy = tf.Variable(packed), tf.Variable(packed)
    x = tf.Variable(random_x(2, 31))
    made, _ = cache_counts()
    for held in (variable, copy):
        with tf.GradientTape() as tape:
            y = tf.function(lambda v, held=held: ops.relative_index_matmul(v, held))(x)
        assert_equals_dense(y, x.numpy(), kernel)
        assert_equals_dense(tape.gradient(y, x), np.ones((2, 8), np.float32), kernel.T)
    assert cache_counts()[0] - made == 1


def test_buffers_nobody_uses_are_released():
    x = random_x(1, 20)
    for seed in range(50):
        packed = tf.constant(random_packed(20, 10, seed=400 + seed)[0])
        ops.relative_index_matmul(x, packed)
        del packed
    entries = cache_counts()[1]
    for seed in range(50):
        ops.relative_index_matmul(x, tf.constant(random_packed(20, 10, seed=500 + seed)[0]))
    assert cache_counts()[1] <= entries + 1


@pytest.mark.parametrize("eager", [True, False])
def test_assigning_other_bytes_of_equal_length_takes_effect(eager):
    kernels = [random_packed(33, 17)[1] * factor for factor in (1, -2, 4)]
    packed = [ops.pack_weights(kernel) for kernel in kernels]
    assert len({len(p) for p in packed}) == 1
    variable = tf.Variable(packed[0])

    def call(v):
        return ops.relative_index_matmul(v, variable)

    call = call if eager else tf.function(call)
    x = random_x(2, 33)
    for index in (0, 1, 2, 1, 0):
        variable.assign(packed[index])
        assert_equals_dense(call(x), x, kernels[index])


def test_changing_bytes_in_place_takes_effect():
    packed, kernel = random_packed(33, 17)
    other = np.frombuffer(ops.pack_weights(-kernel), np.uint8)
    variable, array = tf.Variable(packed), packed.copy()
    x = random_x(2, 33)
    for held in (variable, array):
        assert_equals_dense(ops.relative_index_matmul(x, held), x, kernel)
    array[:] = other
    variable.assign_add(other - packed)  # uint8 wraps around; TensorFlow may write this into the variable's buffer
    for held in (variable, array):
        assert_equals_dense(ops.relative_index_matmul(x, held), x, -kernel)


def test_scatter_updates_take_effect():
    packed, kernel = random_packed(33, 17)
    other = ops.pack_weights(-kernel)
    variable = tf.Variable(packed)
    x = random_x(2, 33)
    assert_equals_dense(ops.relative_index_matmul(x, variable), x, kernel)
    for values, expected in ((other, -kernel), (packed, kernel), (other, -kernel)):
        variable.scatter_update(tf.IndexedSlices(values, np.arange(len(values))))  # writes in place, row by row
        assert_equals_dense(ops.relative_index_matmul(x, variable), x, expected)


def test_saved_model_in_a_fresh_process(tmp_path):
    packed, kernel = random_packed(33, 17)
    module = tf.Module()
    module.packed = tf.Variable(packed, trainable=False)
    signature = [tf.TensorSpec([None, 33], tf.float32)]
    module.serve = tf.function(lambda x: ops.relative_index_matmul(x, module.packed, units=17), signature)
    x = random_x(5, 33)
    expected = module.serve(x).numpy()
    tf.saved_model.save(module, tmp_path / "model")
    np.save(tmp_path / "x.npy", x)
    code = """
import numpy as np, tensorflow as tf, keras_prune.ops
keras_prune.ops.load()
model = tf.saved_model.load("model")
x = tf.Variable(np.load("x.npy"))
with tf.GradientTape() as tape:
    y = model.serve(x)
np.save("y.npy", y)
np.save("dx.npy", tape.gradient(y, x))
"""
    run_fresh(code, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    assert_equals_dense(np.load(tmp_path / "dx.npy"), np.ones((5, 17), np.float32), kernel.T)


def test_peak_memory_of_a_large_layer(tmp_path):
    """VGG-16 fc6 at 4 %: reading the bytes, the first call and the gradient together stay under 10 % of the dense."""
    rows, cols = 4096, 25088
    rng = np.random.default_rng(0)
    codes = np.zeros(rows * cols, np.uint8)
    kept = np.cumsum(rng.geometric(0.04, int(0.04 * rows * cols)))
    kept = kept[kept < codes.size]
    codes[kept] = rng.integers(1, len(CODEBOOK), len(kept))
    packed = sparse_format.encode(codes.reshape(rows, cols), CODEBOOK)
    (tmp_path / "packed.bin").write_bytes(packed)
    code = """
import pathlib, sys
import numpy as np, tensorflow as tf
from keras_prune import ops
def status(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])
def run(packed, size):
    x = tf.zeros((1, size))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.relative_index_matmul(x, packed)
    return tape.gradient(y, x)
run(tf.constant(ops.pack_weights(np.ones((3, 2), np.float32))), 3)  # TensorFlow's own first-use memory
pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = status("VmRSS")
run(tf.constant(np.fromfile("packed.bin", np.uint8)), int(sys.argv[1]))
print(status("VmHWM") - before)
"""
    extra = int(run_fresh(code, tmp_path, cols).split()[-1])
    assert extra < 0.1 * 4 * rows * cols
