"""What the oracle has measured: ranks, a table, a file, a figure."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from keras_prune.analysis import Oracle


def measured() -> Oracle:
    changes = {"a": np.array([0.5, -1.0]), "b": np.array([0.25, 0.0, -0.25])}
    return Oracle(1.0, changes, {"a": np.arange(2), "b": np.arange(2, 5)})


def test_ranks_and_importance():
    assert {name: ranks.tolist() for name, ranks in measured().ranks().items()} == {"a": [2, 1], "b": [3.5, 5, 3.5]}
    assert {name: values.tolist() for name, values in measured().importance().items()} == {
        "a": [0.5, 1.0],
        "b": [0.25, 0.0, 0.25],
    }


def test_table():
    assert str(measured()) == (
        "loss 1.0000; 5 units, one removed at a time:\n"
        "layer  units  mean |change|  smallest  largest  loss falls  mean rank  first  last\n"
        "a          2           0.75       0.5        1           1        1.5    1.0   2.0\n"
        "b          3          0.167         0     0.25           1        4.0    3.5   5.0"
    )


def test_save_and_load(tmp_path):
    path = tmp_path / "oracle.json"
    measured().save(path)
    found = Oracle.load(path)
    assert str(found) == str(measured())
    assert {name: units.tolist() for name, units in found.units.items()} == {"a": [0, 1], "b": [2, 3, 4]}
    for wrong in (
        "{",
        "[]",
        '{"loss": 1}',
        path.read_text().replace("0.5,", ""),
        path.read_text().replace("0.5", "{}"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"expected a file that Oracle\.save wrote"):
            Oracle.load(path)
    with pytest.raises(FileNotFoundError):
        Oracle.load(tmp_path / "nothing.json")


def test_figure():
    pytest.importorskip("matplotlib")
    axes = measured().figure().axes[0]
    assert axes.get_ylabel() == "rank among all units (1 = matters most)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines == {
        "a unit": [[0, 2], [1, 3.5], [1, 5]],
        "a unit without which the loss falls": [[0, 1], [1, 3.5]],
        "first": [[0, 1], [1, 3.5]],
        "mean": [[0, 1.5], [1, 4]],
        "last": [[0, 2], [1, 5]],
    }


def test_figure_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"keras-prune\[plot\]"):
        measured().figure()
