"""A small net of the form of R3DCNN (3-D convolutions, then a recurrent layer) that reads moving digits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]
from conftest import DATA  # type: ignore[import-not-found]
from keras import layers

import keras_prune

STEPS, SIDE, DIGITS = 6, 14, 7  # frames; pixels of a frame and of a digit in it
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))


def digits():
    """MNIST, or scikit-learn's digits where it is not there: (n, 7, 7) in [0, 1]."""
    if (DATA / "mnist.npz").is_file():
        with np.load(DATA / "mnist.npz") as data:
            return data["x_train"][:500].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)) / 255
    from sklearn.datasets import load_digits  # noqa: PLC0415

    return load_digits().images[:500, :7, :7] / 16


def clips(count, seed):
    """Digits that move in one of five directions, or stay: (count, 6, 14, 14, 1), and the direction's number."""
    rng = np.random.default_rng(seed)
    pool = digits()
    x, y = np.zeros((count, STEPS, SIDE, SIDE, 1), "float32"), rng.integers(0, len(DIRECTIONS), count)
    for clip, direction in zip(x, y, strict=True):
        step = np.array(DIRECTIONS[direction])
        # So far from the border that it never leaves the frame.
        start = np.array([rng.integers(*((0, 3) if d > 0 else (5, 8) if d < 0 else (0, 8))) for d in step])
        digit = pool[rng.integers(len(pool))]
        for t, frame in enumerate(clip):
            row, column = start + t * step
            frame[row : row + DIGITS, column : column + DIGITS, 0] = digit
    return x, y


def net():
    """Molchanov et al. 2016 (CVPR), much smaller: two 3-D convolutions, a GRU over what they see at each step.

    Strides instead of pooling, and an unrolled loop: TFLite has no 3-D pooling, and the converter no loops.
    """
    stack = [layers.Conv3D(8, 3, strides=(1, 2, 2), padding="same", activation="relu", name="first")]
    stack += [layers.Conv3D(12, 3, strides=(1, 3, 3), padding="same", use_bias=False, name="second")]
    stack += [layers.BatchNormalization(), layers.ReLU(), layers.TimeDistributed(layers.Flatten())]
    stack += [layers.GRU(16, unroll=True, name="steps"), layers.Dense(len(DIRECTIONS), name="logits")]
    return keras.Sequential([keras.Input((STEPS, SIDE, SIDE, 1)), *stack], name="r3dcnn")


def compile_for_clips(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])


@pytest.mark.slow
@pytest.mark.usefixtures("seeded")
def test_learns_prunes_shrinks_and_exports():
    x, y = clips(480, 0)
    tests, answers = clips(100, 1)
    model = net()
    compile_for_clips(model)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    before = model.evaluate(tests, answers, verbose=0, return_dict=True)["accuracy"]
    assert before > 0.8  # a fifth by chance

    schedule = keras_prune.PolynomialDecay(final_sparsity=0.5, begin_step=0, end_step=60, frequency=10)
    callback = keras_prune.PruneCallback(schedule, criterion="taylor", pattern=keras_prune.Channel())
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    shrunk = keras_prune.shrink(model)
    removal = checks.Removal(model, shrunk, *with_outputs(model, tests[:8]), removed=18)
    checks.check_structure(removal)
    checks.check_equal(removal)

    # Half of 8 + 12 + 16 units, shared as the scores say; what is left of each layer follows from its width.
    first, second, steps = (shrunk.get_layer(name).get_weights()[0].shape for name in ("first", "second", "steps"))
    a, b, c = first[-1], second[-1], steps[-1] // 3
    assert a + b + c == 18
    kernels = 27 * a + 27 * a * b + 3 * c * (9 * b + c) + 5 * c
    assert shrunk.count_params() == kernels + a + 4 * b + 6 * c + 5

    shrunk.fit(x, y, batch_size=16, epochs=1, verbose=0)  # with the optimizer's state
    assert shrunk.evaluate(tests, answers, verbose=0, return_dict=True)["accuracy"] > before - 0.1
    file = keras_prune.export_tflite(shrunk, target="stock")
    assert len(file) < len(keras_prune.export_tflite(model, target="stock"))
    want = checks.outputs(shrunk, tests[:8])
    assert checks.difference([keras_prune.predict_tflite(file, tests[:8])], want) <= checks.TOLERANCE


def with_outputs(model, x):
    return x, checks.outputs(model, x)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("fraction", [0.3, 0.6])
def test_equals_the_masked_model(fraction):
    model = net()
    checks.randomize(model)
    removal = checks.remove(model, fraction)
    checks.check_structure(removal)
    checks.check_equal(removal)
    checks.check_smaller(removal)
    assert removal.removed == round(8 * fraction) + round(12 * fraction) + round(16 * fraction)
    assert checks.check_swaps(removal) == 2 + 2 + 4 + 5 + 1  # convolutions, normalization, GRU, Dense: axes
