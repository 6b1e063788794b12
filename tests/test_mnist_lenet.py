"""The example on MNIST: quick on a subset of its steps, and the whole promise over three seeds (slow)."""

from __future__ import annotations

import json
import pathlib
import re
import statistics
import subprocess
import sys

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "mnist_lenet.py"
FIELDS = {
    *("seed", "dense_error", "error", "weights_total", "weights_kept", "float_bytes", "packed_bytes"),
    *("prediction_mismatches", "latency_ms_float", "latency_ms_packed"),
    *("weight_bytes", "entropy_bound", "codebook_bytes", "bias_bytes", "flatbuffer_bytes"),
}


def run_example(data_dir: pathlib.Path, out: pathlib.Path, *flags: str) -> dict:
    target = out / "results" / "result.json"  # the folder is made
    command = [sys.executable, EXAMPLE, f"--data={data_dir / 'mnist.npz'}", f"--out={out}", f"--json={target}", *flags]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(target.read_text())


def assert_near_the_entropy(result: dict) -> None:
    """Within 8 % of the entropy of positions and codes, beside codebooks, biases and 3 KB for the flatbuffer."""
    parts = ("weight_bytes", "codebook_bytes", "bias_bytes", "flatbuffer_bytes")
    assert sum(result[part] for part in parts) == result["packed_bytes"]
    fixed = result["codebook_bytes"] + result["bias_bytes"] + 3 * 1024
    assert result["packed_bytes"] <= 1.08 * result["entropy_bound"] + fixed


def test_example_writes_its_artifacts(data_dir, tmp_path):
    result = run_example(data_dir, tmp_path, "--dense_epochs=1", "--prune_epochs=2")
    assert result.keys() >= FIELDS
    for name in ("model.keras", "model_float.tflite", "model_packed.tflite"):
        assert (tmp_path / name).is_file()
    assert result["packed_bytes"] == (tmp_path / "model_packed.tflite").stat().st_size
    assert result["float_bytes"] == (tmp_path / "model_float.tflite").stat().st_size
    assert result["weights_total"] == 266_200  # 784 * 300 + 300 * 100 + 100 * 10
    assert result["weights_kept"] == pytest.approx(10_819 + 2_850 + 280, abs=5)  # a rare centroid is exactly zero
    assert result["prediction_mismatches"] == 0
    assert_near_the_entropy(result)
    assert result["error"] < 5  # one epoch reaches about 3 %; chance is 90 %


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--json={folder}", "IsADirectoryError: .*expected the name of a file, got a folder"),
        pytest.param(
            "--density=0.1,0.2",
            r"ValueError: --density: expected 3 shares above 0 and up to 1.*got \[0\.1, 0\.2\]",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--density=0.1,0.2,2",
            "ValueError: --density: expected 3 shares above 0 and up to 1",
            marks=pytest.mark.slow,
        ),
        pytest.param("--bits=40", r"ValueError: Codebook.*bits.*40", marks=pytest.mark.slow),
    ],
)
def test_wrong_flags_are_said_before_training(tmp_path, flag, message):
    flags = (f"--out={tmp_path}", "--data=/there/is/no/such/file", flag.format(folder=tmp_path))
    result = subprocess.run([sys.executable, str(EXAMPLE), *flags], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        ("lenet_300_100", "iterative", "l2"),
        ("lenet_300_100", "one_shot", "l1"),
        ("lenet5", "gradual", "l2"),
    ],
    ids="-".join,
)
def test_every_method_reaches_han(data_dir, tmp_path, choice):
    """12x fewer weights, whatever the method; two images in a hundred are enough to see that it trains."""
    net, method, regularizer = choice
    with np.load(data_dir / "mnist.npz") as data:
        few = {name: data[name][:1_200] for name in data.files}
    np.savez(tmp_path / "mnist.npz", **few)
    flags = (f"--net={net}", f"--method={method}", f"--regularizer={regularizer}", "--rounds=2", "--prune_epochs=2")
    result = run_example(tmp_path, tmp_path, *flags, "--dense_epochs=1", "--batch_size=32")
    assert result.keys() >= FIELDS
    assert (result["net"], result["method"], result["regularizer"]) == choice
    # 784 * 300 + 300 * 100 + 100 * 10; 25 * 20 + 25 * 20 * 50 + 800 * 500 + 500 * 10
    assert result["weights_total"] == {"lenet_300_100": 266_200, "lenet5": 430_500}[net]
    assert result["weights_total"] / result["weights_kept"] >= 12
    assert result["prediction_mismatches"] == 0
    assert_near_the_entropy(result)
    assert result["error"] < 60  # chance is 90 %


@pytest.mark.slow
def test_lenet5_keeps_the_promise(data_dir, tmp_path):
    """Han's 12x for LeNet-5 at no loss."""
    results = [run_example(data_dir, tmp_path / str(seed), "--net=lenet5", f"--seed={seed}") for seed in range(3)]
    for result in results:
        assert result["weights_total"] / result["weights_kept"] >= 12
        assert result["prediction_mismatches"] == 0
        assert_near_the_entropy(result)
    dense = statistics.mean(result["dense_error"] for result in results)
    assert dense <= 1.0
    assert statistics.mean(result["error"] for result in results) <= dense + 0.05


@pytest.mark.slow
def test_three_seeds_keep_the_promise(data_dir, tmp_path):
    """12x fewer weights as in Han et al. 2015, a file 40x smaller as in Deep Compression, at no loss."""
    results = [run_example(data_dir, tmp_path / str(seed), f"--seed={seed}") for seed in range(3)]
    for result in results:
        assert result["weights_total"] / result["weights_kept"] >= 12
        assert result["float_bytes"] / result["packed_bytes"] >= 40
        assert result["prediction_mismatches"] == 0
        assert_near_the_entropy(result)
    dense = statistics.mean(result["dense_error"] for result in results)
    assert dense <= 1.7
    assert statistics.mean(result["error"] for result in results) <= dense + 0.05
