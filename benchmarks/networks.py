"""The dense layers of the papers' networks, with the shares of weights that Han et al. 2015 kept (tables 3 to 5)."""

from __future__ import annotations

Layers = tuple[int, tuple[tuple[int, float], ...]]  # inputs, and (outputs, density) of each layer

DENSE: dict[str, Layers] = {
    "LeNet-300-100": (784, ((300, 0.08), (100, 0.09), (10, 0.26))),
    "AlexNet": (9216, ((4096, 0.09), (4096, 0.09), (1000, 0.25))),
    "VGG-16": (25088, ((4096, 0.04), (4096, 0.04), (1000, 0.23))),
}
NAMES = ("fc6", "fc7", "fc8")  # of AlexNet's and VGG-16's


def single(network: str, name: str) -> Layers:
    """One layer of AlexNet or VGG-16.

    Args:
        network: "AlexNet" or "VGG-16".
        name: one of `NAMES`.
    """
    inputs, layers = DENSE[network]
    index = NAMES.index(name)
    return (inputs if index == 0 else layers[index - 1][0]), (layers[index],)


def eighth(layers: Layers) -> Layers:
    """A stand-in of an eighth of the inputs and outputs, to try a script."""
    inputs, rest = layers
    return max(10, inputs // 8), tuple((max(10, units // 8), density) for units, density in rest)
