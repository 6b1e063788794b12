"""The sparsity table."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from keras_prune import Prune
from keras_prune.analysis import sparsity_table
from keras_prune.surgery import prune

GOLDEN = """\
layer            shape          kept  density  bytes
----------------------------------------------------
conv/kernel  1 × 2 × 5       2 of 10   20.00%     40
wide/kernel   15 × 100  300 of 1,500   20.00%  6,000
----------------------------------------------------
total                   302 of 1,510   20.00%  6,040
"""


def model():
    return prune(
        keras.Sequential(
            [
                keras.Input((3, 2)),
                layers.Conv1D(5, 1, name="conv"),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(100, name="wide"),
            ]
        ),
        0.8,
    )


def test_prints_the_table(capsys):
    table = sparsity_table(model())
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()] == [line.split() for line in GOLDEN.splitlines()]
    assert printed == f"{table}\n"
    assert len({len(line) for line in printed.splitlines()}) == 1  # aligned


def test_rows_for_programs(capsys):
    table = sparsity_table(model())
    first, second = table.rows
    assert (first.layer, first.shape, first.size, first.kept, first.num_bytes) == ("conv/kernel", (1, 2, 5), 10, 2, 40)
    assert (second.density, second.sparsity) == pytest.approx((0.2, 0.8))
    assert (table.total.layer, table.total.size, table.total.kept, table.total.num_bytes) == ("total", 1510, 302, 6040)


def test_half_precision_bytes(capsys):
    half = keras.Sequential([keras.Input((4,)), layers.Dense(4, dtype="float16")])
    assert sparsity_table(half).total.num_bytes == 32


def test_model_without_weights(capsys):
    table = sparsity_table(keras.Sequential([keras.Input((4,)), layers.Flatten()]))
    assert (table.rows, table.total.kept, table.total.density) == ((), 0, 0.0)


def test_wrong_input():
    with pytest.raises(TypeError, match=r"expected a Keras 3 model"):
        sparsity_table({})


def test_masks_and_biases_are_not_weights():
    model = keras.Sequential([keras.Input((3, 4)), Prune(keras.layers.GRU(5, name="gru"))])
    table = sparsity_table(model)  # a GRU's bias is of two dimensions
    assert {row.layer.split("/")[-1]: row.size for row in table.rows} == {"kernel": 60, "recurrent_kernel": 75}
