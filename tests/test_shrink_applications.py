"""Every family of keras.applications: shrunk, it computes what it does with the same units masked to zero."""

from __future__ import annotations

import functools

import keras
import pytest
import shrink_checks as checks  # type: ignore[import-not-found]

from keras_prune.graph import dependencies

# Family: the smallest input that it takes (at 32 pixels the last maps have one), what makes it small, and its free
# units, counted from the papers' tables of widths (None: the family's text does not say which widths are joined).
FAMILIES: dict[str, tuple[int, dict, int | None]] = {
    "ConvNeXtTiny": (32, {}, 4 * (3 * 96 + 3 * 192 + 9 * 384 + 3 * 768)),  # the trunk is normalized over channels
    "DenseNet121": (32, {}, 64 + (6 + 12 + 24 + 16) * (128 + 32) + 128 + 256 + 512),
    "EfficientNetB0": (32, {}, None),
    "EfficientNetV2B0": (32, {}, None),
    "InceptionResNetV2": (75, {}, None),
    "InceptionV3": (75, {}, None),
    "MobileNet": (32, {"alpha": 0.25}, 8 + 16 + 2 * 32 + 2 * 64 + 6 * 128 + 2 * 256),
    "MobileNetV2": (64, {"alpha": 0.35}, None),  # at 32, batch statistics of few places enlarge rounding errors
    "MobileNetV3Large": (32, {}, None),
    "MobileNetV3Small": (32, {}, None),
    "NASNetMobile": (32, {}, None),
    "ResNet50": (32, {}, 64 + 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512) + 256 + 512 + 1024 + 2048),
    "ResNet50V2": (32, {}, 64 + 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512) + 256 + 512 + 1024 + 2048),
    "VGG16": (32, {}, 4224 + 2 * 4096),  # the 4 224 filters of Molchanov et al. 2016, and two Dense layers
    "VGG19": (32, {}, 4224 + 256 + 2 * 512 + 2 * 4096),
    "Xception": (71, {}, None),
}
UNNORMALIZED = ("VGG16", "VGG19")  # their signals fade with the masked channels, unless the weights are larger
QUICK = ("MobileNet",)  # the fewest layers and weights
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
FRACTIONS = [pytest.param(0.3, marks=pytest.mark.slow), 0.6]


def built(name):
    side, options, _ = FAMILIES[name]
    return getattr(keras.applications, name)(
        input_shape=(side, side, 3), weights=None, classes=10, classifier_activation=None, **options
    )


@functools.lru_cache(1)
def shrunk(name, fraction):
    """One family, masked and shrunk, once for the tests that follow."""
    keras.backend.clear_session()
    model = built(name)
    checks.randomize(model, kept=1 - fraction if name in UNNORMALIZED else 1)
    return checks.remove(model, fraction)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_masked_model(name, fraction):
    removal = shrunk(name, fraction)
    checks.check_structure(removal)
    checks.check_equal(removal)
    checks.check_smaller(removal)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_indices_would_be_noticed(name, fraction):
    removal = shrunk(name, fraction)
    assert checks.check_swaps(removal) > len(removal.shrunk.layers) / 3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_files_are_smaller(name):
    checks.check_files(shrunk(name, 0.6))


@pytest.mark.parametrize("name", NAMES)
def test_units_are_those_of_the_paper(name):
    deps = dependencies(built(name))
    free = sum(len(group.units) for group in deps.free)
    units = FAMILIES[name][2]
    assert free == (units or free), str(deps)
    assert free > 0
    assert not deps.refused
