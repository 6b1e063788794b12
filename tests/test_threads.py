"""num_threads of the interpreter: as many threads compute packed operators, and results are the same."""

from __future__ import annotations

import gc
import os
import pathlib

import numpy as np
import pytest
from packed_models import litert, one_layer, random_codes, run  # type: ignore[import-not-found]

from keras_prune import native, sparse_format

ROWS, COLS = 700, 900
CPUS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def model():
    """Large enough for threads at any batch."""
    codes, codebook = random_codes((ROWS, COLS), 0.9, 16)
    bias = np.linspace(-1, 1, ROWS).astype(np.float32)
    return one_layer(sparse_format.encode(codes, codebook), bias, (1, COLS))


def load(model, **options):
    delegates = [litert.load_delegate(str(native.delegate_path()))]
    return litert.Interpreter(model_content=model, experimental_delegates=delegates, **options)


def activations(batch):
    return np.random.default_rng(batch).standard_normal((batch, COLS)).astype(np.float32)


def num_threads_now():
    return len(list(pathlib.Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("num_threads", [2, 3])
def test_results_are_the_same_for_any_number_of_threads(model, num_threads):
    """To the last bit, also after a resize and back: the layout and the workspace follow the batch."""
    one, many = load(model, num_threads=1), load(model, num_threads=num_threads)
    for batch in (1, 64, 1, 5, 0, 67):
        x = activations(batch)
        np.testing.assert_array_equal(run(many, x).view(np.int32), run(one, x).view(np.int32))


@pytest.mark.parametrize(("num_threads", "more"), [(None, 0), (1, 0), (2, min(2, CPUS) - 1), (99, CPUS - 1)])
def test_threads_are_started_by_the_first_call_that_needs_them(model, num_threads, more):
    """As many as were asked for and as there are CPUs; without a word, as the runtime's own operators: one."""
    gc.collect()  # interpreters of other tests end their threads
    interpreter = load(model, num_threads=num_threads)
    before = num_threads_now()
    run(interpreter, activations(1))
    assert num_threads_now() == before + more
    run(interpreter, activations(64))
    assert num_threads_now() == before + more


def test_a_small_layer_starts_no_thread():
    codes, codebook = random_codes((30, 100), 0.1, 16)
    interpreter = load(one_layer(sparse_format.encode(codes, codebook), None, (1, 100)), num_threads=2)
    before = num_threads_now()
    run(interpreter, np.ones((1, 100), np.float32))
    assert num_threads_now() == before


def test_no_more_threads_than_the_process_may_use_cpus(model):
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        interpreter = load(model, num_threads=2)
        before = num_threads_now()
        run(interpreter, activations(1))
        assert num_threads_now() == before
    finally:
        os.sched_setaffinity(0, cpus)
