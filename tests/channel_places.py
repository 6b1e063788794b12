"""Models with operators that move places of maps: flips, repetitions, other sizes."""

from __future__ import annotations

from typing import Any

import keras
from channel_models import IMAGE, Case, conv, image_model, register  # type: ignore[import-not-found]
from keras import layers, ops

CASES: dict[str, Case] = {}
case = register(CASES)


@case(units=8 + 6)
def flipped_and_repeated() -> Any:
    """Places move on the image's axes alone."""

    def body(x: Any) -> Any:
        x = ops.repeat(ops.flip(conv(8, activation="relu")(x), axis=2), 2, axis=1)
        x = conv(6, activation="relu")(ops.flip(x, axis=(1, -2)))
        return ops.tile(ops.tile(x, (1, 1, 2, 1)), (2, 1, 1))

    return image_model(body)


@case(units=8 + 6 + 7)
def resized() -> Any:
    """Each interpolation; a constant stays one."""

    def body(x: Any) -> Any:
        x = ops.image.resize(conv(8, activation="relu")(x), (9, 15), interpolation="bicubic")
        x = ops.image.resize(conv(6, activation="relu")(x), (20, 10), antialias=True)
        return ops.image.resize(conv(7, 1, activation="tanh")(x), (5, 6), interpolation="nearest")

    return image_model(body)


@case(folded=True)
def resized_constants() -> Any:
    """f(0) is not 0: what stands in the place of a channel goes through all of these into the next bias."""

    def body(x: Any) -> Any:
        x = ops.image.resize(conv(8, activation="sigmoid")(x), (9, 15))
        return conv(6, 1)(ops.repeat(ops.flip(x, axis=1), 2, axis=2))

    return image_model(body)


@case(units=6, whole=("flipped", "tiled", "repeated", "spread"))
def moved_channels() -> Any:
    """Along the channels' own axis each place of a channel would change: they stay."""
    image = keras.Input(IMAGE)
    x = ops.flip(conv(4, name="flipped")(image), axis=-1)
    x = ops.tile(conv(3, name="tiled")(x), (1, 1, 1, 2))
    x = ops.repeat(conv(3, name="repeated")(x), 2, axis=3)
    x = conv(6, name="free", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(ops.flip(conv(5, name="spread")(x)))
    return keras.Model(image, layers.Dense(5)(x))
