"""Schedules and masks equal TFMOT's. The golden values were made once by make_tfmot_golden.py."""

from __future__ import annotations

import json

import numpy as np
import pytest
from make_tfmot_golden import BLOCKS, FOLDER, M_BY_N, SHAPES, SPARSITIES, tie_free  # type: ignore[import-not-found]

from keras_prune import schedules
from keras_prune.criteria import Magnitude
from keras_prune.masks import make_mask
from keras_prune.patterns import Block, NByM

SCHEDULES = json.loads((FOLDER / "schedules.json").read_text())


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "masks.npz") as arrays:
        return dict(arrays)


def unpacked(bits, shape):
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("entry", SCHEDULES, ids=lambda e: f"{e['class_name']}-{e['config'].get('frequency', 100)}")
def test_schedules_at_every_step(entry):
    schedule = schedules.get({"class_name": entry["class_name"], "config": entry["config"]}).resolve(None)
    values = [schedule.value(step) for step in range(len(entry["sparsity"]))]
    assert values == pytest.approx(entry["sparsity"], abs=1e-6)  # TFMOT computes in float32


@pytest.mark.parametrize("entry", SCHEDULES, ids=lambda e: f"{e['class_name']}-{e['config'].get('frequency', 100)}")
def test_masks_change_at_the_same_steps(entry):
    config = {"frequency": 100, **entry["config"]}  # TFMOT's default; ours follows the length of the ramp
    schedule = schedules.get({"class_name": entry["class_name"], "config": config})
    ours = [schedule.is_update(step) for step in range(len(entry["should_prune"]))]
    expected = [bit == "1" for bit in entry["should_prune"]]
    end = config.get("end_step")
    if end is not None:
        expected[end] = True  # also where the frequency does not divide the ramp: TFMOT then misses the final target
    assert ours == expected


def test_the_golden_weights_are_tie_free(golden):
    for number, (name, shape) in enumerate(SHAPES.items()):
        weights = golden[f"weights/{name}"]
        assert np.array_equal(weights, tie_free(shape, number))
        assert len(np.unique(np.abs(weights))) == weights.size


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", SHAPES)
def test_unstructured_masks_are_bit_equal(name, sparsity, golden):
    weights = golden[f"weights/{name}"]
    mask = make_mask(Magnitude()(weights), sparsity)
    assert np.array_equal(mask, unpacked(golden[f"unstructured/{name}/{sparsity}"], weights.shape))


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_masks_are_bit_equal(name, sparsity, golden):
    _, size, pooling = BLOCKS[name]
    weights = golden[f"weights/{name}"]
    mask = make_mask(Magnitude()(weights), sparsity, Block(size, {"AVG": "mean", "MAX": "max"}[pooling]))
    assert np.array_equal(mask, unpacked(golden[f"block/{name}/{sparsity}"], weights.shape))


@pytest.mark.parametrize("name", M_BY_N)
def test_n_by_m_masks_are_bit_equal(name, golden):
    shape, (zeros, m) = M_BY_N[name]  # TFMOT names the zeros, we name what is kept
    mask = make_mask(Magnitude()(golden[f"weights/{name}"]), zeros / m, NByM(m - zeros, m))
    assert np.array_equal(mask, unpacked(golden[f"m_by_n/{name}"], shape))
