"""Each way to train: exact zeros at every batch end, the target at the end. One row of docs/training.md each."""

from __future__ import annotations

import pathlib
import re

import keras
import numpy as np
import pytest
from test_layer_kinds import KINDS  # type: ignore[import-not-found]
from watched_training import TARGET, Watch, fit, sequential  # type: ignore[import-not-found]
from ways_to_train import WAYS  # type: ignore[import-not-found]

import keras_prune
from keras_prune.masks import prunable
from keras_prune.selection import kept_count
from keras_prune_export import checks

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # Keras' own saving on NumPy 2
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),  # at the end of data of unknown length, always
]
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "training.md"


@pytest.mark.parametrize("name", WAYS)
def test_zeros_at_every_batch_end_and_the_target_at_the_end(name, tmp_path):
    watch = Watch()
    model = WAYS[name](watch, tmp_path)
    assert watch.batches >= 3
    for path, variable in prunable(model).items():
        assert np.count_nonzero(variable.numpy()) == kept_count(int(np.prod(variable.shape)), TARGET), path


def test_averages_of_an_optimizer_that_was_compiled_later_are_refused_and_stripped():
    model = keras_prune.prune(sequential(), TARGET)
    model.compile(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5), "mse")
    fit(model)
    with pytest.raises(ValueError, match=r"averaged weights.*strip\(model\) to set them to zero"):
        checks.check_masks(model, "export_tflite")  # the first thing that it does
    kernels = prunable(keras_prune.strip(model)).values()
    assert [np.count_nonzero(variable.numpy()) for variable in kernels] == [12, 6]


def names_in_table(first_column):
    """The names in the last column of the table that begins with this column."""
    table = DOCS.read_text().split(f"\n| {first_column} |", 1)[1].split("\n\n", 1)[0]
    return [name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.rsplit(" | ", 1)[1])]


def test_each_way_has_its_row_in_the_docs():
    named = names_in_table("way to train")
    assert sorted(name for name in named if not name.startswith("test_")) == sorted(WAYS)


def test_each_kind_of_layer_has_its_row_in_the_docs():
    assert names_in_table("layer") == list(KINDS)
