"""Packed weights, the dense result they must give, and fresh processes, for the tests of the TensorFlow op."""

from __future__ import annotations

import ctypes
import os
import pathlib
import subprocess
import sys

import numpy as np

import keras_prune
from keras_prune import native, ops, sparse_format

PACKAGE_PARENT = pathlib.Path(keras_prune.__file__).absolute().parents[1]
CODEBOOK = np.array([0, 0.5, -1.25, 2, -0.03125, 0.7, -3, 1e-3], np.float32)


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
