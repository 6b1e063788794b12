"""Published networks with their weights, and removal again and again."""

from __future__ import annotations

import keras
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]
from channel_joins import residual_operator  # type: ignore[import-not-found]

import keras_prune
from keras_prune.graph import dependencies

# File: its free units. Trunks of the ResNets: 16 channels are padded to 32, these to 64, so that all are of one trunk.
MODELS = {
    "resnet20_cifar10.keras": 64 + 3 * (16 + 32 + 64),
    "resnet56_cifar10.keras": 64 + 9 * (16 + 32 + 64),
    "mlperf_tiny_ad01.h5": 4 * 128 + 8 + 4 * 128,
    # Squeeze and two expand layers of each of eight modules; those of the last are the output.
    "squeezenet_v1_1_imagenet_notop.keras": 64 + 9 * 2 * (16 + 32 + 48 + 64) - 2 * 256,
    "mobilenet_v1_0.25_224_imagenet.keras": 8 + 16 + 2 * 32 + 2 * 64 + 6 * 128 + 2 * 256,
}
PIXELS = "squeezenet_v1_1_imagenet_notop.keras"  # reads values up to 150, the others about one
QUICK = ("resnet20_cifar10.keras", "mlperf_tiny_ad01.h5")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_equals_the_masked_model(name, data_dir):
    path = data_dir / "models" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    model = keras.models.load_model(path, compile=False)
    softmax = model.layers[-1]
    if getattr(softmax, "activation", None) is keras.activations.softmax:
        softmax.activation = keras.activations.linear
    deps = dependencies(model)
    assert sum(len(group.units) for group in deps.free) == MODELS[name], str(deps)
    x = checks.random_inputs(model)
    removal = checks.remove(model, 0.4, x=100 * x if name == PIXELS else x)
    checks.check_structure(removal)
    checks.check_equal(removal)
    checks.check_smaller(removal)


@pytest.mark.usefixtures("seeded")
def test_prunes_again_and_again():
    """Pruned, fine-tuned, shrunk: each time 30 % of the units that are left."""
    model = residual_operator()
    checks.randomize(model)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    x = checks.random_inputs(model, 16)
    y = model.predict(x, verbose=0)
    widths = []
    for _ in range(3):
        keras_prune.prune(model, 0.3, criterion="random", pattern=keras_prune.Channel())
        model.fit(x, y, epochs=1, verbose=0)
        shrunk = keras_prune.shrink(model)
        inputs = checks.random_inputs(model)
        removal = checks.Removal(model, shrunk, inputs, checks.outputs(model, inputs), 0)
        checks.check_structure(removal)
        checks.check_equal(removal)
        checks.check_smaller(removal)
        assert shrunk.optimizer.iterations.numpy() == model.optimizer.iterations.numpy()
        model = shrunk
        widths.append([len(group.units) for group in dependencies(model).free])
    assert widths == [[6, 4, 7], [4, 3, 5], [3, 2, 4]]  # 3.5 of five are four: halves go to the even number
