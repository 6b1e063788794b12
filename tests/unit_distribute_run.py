"""Units observed on two replicas, for tests/test_unit_distribute.py: in a process that has its devices to itself."""

from __future__ import annotations

import json
import sys

import keras
import tensorflow as tf
from unit_models import X, Y, cnn, group, part  # type: ignore[import-not-found]

from keras_prune.criteria import ActivationMean, MutualInformation, Taylor, TaylorFO
from keras_prune.unit_statistics import UnitStatistics

CRITERIA: dict = {
    "taylor": Taylor(),
    "gates": TaylorFO(),
    "activations": ActivationMean(),
    "labels": MutualInformation(bins=3, examples=24),
}
OPTIMIZERS: dict = {
    "sgd": lambda: keras.optimizers.SGD(0.0),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0)),
}


def train(strategy, optimizer) -> dict:
    """What all criteria together gather in one epoch of groups with activations, and of one that has gates alone."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        # Batch statistics would be those of each replica's part of the batch.
        model, groups = cnn(optimizer=optimizer(), jit_compile=False, normalization=keras.layers.LayerNormalization)
    heads = group([part(model.get_layer("second").kernel)], name="heads")
    several = {}
    for name, criterion in CRITERIA.items():
        several[name] = UnitStatistics(criterion, groups if criterion.observes == "activations" else [*groups, heads])
        several[name].connect(model)
    model.fit(X, Y, batch_size=8, verbose=0, shuffle=False)
    return {name: found(stats, [*groups, heads]) for name, stats in several.items()}


def found(stats, groups) -> dict:
    """All that was gathered; and the state can be saved, loaded and cleared on all replicas."""
    stats.disconnect()
    stats.check()
    values = {g.name: stats.gates(g) for g in groups} | {s.path: stats.statistic(s) for g in groups for s in g.sites}
    stats.load(stats.save())
    assert stats.ready
    stats.updated()
    assert not stats.ready
    return {name: value.tolist() for name, value in values.items() if value is not None}


def main() -> dict:
    """One process with two logical CPUs, against one device."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
    runs = [(name, kind) for name in OPTIMIZERS for kind in strategies]
    return {f"{name} {kind}": train(strategies[kind], OPTIMIZERS[name]) for name, kind in runs}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
