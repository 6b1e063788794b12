"""Small models, each with one way in which channels depend on one another; `CASES` has them all by name.

``units`` is how many units may go, counted by hand: the widths of the layers whose channels are free, what is joined
counted once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

SIDE = 12  # of images; even twice, so that halves can be joined again
IMAGE = (SIDE, SIDE, 3)


@dataclasses.dataclass(frozen=True)
class Case:
    """One model and what is known of it.

    Attributes:
        build: makes the model, with Keras's own initial weights.
        units: how many units are free, counted by hand; None: more than one answer is right.
        narrower: names of layers whose output must lose channels.
        whole: names of layers whose weights must keep their shapes' last axis.
        refused: names of layers that the report must name, with the reason.
        folded: whether biases may change, because they take what removed constants gave.
        unseen: parts of paths of weights whose order the output does not show, each with its reason.
    """

    build: Callable[[], Any]
    units: int | None = None
    narrower: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    folded: bool = False
    unseen: dict[str, str] = dataclasses.field(default_factory=dict)


def register(cases: dict[str, Case]) -> Callable[..., Callable]:
    """A decorator that adds a builder to cases under its own name."""

    def case(units: int | None = None, **known: Any) -> Callable:
        def add(build: Callable) -> Callable:
            cases[build.__name__] = Case(build, units, **known)
            return build

        return add

    return case


def conv(filters: int, size: int = 3, **options: Any) -> Any:
    """A 2-D convolution that keeps the image's size."""
    return layers.Conv2D(filters, size, **{"padding": "same", **options})


def classify(x: Any) -> Any:
    """Five logits of an image."""
    return layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D()(x))


def image_model(body: Callable[[Any], Any]) -> Any:
    """Five logits of what ``body`` makes of an image."""
    inputs = keras.Input(IMAGE, name="image")
    return keras.Model(inputs, classify(body(inputs)))
