"""Whether a shrunk model is the masked one: same outputs, smaller, whole in all its parts.

The reference is the model itself with the removed units' weights set to zero, computed by Keras; nothing here looks at
how channels are removed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from live_weights import live_weights  # type: ignore[import-not-found]

import keras_prune
from keras_prune.gradients import optimizers_of, slots
from keras_prune.graph import dependencies
from keras_prune.layer_axes import layers_within
from keras_prune.shrinking import shrink

# Of the largest logit: sums of float32 in another order, through up to 800 layers.
TOLERANCE = 1e-4
# Two inputs must differ by this share of the largest logit, so that the outputs are about the inputs.
ALIVE = 1e-2
BATCH = 4
# Bytes by which a buffer of a file may grow so that the next begins at a round address.
ALIGNMENT = 64
# How many swaps are tried until one is seen; of ten units that a ReLU cuts, one is zero for all four inputs.
PAIRS = 8


def randomize(model: Any, seed: int = 0, *, kept: float = 1.0) -> None:
    """Random weights that neither fade nor grow with depth (He et al. 2015), where this share of the inputs is kept."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(_random(variable, rng, kept))


def measure_statistics(model: Any, seed: int = 0) -> None:
    """Gives each BatchNormalization the mean and variance of what it gets for random data, by a pass as in training."""
    batch_norms = [layer for layer in layers_within(model) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in batch_norms]
    keras.utils.set_random_seed(seed)  # dropout
    for layer in batch_norms:
        layer.momentum = 0.0
    if batch_norms:
        model(random_inputs(model, 16, seed + 1), training=True)
    for layer, momentum in zip(batch_norms, momenta, strict=True):
        layer.momentum = momentum


def _random(variable: Any, rng: np.random.Generator, kept: float) -> np.ndarray:
    """Values of one weight, by what it is."""
    shape = tuple(variable.shape)
    if variable.name in {"gamma", "scale"}:
        return rng.uniform(0.5, 1.5, size=shape)
    if variable.name == "alpha":  # slopes
        return rng.uniform(0.1, 0.5, size=shape)
    if variable.name == "embeddings":
        return rng.normal(size=shape)
    if len(shape) < 2 or "bias" in variable.name or variable.name == "beta":
        return rng.normal(scale=0.3, size=shape)
    gain = 1 if "recurrent" in variable.name else 2
    return rng.normal(scale=math.sqrt(gain / (kept * fan_in(variable))), size=shape)


def fan_in(variable: Any) -> int:
    """How many inputs one output of a kernel sums."""
    shape = tuple(variable.shape)
    if "depthwise" in variable.path:
        return math.prod(shape[:-2])
    if "transpose" in variable.path:
        return math.prod(shape) // shape[-2]
    if "attention" in variable.path and len(shape) == 3:
        return math.prod(shape[:2]) if "output" in variable.path else shape[0]
    return math.prod(shape[:-1])


