"""The TensorFlow op's threads: as many as TensorFlow may use within an operator, and the same results."""

from __future__ import annotations

import os

import pytest
from op_calls import run_fresh  # type: ignore[import-not-found]

CPUS = len(os.sched_getaffinity(0))
RUN = """
import pathlib, sys
import numpy as np, tensorflow as tf
threads, out = int(sys.argv[1]), sys.argv[2]
if threads:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
from keras_prune import ops, sparse_format
rng = np.random.default_rng(0)
packed = lambda *shape: tf.constant(np.frombuffer(
    sparse_format.encode(rng.integers(0, 9, shape).astype(np.uint8), np.arange(9, dtype=np.float32)), np.uint8))
large, small = packed(700, 900), packed(7, 9)  # enough for threads, and not
xs = [tf.constant(rng.standard_normal((batch, 900)).astype(np.float32)) for batch in (1, 64, 5)]
ops.relative_index_matmul(np.ones((1, 9), np.float32), small)  # TensorFlow starts its own threads
count = lambda: len(list(pathlib.Path("/proc/self/task").iterdir()))
before = count()
results = [ops.relative_index_matmul(x, large).numpy() for x in xs + xs]
print(count() - before)
np.save(out, np.concatenate([result.ravel() for result in results]))
"""


@pytest.fixture(scope="module")
def one_thread(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    more = run_fresh(RUN, folder, 1, "results.npy")
    return int(more), (folder / "results.npy").read_bytes()


def test_one_thread_starts_none(one_thread):
    assert one_thread[0] == 0


@pytest.mark.parametrize(("threads", "variable", "wanted"), [(2, "1", 2), (0, "1", 1)])
def test_as_many_threads_as_tensorflow_may_use(one_thread, tmp_path, monkeypatch, *, threads, variable, wanted):
    """TensorFlow itself asks its configuration first, then the variable."""
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", variable)
    more = int(run_fresh(RUN, tmp_path, threads, "results.npy"))
    assert more == min(wanted, CPUS) - 1
    assert (tmp_path / "results.npy").read_bytes() == one_thread[1]
