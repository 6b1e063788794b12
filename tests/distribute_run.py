"""Trainings on several replicas, for tests/test_distribute.py: each in a process that has its devices to itself."""

from __future__ import annotations

import json
import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_prune.callbacks import PruneCallback
from keras_prune.criteria import Criterion
from keras_prune.masks import mask_constraint, prunable
from keras_prune.pruner import Pruner
from keras_prune.schedules import PolynomialDecay
from keras_prune.wrappers import wrap

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.normal(size=(64, 3)).astype("float32")


class Taylor(Criterion):
    gathers = True

    def __call__(self, weights, statistic=None):
        return np.where(weights == 0, -1, self.need(statistic))

    def gather(self, weights, gradient):
        return ops.abs(weights * gradient)


class Replicas(keras.callbacks.Callback):
    """Checks after each batch that all replicas have the same masks and exact zeros; keeps the masks."""

    def __init__(self, prune):
        super().__init__()
        self.prune, self.seen, self.replicas = prune, [], 0

    def on_train_batch_end(self, batch, logs=None):
        strategy, lines = self.model.distribute_strategy, []
        for path, variable in prunable(self.model).items():
            masks = [m.numpy() for m in strategy.experimental_local_results(mask_constraint(variable).mask.value)]
            weights = [w.numpy() for w in strategy.experimental_local_results(variable.value)]
            assert len(masks) == len(weights)
            self.replicas = len(masks)
            for mask, weight in zip(masks, weights, strict=True):
                assert (mask == masks[0]).all(), path
                assert (weight == weights[0]).all(), path
                assert (weight[mask == 0] == 0).all(), path
            lines.append(masks[0].reshape(-1))
        self.seen.append(np.concatenate(lines).tolist())


def mask_of(variable):
    constraint = mask_constraint(variable)
    assert constraint is not None
    return constraint.mask.numpy()


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


CASES: dict = {
    "magnitude": (momentum, {}),
    "taylor": (momentum, {"criterion": Taylor(), "mask_gradients": True}),
    "loss scale": (
        lambda: keras.optimizers.LossScaleOptimizer(momentum()),
        {"criterion": Taylor(), "mask_gradients": True},
    ),
    "averages": (lambda: keras.optimizers.SGD(0.1, use_ema=True), {}),
}


def train(strategy, optimizer=lambda: "adam", **options) -> dict:
    """Trains under a strategy; returns the masks after each batch and the end."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        stack = [layers.Dense(8, "tanh", name="hidden"), layers.Dense(3, name="out")]
        model = keras.Sequential([keras.Input((6,)), *stack])
        model.compile(optimizer(), "mse", jit_compile=False)
    prune = PruneCallback(PolynomialDecay(final_sparsity=0.75, frequency=2), **options)
    watch = Replicas(prune)
    model.fit(X, Y, batch_size=16, epochs=3, verbose=0, shuffle=False, callbacks=[prune, watch])
    zeros = [int((v.numpy() == 0).sum()) for v in prunable(model).values()]
    return {"replicas": watch.replicas, "masks": watch.seen, "zeros": zeros, "step": prune.step}


def mirrored() -> dict:
    """One process with two logical CPUs, against one device."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # One strategy for all: a second one in a process would use TensorFlow's collective keys again.
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
    result = {
        f"{name} {kind}": train(strategy, make, **options)
        for name, (make, options) in CASES.items()
        for kind, strategy in strategies.items()
    }
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))
    result["keras.distribution"] = train(strategies["one"], momentum)
    return result


def worker(index: int, ports: list[int], folder: str) -> dict:
    """One of two processes that train together, with a loop by hand: Keras 3 has no fit for them."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    result: dict = {name: HandMade(strategy, name).train(range(12)) for name in CASES}
    result["wrapped"] = HandMade(strategy, "magnitude", wrapped=True).train(range(12))
    # What a restart does: all that is left of the first half is a file of each worker.
    file = pathlib.Path(folder) / f"{index}.weights.h5"
    half = HandMade(strategy, "taylor")
    begin = half.train(range(6), finish=False)
    half.model.save_weights(file)
    again = HandMade(strategy, "taylor")
    again.model.load_weights(file)
    result["restarted"] = again.train(range(6, 12))
    result["restarted"]["masks"] = begin["masks"] + result["restarted"]["masks"]
    try:
        train(strategy)
    except ValueError as error:
        result["fit"] = str(error)
    return result


class HandMade:
    """A model, its optimizer and its pruner on one worker, and a loop over this worker's share of the data."""

    def __init__(self, strategy, name, *, wrapped=False):
        make, options = CASES[name]
        keras.utils.set_random_seed(3)
        self.strategy = strategy
        with strategy.scope():
            stack = [layers.Dense(8, "tanh", name="hidden"), layers.Dense(3, name="out")]
            self.model = keras.Sequential([keras.Input((6,)), *stack])
            self.model = wrap(self.model) if wrapped else self.model
            self.optimizer = make()
            self.model.optimizer = self.optimizer  # so that it is saved with the weights
            self.optimizer.build(self.model.trainable_variables)
            schedule = PolynomialDecay(final_sparsity=0.75, frequency=2)
            self.pruner = Pruner(self.model, schedule, num_steps=12, optimizer=self.optimizer, **options)
        self.step = tf.function(lambda x, y: strategy.run(self.step_of_replica, args=(x, y)))

    def step_of_replica(self, x, y):
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(ops.sum((y - self.model(x)) ** 2) / 48.0)
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)

    def train(self, steps, *, finish=True) -> dict:
        """This worker's own masks after each step, and its weights at the end."""
        masks = []
        kernels = list(prunable(self.model).values())
        for i in steps:
            first = 16 * (i % 4) + 8 * self.strategy.cluster_resolver.task_id
            self.step(X[first : first + 8], Y[first : first + 8])
            self.pruner.step()
            own = [mask_of(variable) for variable in kernels]
            masks.append(np.concatenate([mask.reshape(-1) for mask in own]).astype(int).tolist())
            for variable, mask in zip(kernels, own, strict=True):
                assert (variable.numpy()[mask == 0] == 0).all()
        if finish:
            self.pruner.finish()
        weights = [v.numpy().tolist() for v in kernels]
        zeros = [int((np.array(w) == 0).sum()) for w in weights]
        return {"masks": masks, "weights": weights, "zeros": zeros, "step": self.pruner.steps}


if __name__ == "__main__":
    arguments = [json.loads(argument) for argument in sys.argv[1:]]
    sys.stdout.write(json.dumps(worker(*arguments) if arguments else mirrored()))
