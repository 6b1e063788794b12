"""Trainings that are killed, for tests/test_restart.py: each is a process of its own, forked before TensorFlow runs.

Usage: restart_run.py FOLDER '{"case": [9, 4], ...}': after how many batches each process of a case kills itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import sys
from typing import ClassVar

import keras
import numpy as np
from keras import layers, ops

from keras_prune.callbacks import PruneCallback
from keras_prune.criteria import Criterion
from keras_prune.masks import mask_constraint, prunable
from keras_prune.schedules import PolynomialDecay

EPOCHS = 5
STEPS = 7


@dataclasses.dataclass(frozen=True)
class Taylor(Criterion):
    """Gathers since the beginning, so that a lost sum would show in the masks."""

    gathers: ClassVar[bool] = True
    resets: ClassVar[bool] = False

    def __call__(self, weights, statistic=None):
        return np.where(weights == 0, -1, self.need(statistic))

    def gather(self, weights, gradient):
        return ops.abs(weights * gradient)


class Watch(keras.callbacks.Callback):
    """Checks zeros, writes down masks and step after each batch, and ends the process without a word after some."""

    def __init__(self, prune, log, kill_after):
        super().__init__()
        self.prune, self.log, self.kill_after = prune, log, kill_after

    def on_train_batch_end(self, batch, logs=None):
        kernels = prunable(self.model).values()
        masks = [mask_constraint(v).mask.numpy().reshape(-1) for v in kernels]
        for variable, mask in zip(kernels, masks, strict=True):
            assert not variable.numpy().reshape(-1)[mask == 0].any(), variable.path
        line = {"step": self.prune.step, "sparsity": self.prune.sparsity, "masks": np.concatenate(masks).tolist()}
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()
        self.kill_after -= 1
        if not self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: pathlib.Path, name: str, kill_after: int) -> None:
    """Trains from the beginning, or from the backup that is there."""
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8 * STEPS, 6)), rng.normal(size=(8 * STEPS, 3))
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh", name="hidden"), layers.Dense(3, name="out")])
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    criterion = Taylor() if "taylor" in name else "magnitude"
    schedule = (
        None if "default" in name else PolynomialDecay(final_sparsity=0.75, begin_step=3, end_step=30, frequency=4)
    )
    prune = PruneCallback(schedule, criterion, mask_gradients="taylor" in name)
    backup = keras.callbacks.BackupAndRestore(folder / f"{name}_backup", save_freq="epoch", double_checkpoint=True)
    with (folder / f"{name}.jsonl").open("a") as log:
        order = [prune, backup] if "first" in name else [backup, prune]
        callbacks = [*order, Watch(prune, log, kill_after)]
        model.fit(x, y, batch_size=8, epochs=EPOCHS, verbose=0, shuffle=False, callbacks=callbacks)
    np.savez(folder / f"{name}.npz", *model.get_weights())


def main() -> None:
    """Runs each case once whole and once with kills, every part in a process of its own."""
    folder, cases = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, kills in cases.items():
        for kill_after in [*kills, 0]:
            pid = os.fork()
            if not pid:
                train(folder, name, kill_after)
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            expected = signal.SIGKILL if kill_after else 0
            if os.waitstatus_to_exitcode(status) != -expected:
                sys.exit(f"{name}: expected exit {-expected}, got status {status}")


if __name__ == "__main__":
    main()
