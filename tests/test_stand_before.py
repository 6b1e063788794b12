"""Several functions before one optimizer's step, which leave in any order."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from keras_prune.callbacks import PruneCallback
from keras_prune.gradients import stand_before
from keras_prune.schedules import ConstantSparsity


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_any_order(order):
    optimizer, seen = keras.optimizers.SGD(), []
    optimizer.apply = lambda grads, variables=None: seen.append("own")
    own = optimizer.apply

    def passing(number):
        def change(apply, grads, variables):
            seen.append(number)
            return apply(grads, variables)

        return change

    undo = [stand_before(optimizer, passing(number)) for number in range(3)]
    left = [2, 1, 0]
    for number in order:
        seen.clear()
        optimizer.apply([])
        assert seen == [*left, "own"]
        undo[number]()
        left.remove(number)
    assert optimizer.apply is own


def test_two_callbacks_that_gather_leave_the_optimizer_as_it_was():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])
    model.compile("adam", "mse", jit_compile=False)
    callbacks = [PruneCallback(ConstantSparsity(0.5), "taylor", layers=name) for name in "ab"]
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=callbacks)
    assert "apply" not in vars(model.optimizer)
