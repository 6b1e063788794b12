"""Sparsities from a sensitivity scan: golden literals."""

from __future__ import annotations

import types

import numpy as np
import pytest

from keras_prune.allocation import FromSensitivity

SCAN = {"a": [(0.0, 0.95), (0.5, 0.95), (0.9, 0.85)], "b": [(0.0, 0.95), (0.5, 0.75), (0.9, 0.15)]}
PAIR = {"a/kernel": np.ones((10, 10)), "b/kernel": np.ones((10, 10))}


def test_from_sensitivity_within_a_drop():
    result = FromSensitivity(SCAN, max_drop=0.05)(PAIR, 0.8, 0.8)
    assert result == pytest.approx({"a/kernel": 0.7, "b/kernel": 0.125})
    half = FromSensitivity(SCAN, max_drop=0.05)(PAIR, 0.4, 0.8)
    assert half == pytest.approx({"a/kernel": 0.35, "b/kernel": 0.0625})
    assert FromSensitivity(SCAN, max_drop=0.0)(PAIR, 0.8, 0.8) == pytest.approx({"a/kernel": 0.5, "b/kernel": 0.0})
    assert FromSensitivity(SCAN, max_drop=1.0)(PAIR, 0.8, 0.8) == pytest.approx({"a/kernel": 0.9, "b/kernel": 0.9})


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.7, 0.9])
def test_from_sensitivity_meets_a_target_with_one_drop_for_all(sparsity):
    result = FromSensitivity(SCAN)(PAIR, sparsity, 0.9)
    assert sum(result.values()) / 2 == pytest.approx(sparsity, abs=1e-9)
    if 0.25 < sparsity < 0.7:  # above, a is at the end of its scan
        drops = [np.interp(result[f"{k}/kernel"], *zip(*SCAN[k], strict=True)) for k in "ab"]
        assert drops[0] == pytest.approx(drops[1])


def test_from_sensitivity_where_accuracy_rises_with_the_sparsity():
    scan = {"a": [(0.0, 0.9), (0.5, 0.8), (0.8, 0.85), (0.9, 0.5)], "b": [(0.0, 0.9), (0.9, 0.0)]}
    assert FromSensitivity(scan, max_drop=0.05)(PAIR, 0.8, 0.8)["a/kernel"] == pytest.approx(0.25)  # the first fall
    for sparsity in (0.2, 0.4, 0.45, 0.5, 0.8):
        assert sum(FromSensitivity(scan)(PAIR, sparsity, 0.8).values()) / 2 == pytest.approx(sparsity)


def test_from_sensitivity_takes_rows_and_results():
    rows = [{"layer": name, "sparsity": s, "accuracy": y} for name, curve in SCAN.items() for s, y in curve if s]
    expected = FromSensitivity(SCAN, max_drop=0.05)(PAIR, 0.8, 0.8)
    assert FromSensitivity(rows, max_drop=0.05, baseline=0.95)(PAIR, 0.8, 0.8) == expected
    result = types.SimpleNamespace(baseline=0.95, rows=[types.SimpleNamespace(**row) for row in rows])
    assert FromSensitivity(result, 0.05)(PAIR, 0.8, 0.8) == expected
    one = FromSensitivity({"a": SCAN["a"]})(PAIR, 0.6, 0.6)
    assert one == pytest.approx({"a/kernel": 0.6, "b/kernel": 0.6})  # b was not scanned


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FromSensitivity([]), r"a row or more for each layer.*got no rows in \[\]"),
        (lambda: FromSensitivity({"a": [(0.5, 0.9)]}), r"got no dense accuracy of a; give baseline="),
        (lambda: FromSensitivity(SCAN, max_drop=-0.1), r"max_drop: expected an accuracy >= 0, or None, got -0\.1"),
        (lambda: FromSensitivity(SCAN)(PAIR, 0.95, 0.95), r"sparsity up to 0\.9000, what the scan reaches, got 0\.95"),
        (lambda: FromSensitivity({"c": SCAN["a"]})(PAIR, 0.5, 0.5), r"FromSensitivity: expected names.*got 'c'"),
    ],
)
def test_from_sensitivity_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