def random_inputs(model: Any, count: int = BATCH, seed: int = 1) -> Any:
    """Inputs of a model's structure: noise around values that differ from example to example; whole numbers: words."""
    rng = np.random.default_rng(seed)
    pixels = any(isinstance(layer, keras.layers.Rescaling) for layer in layers_within(model))

    def values(tensor: Any) -> Any:
        shape = (count, *(8 if size is None else size for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return keras.ops.convert_to_tensor(rng.integers(0, 12, size=shape), tensor.dtype)
        levels = rng.normal(size=(count, *(1,) * (len(shape) - 2), shape[-1]))
        return keras.ops.convert_to_tensor((levels + rng.normal(size=shape)) * (100 if pixels else 1), tensor.dtype)

    return keras.tree.map_structure(values, _structure(model))


def _structure(model: Any) -> Any:
    """The model's inputs as it takes them."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def outputs(model: Any, x: Any) -> list[np.ndarray]:
    """All outputs, in the order of their structure."""
    return [value.numpy() for value in keras.tree.flatten(model(x, training=False))]


def difference(got: list[np.ndarray], want: list[np.ndarray]) -> float:
    """The largest difference of an output, in shares of its largest value."""
    assert [value.shape for value in got] == [value.shape for value in want]
    assert all(np.isfinite(value).all() for value in (*got, *want))
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want, strict=True))


@dataclasses.dataclass(frozen=True)
class Removal:
    """A model before and after.

    Attributes:
        masked: with zeros in the units that go.
        shrunk: without these units.
        x: inputs of both.
        want: what the masked model makes of them.
        removed: how many units went.
    """

    masked: Any
    shrunk: Any
    x: Any
    want: list[np.ndarray]
    removed: int


def random_units(deps: Any, fraction: float, seed: int = 0) -> np.ndarray:
    """Which units go: this fraction of each free group, rounded, by chance; one of each group stays."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(deps.num_units, dtype=bool)
    for group in deps.free:
        count = min(round(fraction * len(group.units)), len(group.units) - 1)
        removed[rng.choice(group.units, count, replace=False)] = True
    return removed


def mask(model: Any, fraction: float, seed: int = 0) -> int:
    """Sets random units to zero, and measures batch statistics without them; returns how many."""
    deps = dependencies(model)
    removed = ~deps.keep(random_units(deps, fraction, seed))
    deps.set_zero(removed)
    measure_statistics(model)  # those of the whole model would let signals fade from layer to layer
    deps.set_zero(removed)
    return int(removed.sum())


def remove(model: Any, fraction: float, *, seed: int = 0, folded: bool = False, x: Any = None) -> Removal:
    """Masks random units of a model with random weights, and shrinks it; checks the optimizer's slots on the way."""
    removed = mask(model, fraction, seed)
    remember_in_slots(model)
    num_slots = check_slots(model)
    smaller = shrink(model)
    assert check_slots(smaller, folded=folded) == num_slots
    x = random_inputs(model) if x is None else x
    return Removal(model, smaller, x, outputs(model, x), removed)


def remember_in_slots(model: Any) -> None:
    """The n-th slot of each weight gets the weight plus n, so that what is carried over can be told."""
    for optimizer in optimizers_of(model):
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
    for optimizer, owner in _owners(model):
        for n, slot in enumerate(slots(optimizer, model.trainable_variables).get(id(owner), ())):
            slot.assign(owner + n)


def check_slots(model: Any, *, folded: bool = False) -> int:
    """Asserts what `remember_in_slots` wrote, but for biases that were folded; returns how many slots there are."""
    count = 0
    for optimizer, owner in _owners(model):
        for n, slot in enumerate(slots(optimizer, model.trainable_variables).get(id(owner), ())):
            if not (folded and owner.name == "bias"):
                np.testing.assert_array_equal(slot.numpy(), owner.numpy() + np.float32(n), err_msg=slot.path)
            count += 1
    return count


def _owners(model: Any) -> list[tuple[Any, Any]]:
    return [(optimizer, variable) for optimizer in optimizers_of(model) for variable in model.trainable_variables]


def check_equal(removal: Removal) -> None:
    """Same outputs, of a model that tells inputs apart and that the removal has changed."""
    assert difference(outputs(removal.shrunk, removal.x), removal.want) <= TOLERANCE
    for value in removal.want:
        apart = np.abs(value - np.roll(value, 1, axis=0)).max()
        assert apart > ALIVE * np.abs(value).max(), "the masked model gives the same for all inputs"


def check_smaller(removal: Removal) -> None:
    """What is left of each kernel is what was at work in the masked model, in weights and in multiplications."""
    x = random_inputs(removal.masked, 8 * BATCH, 2)
    before, after = live_weights(removal.masked, x), live_weights(removal.shrunk, x)
    counted = [(live.name, live.weights, live.macs) for live in before]
    assert [(live.name, live.weights, live.macs) for live in after] == counted
    assert removal.shrunk.count_params() < removal.masked.count_params()


def check_structure(removal: Removal) -> None:
    """The same layers by name, the same inputs and outputs."""
    before, after = removal.masked, removal.shrunk
    assert type(after) is type(before)
    assert after.name == before.name
    assert [layer.name for layer in layers_within_order(after)] == [layer.name for layer in layers_within_order(before)]
    for a, b in zip(after.variables, before.variables, strict=True):
        assert a.name == b.name or b.name.startswith("variable")  # those without a name are numbered
        assert a.trainable == b.trainable

    def described(tensors: Any) -> Any:
        return keras.tree.map_structure(lambda tensor: f"{tuple(tensor.shape)} {tensor.dtype}", tensors)

    assert described(_structure(after)) == described(_structure(before))
    assert described(after.outputs) == described(before.outputs)
    for a, b in zip(after.inputs, before.inputs, strict=True):
        assert a.name == b.name or b.name.startswith("keras_tensor")  # those without a name are numbered


def check_files(removal: Removal) -> None:
    """Both convert; what is gone from the kernels is gone from the file; the smaller file computes the same."""
    before, after = (keras_prune.export_tflite(model, target="stock") for model in (removal.masked, removal.shrunk))
    gone = [
        4 * (math.prod(a.shape) - math.prod(b.shape))
        for a, b in zip(removal.masked.variables, removal.shrunk.variables, strict=True)
        if len(a.shape) > 1
    ]
    assert len(before) - len(after) >= 0.95 * sum(gone) - ALIGNMENT * len(gone), (len(before), len(after), sum(gone))
    tensors = keras.tree.flatten(removal.x)
    if len(tensors) == 1 and len(removal.want) == 1:
        got = keras_prune.predict_tflite(after, np.asarray(tensors[0]))
        assert difference([got], removal.want) <= 10 * TOLERANCE  # the converter folds scales into kernels


def layers_within_order(model: Any) -> list[Any]:
    """All layers, those of nested models behind these."""
    found = []
    for layer in model.layers:
        found.append(layer)
        if hasattr(layer, "layers"):
            found.extend(layers_within_order(layer))
    return found


def sliced_axes(removal: Removal) -> list[tuple[Any, int]]:
    """Each weight of the shrunk model with each axis that has become shorter."""
    pairs = zip(removal.masked.variables, removal.shrunk.variables, strict=True)
    return [
        (after, axis)
        for before, after in pairs
        for axis, (long, short) in enumerate(zip(before.shape, after.shape, strict=True))
        if short < long
    ]


def check_swaps(removal: Removal, unseen: Any = ()) -> int:
    """Asserts that two kept indices in the other order would be noticed, in each weight and axis; counts them."""
    run = tf.function(removal.shrunk)
    swapped = 0
    for variable, axis in sliced_axes(removal):
        if variable.shape[axis] < 2 or any(part in variable.path for part in unseen):
            continue
        noticed = max(_swaps(removal, run, variable=variable, axis=axis))
        assert noticed > TOLERANCE, f"{variable.path}: swapping two along axis {axis} changes {noticed:.1e}"
        swapped += 1
    return swapped


def _swaps(removal: Removal, run: Any, *, variable: Any, axis: int) -> Iterator[float]:
    """The change by a swap of the first two, of the next two ..., until one is seen."""
    values = variable.numpy()
    for first in range(0, min(values.shape[axis] - 1, 2 * PAIRS), 2):
        order = np.arange(values.shape[axis])
        order[[first, first + 1]] = first + 1, first
        variable.assign(values.take(order, axis))
        noticed = difference(outputs(run, removal.x), removal.want)
        variable.assign(values)
        yield noticed
        if noticed > TOLERANCE:
            return
