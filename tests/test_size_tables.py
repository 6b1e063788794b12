"""The tables of sizes: the arithmetic on small matrices, and the whole program on a small share of the layers."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "benchmarks" / "size_tables.py"


@pytest.fixture(scope="module")
def size_tables():
    spec = importlib.util.spec_from_file_location("size_tables", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["size_tables"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_layers_are_the_papers(size_tables):
    weights = {
        name: sum(layer.outputs * layer.inputs for layer in layers) for name, layers in size_tables.NETWORKS.items()
    }
    assert weights == {"AlexNet": 60_954_656, "VGG-16": 138_344_128}
    kept = {
        name: sum(layer.outputs * layer.inputs * layer.density for layer in layers) / weights[name]
        for name, layers in size_tables.NETWORKS.items()
    }
    # Han et al. 2015: 11 % of AlexNet and 7.5 % of VGG-16, of whole percents by layer.
    assert kept["AlexNet"] == pytest.approx(0.11, abs=0.005)
    assert kept["VGG-16"] == pytest.approx(0.075, abs=0.0025)


def test_bound_and_gaps_by_hand(size_tables):
    codes = np.zeros((2, 50), np.uint8)
    codes.reshape(-1)[[3, 36, 99]] = [1, 1, 2]  # gaps of 3, 32 and 62: two fillers
    bits = math.log2(math.comb(100, 3)) + 2 * math.log2(3 / 2) + math.log2(3)
    assert size_tables.bound_bytes(codes, np.zeros(3)) == pytest.approx(bits / 8 + 8)
    assert size_tables.gap_bytes(codes) == (3 * 37 / 8, 5 * 37 / 8)


def test_weights_are_independent_and_of_the_layers_density(size_tables):
    layer = size_tables.Layer("fc", 400, 1000, 0.09)
    codes, codebook = size_tables.draw(layer, np.random.default_rng(0))
    again, _ = size_tables.draw(layer, np.random.default_rng(0))
    np.testing.assert_array_equal(codes, again)
    assert codes.shape == (400, 1000)
    assert len(codebook) == 32
    kept = codes != 0
    deviation = math.sqrt(0.09 * 0.91 / kept.size)
    assert abs(kept.mean() - 0.09) < 4 * deviation
    both = (kept[:, 1:] & kept[:, :-1]).mean()  # neighbours
    assert abs(both - 0.09**2) < 4 * 0.09 / math.sqrt(kept.size)


def test_the_program(tmp_path):
    target = tmp_path / "sizes.json"
    command = [sys.executable, str(PROGRAM), "--scale", "0.02", "--seed", "3", "--json", str(target)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Not the papers' weights" in run.stdout
    result = json.loads(target.read_text())
    assert result["settings"] == {"seed": 3, "scale": 0.02, "weights": "i.i.d. Laplace at random positions"}
    for name, layers in result["bytes"].items():
        total = layers.pop("total")
        for row, num_bytes in total.items():
            assert num_bytes == pytest.approx(sum(sizes[row] for sizes in layers.values()))
        dense, ideal, gaps, fixed, coded, bound = total.values()
        assert dense > gaps > ideal > fixed > coded > bound, name
        # A fiftieth of the layers has the whole tables of frequencies, 200 to 300 bytes a layer; at full scale it is
        # 0.1 %, which the program prints.
        assert coded <= 1.005 * bound + 350 * len(layers), name
