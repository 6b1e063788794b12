"""Every criterion, pattern, schedule and allocation in a training: zeros at every batch end, the target at the end."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_prune as kp
from keras_prune.masks import mask_constraint, mask_sparsity, prunable

SCAN = {
    "conv": [(0.0, 0.9), (0.5, 0.7), (0.9, 0.2)],
    "dense": [(0.0, 0.9), (0.9, 0.8)],
    "out": [(0.0, 0.9), (0.9, 0.5)],
}


class ZerosAtEveryBatch(keras.callbacks.Callback):
    """What the masks prune is exactly zero."""

    def on_train_batch_end(self, batch, logs=None):
        for variable in prunable(self.model).values():
            if mask_constraint(variable) is not None:
                assert not variable.numpy()[variable.constraint.mask.numpy() == 0].any()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    stack = [layers.Conv2D(8, 3, activation="relu", name="conv"), layers.Flatten()]
    stack += [layers.Dense(16, activation="relu", name="dense"), layers.Dense(4, name="out")]
    made = keras.Sequential([keras.Input((6, 6, 2)), *stack])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.initial = made.get_weights()
    return made


@pytest.mark.parametrize(
    ("options", "sparsity"),
    [
        *(({"criterion": name}, 0.75) for name in ("standardized_magnitude", "lamp", "taylor", "taylor_fo", "obd")),
        *(({"criterion": name}, 0.75) for name in ("movement", "snip", "random")),
        *(({"criterion": name, "allocation": "global"}, 0.75) for name in ("lamp", "standardized_magnitude", "obd")),
        ({"criterion": "taylor", "pattern": kp.Channel("sum"), "allocation": "global"}, 0.75),
        *(({"pattern": pattern}, 0.75) for pattern in (kp.Block((2, 2)), kp.Channel(), kp.NByM(1, 4), kp.Balanced())),
        *(({"pattern": kp.Balanced(8)}, 0.75), ({"pattern": kp.NByM(2, 4), "schedule": None}, 0.5)),
        *(({"schedule": name}, 0.8) for name in ("exponential_sparsity", "cosine_sparsity", "one_shot")),
        ({"schedule": kp.PruningRounds(0.75, 3)}, 0.75),
        ({"schedule": kp.StepTable({0: 0.5, 5: 0.9, 9: 0.6})}, 0.6),
        *(({"allocation": name}, 0.75) for name in ("erk", "global", kp.FromSensitivity(SCAN))),
        ({"allocation": kp.Exempt("erk", last=False, compensate=True)}, 0.75),
        ({"allocation": kp.QualityParameter(0.7), "criterion": "standardized_magnitude"}, None),
    ],
    ids=str,
)
def test_training_ends_at_the_target(model, options, sparsity):
    kp.strip(model)
    model.set_weights(model.initial)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6, 6, 2)).astype(np.float32), rng.integers(0, 4, 32)
    options = {"schedule": kp.PolynomialDecay(final_sparsity=0.75), **options}
    callbacks = [kp.PruneCallback(**options), ZerosAtEveryBatch()]
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    if isinstance(options.get("pattern"), kp.Channel):  # of the units that may go, without those of the outputs
        found = callbacks[0].sparsity
        assert not any(mask_constraint(variable) for variable in model.get_layer("out").weights)
    else:
        found = mask_sparsity(prunable(model))
    if sparsity is None:
        assert 0.3 < found < 0.7  # 52 % of a normal distribution lie below 0.7 deviations, 40 % of a uniform one
    else:
        assert found == pytest.approx(sparsity, abs=0.01)
