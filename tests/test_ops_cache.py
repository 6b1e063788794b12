"""The TensorFlow op's cache of layouts, how the op is loaded, SavedModels, and the memory of a large layer."""

from __future__ import annotations

import concurrent.futures
import shutil

import numpy as np
import pytest
import tensorflow as tf
from op_calls import CODEBOOK, assert_equals_dense, cache_counts, random_packed, random_x, run_fresh  # type: ignore[import-not-found]

from keras_prune import native, ops, sparse_format


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
    assert cache_counts()[1] < entries + 10  # of 50; TensorFlow or Python may hold the last ones a little longer


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


def aligned_copy(values):
    """In memory that TensorFlow takes over as it is where it does not copy."""
    room = np.zeros(len(values) + 64, np.uint8)
    copy = room[-room.ctypes.data % 64 :][: len(values)]
    copy[:] = values
    return copy


def test_arrays_and_bytes_are_copied():
    packed, kernel = random_packed(33, 17)
    x = random_x(2, 33)
    for array in (aligned_copy(packed), bytearray(packed)):
        assert_equals_dense(ops.relative_index_matmul(x, array), x, kernel)
        array[40] ^= 1  # the checksum in the header stays as it was
        with pytest.raises(tf.errors.InvalidArgumentError, match="checksum"):
            ops.relative_index_matmul(x, array)


def test_other_bytes_in_shared_memory_take_effect():
    packed, kernel = random_packed(33, 17)
    array = aligned_copy(packed)
    held = tf.raw_ops.Identity(input=array)
    x = random_x(2, 33)
    assert_equals_dense(ops.relative_index_matmul(x, held), x, kernel)
    array[:] = ops.pack_weights(-kernel)
    assert np.array_equal(held.numpy(), array), "this TensorFlow copies: the test needs a tensor that shares memory"
    assert_equals_dense(ops.relative_index_matmul(x, held), x, -kernel)


@pytest.mark.parametrize("copy_first", [True, False])
def test_a_copy_of_the_library_at_another_path(tmp_path, copy_first):
    shutil.copy(native.op_path(), tmp_path / "another.so")
    load_copy = "tf.load_op_library('./another.so')"
    code = f"""
import numpy as np, tensorflow as tf
from keras_prune import ops
{load_copy if copy_first else "ops.load()"}
{"ops.load()" if copy_first else load_copy}
packed = tf.Variable(ops.pack_weights(np.array([[0, 2], [0.5, 0]], np.float32)))
x = tf.Variable([[1.0, 10.0]])
with tf.GradientTape() as tape:
    y = tf.function(lambda: ops.relative_index_matmul(x, packed, units=2))()
print(y.numpy().tolist(), tape.gradient(y, x).numpy().tolist())
"""
    assert run_fresh(code, tmp_path).splitlines()[-1] == "[[5.0, 2.0]] [[2.0, 0.5]]"


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
