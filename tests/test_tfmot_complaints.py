"""What users of TFMOT complain of: each test has the number of its issue in tensorflow/model-optimization."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_prune


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_issue_1182_n_by_m_prunes_the_first_convolution(channels):
    """TFMOT pads the channels of an image to four and finds 2 of 4 pruned already; others are pruned to 2:4."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            layers.Conv2D(4, (4, 4), name="first"),
            layers.Conv2D(4, (4, 4), name="second"),
        ]
    )
    keras_prune.prune(model, 0.5, pattern=keras_prune.NByM(2, 4))
    for name in ("first", "second"):
        kernel = model.get_layer(name).kernel.numpy()
        groups = np.moveaxis(kernel, -1, 0).reshape(-1, 4)  # the inputs of each output, in packed order
        assert (np.count_nonzero(groups, axis=1) == 2).all(), name
