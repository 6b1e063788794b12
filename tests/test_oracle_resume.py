"""The oracle goes on from a file, measures a part of the units, and refuses the files of other runs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from oracle_models import X, Y, three_units  # type: ignore[import-not-found]

from keras_prune.analysis import oracle


def test_a_part_of_each_group(tmp_path):
    path, calls = tmp_path / "oracle.json", []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5, name="hidden"), keras.layers.Dense(1)])

    def measure(model):
        calls.append(1)
        return float(np.sum(np.abs(model.layers[0].kernel.numpy()[0])))

    found = oracle(model, measure, units_per_group=3, resume=path)
    assert found.units["hidden"].tolist() == [0, 2, 4]
    np.testing.assert_allclose(
        found.changes["hidden"], -np.abs(model.layers[0].kernel.numpy()[0, [0, 2, 4]]), rtol=1e-5
    )
    whole = oracle(model, measure, resume=path)
    assert len(calls) == 2 + 3 + 2 + 2  # the three that were measured are not measured again
    np.testing.assert_array_equal(whole.changes["hidden"][[0, 2, 4]], found.changes["hidden"])
    assert oracle(model, measure, units_per_group=9, resume=path).num_units == 5
    with pytest.raises(ValueError, match="units_per_group: expected a whole number >= 1"):
        oracle(model, measure, units_per_group=0)


def test_resume(tmp_path):
    path, calls = tmp_path / "oracle.json", []

    def measure(model):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(np.sum(np.abs(model.layers[0].kernel)))

    with pytest.raises(KeyboardInterrupt):
        oracle(three_units(), measure, resume=path)
    assert json.loads(path.read_text())["points"] == [[-1, 4.0], [0, -1.0]]
    found = oracle(three_units(), measure, resume=path)
    assert found.changes["hidden"].tolist() == [-1.0, -1.0, -2.0]
    assert len(calls) == 4 + 1 + 1 + 2  # as it is, the group's beginning, the two units that were not there
    again = oracle(three_units(), lambda model: 4.0, resume=path)
    assert again.changes["hidden"].tolist() == [-1.0, -1.0, -2.0]
    assert [file.name for file in tmp_path.iterdir()] == ["oracle.json"]


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "oracle.json"
    oracle(three_units(), (X, Y), resume=path)
    with pytest.raises(ValueError, match=r"other settings .data: .*delete the file"):
        oracle(three_units(), (X, Y + 1), resume=path)
    model = three_units()
    model.layers[1].kernel.assign(np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"other settings .weights"):
        oracle(model, (X, Y), resume=path)
    oracle(three_units(), lambda model: 1.0, resume=tmp_path / "other.json")
    with pytest.raises(ValueError, match="got a loss of 2, there 1, of the same weights"):
        oracle(three_units(), lambda model: 2.0, resume=tmp_path / "other.json")
    for wrong in ("{}", "[", '{"settings": 1, "points": []}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="expected a file that `oracle` wrote"):
            oracle(three_units(), (X, Y), resume=path)


@pytest.mark.parametrize("row", [[0], ["0", 1.0], [0, "much"], [0, float("nan")], [0, 1.0, 2.0], 3])
def test_resume_refuses_damaged_rows(tmp_path, row):
    path = tmp_path / "oracle.json"
    oracle(three_units(), lambda model: 1.0, resume=path)
    content = json.loads(path.read_text())
    content["points"][1] = row
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected a file that `oracle` wrote"):
        oracle(three_units(), lambda model: 1.0, resume=path)
