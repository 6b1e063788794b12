r"""Figure 5 of Han et al. 2015 on LeNet-300-100: what pruning costs, by penalty, with and without retraining.

    python benchmarks/han_figure5.py --out out/figure5 --json docs/figures/han_figure5.json \
        --figure docs/figures/han_figure5.png

One dense model for each penalty; each point prunes a copy of it, the smallest weights of each layer first, and retrains
it or not; the iterative curve goes on from one point to the next. The points are written as they are made, and a run
that was broken off goes on from them (the flags must be the same). The flags of examples/mnist_lenet.py hold here, too:
--data, --seed, --dense_epochs, --l1, --l2, ...
"""

from __future__ import annotations

import importlib
import json
import math
import pathlib
import sys
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging

import keras_prune
from keras_prune_export.files import write_atomic

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
example: Any = importlib.import_module("mnist_lenet")  # with its flags

FLAGS = flags.FLAGS
_FIGURE = flags.DEFINE_string("figure", None, "Where the picture goes; by default OUT/han_figure5.png.")
_DENSITIES = flags.DEFINE_list(
    *("densities", ["0.5", "0.3", "0.2", "0.15", "0.1", "0.07", "0.05", "0.035", "0.025"]),
    "Shares of weights kept, falling.",
)
_RETRAIN_EPOCHS = flags.DEFINE_integer("retrain_epochs", 8, "Epochs of retraining at each point.", lower_bound=1)

Arrays = tuple[np.ndarray, np.ndarray]
# Name of the curve, penalty, what happens to the model at each point, and how Han draws it.
CURVES = (
    ("L2, without retraining", "l2", "prune", ":v"),
    ("L1, without retraining", "l1", "prune", ":s"),
    ("L1, with retraining", "l1", "retrain", "-s"),
    ("L2, with retraining", "l2", "retrain", "-v"),
    ("L2, iterative pruning and retraining", "l2", "iterate", "-o"),
)
Points = dict[str, dict[str, float]]


class Figure:
    """The points made so far, and the file that holds them."""

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.dense_errors: dict[str, float] = {}
        self.points: Points = {name: {} for name, *_ in CURVES}
        if path.exists():
            self._load()

    def _load(self) -> None:
        content = json.loads(self.path.read_text())
        if content["settings"] != self.settings:
            raise app.UsageError(
                f"{self.path}: expected points made with {self.settings}, got {content['settings']}; give another "
                "--json, or delete the file to begin anew"
            )
        self.dense_errors = content["dense_error_percent"]
        self.points.update(content["error_percent"])

    def save(self) -> None:
        """Writes the file as a whole."""
        content = {"settings": self.settings, "dense_error_percent": self.dense_errors, "error_percent": self.points}
        write_atomic(self.path, (json.dumps(content, indent=1) + "\n").encode())


def dense_model(penalty: str, train: Arrays, out: pathlib.Path) -> keras.Model:
    """The trained model of a penalty, from `out` if it is there."""
    FLAGS.regularizer = penalty
    path = out / f"dense_{penalty}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(FLAGS.seed)
    model = example.lenet_300_100()
    logging.info("Dense training with %s", penalty)
    example.fit(model, train, phase="")
    model.save(path)
    return model


def copy_of(model: keras.Model) -> keras.Model:
    """A model with the same weights, no masks and no optimizer."""
    copy = example.lenet_300_100()
    copy.set_weights(model.get_weights())
    return copy


def cut(model: keras.Model, density: float) -> None:
    """Prunes to a density, shared between the layers in the proportion that Han reports: 8, 9 and 26 %."""
    sizes = {layer.name: math.prod(layer.kernel.shape) for layer in model.layers}
    shares = dict(zip(sizes, (0.08, 0.09, 0.26), strict=True))
    total = sum(sizes[name] * share for name, share in shares.items()) / sum(sizes.values())
    sparsities = {name: max(0.0, 1 - share * density / total) for name, share in shares.items()}
    keras_prune.prune(model, 1 - density, allocation=sparsities)


def retrain(model: keras.Model, train: Arrays) -> None:
    """Trains what is left, with a smaller learning rate that falls along a cosine."""
    rate, epochs = example.setting("learning_rate") * example.setting("rate_factor"), _RETRAIN_EPOCHS.value
    example.compile_model(model, "", rate)
    fall = keras.callbacks.LearningRateScheduler(lambda epoch: rate * (1 + math.cos(math.pi * epoch / epochs)) / 2)
    model.fit(*train, epochs=epochs, batch_size=FLAGS.batch_size, verbose=0, callbacks=[fall])


def error_of(model: keras.Model, judge: Arrays) -> float:
    """Share of wrong answers, in percent."""
    return round(example.error_percent(model.predict(judge[0], batch_size=1000, verbose=0), judge[1]), 4)


def draw_curve(
    figure: Figure, curve: tuple[str, str, str, str], *, data: tuple[Arrays, Arrays], out: pathlib.Path
) -> None:
    """Makes the points of one curve that are not there yet."""
    name, penalty, kind, _ = curve
    if all(density in figure.points[name] for density in _DENSITIES.value):
        return
    model = dense_model(penalty, data[0], out)
    if penalty not in figure.dense_errors:
        figure.dense_errors[penalty] = error_of(model, data[1])
        figure.save()
    current = copy_of(model)
    for density in _DENSITIES.value:
        checkpoint = out / f"{kind}_{penalty}_{density}.weights.h5"
        if density in figure.points[name] and (kind != "iterate" or checkpoint.exists()):
            if kind == "iterate":
                current.load_weights(checkpoint)
            continue
        if kind != "iterate":
            current = copy_of(model)
        cut(current, float(density))
        if kind != "prune":
            keras.utils.set_random_seed(FLAGS.seed)
            retrain(current, data[0])
        if kind == "iterate":
            current.save_weights(checkpoint)
        figure.points[name][density] = error_of(current, data[1])
        figure.save()
        logging.info("%s, density %s: %.2f %% error", name, density, figure.points[name][density])


def picture(figure: Figure, path: pathlib.Path) -> None:
    """Accuracy lost against density, as in the paper."""
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    canvas = Canvas(figsize=(7, 4.2), layout="constrained")
    axes = canvas.add_subplot()
    for name, penalty, kind, style in CURVES:
        points = {100 * float(density): error for density, error in figure.points[name].items()}
        xs = sorted(points, reverse=True)
        losses = [points[x] - figure.dense_errors[penalty] for x in xs]
        color = {"prune": "0.55", "retrain": "tab:blue", "iterate": "tab:red"}[kind]
        color = "tab:green" if (penalty, kind) == ("l1", "retrain") else color
        axes.plot(xs, losses, style, color=color, markersize=5, label=name)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(xscale="log", ylim=(5, -0.5))
    ticks = [100 * float(density) for density in _DENSITIES.value]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(xlabel="weights kept (%)", ylabel="test error above the dense model's\n(points of percent)")
    axes.set_title("LeNet-300-100 on MNIST: what pruning costs (after Han et al. 2015, figure 5)", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower left")
    canvas.savefig(path, dpi=110)


def main(argv: list[str]) -> None:
    """Makes the points, and draws them."""
    del argv
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    names = ("dense_epochs", "learning_rate", "rate_factor", "l1", "l2")
    settings = {name: example.setting(name) for name in names}
    settings |= {"seed": FLAGS.seed, "retrain_epochs": _RETRAIN_EPOCHS.value, "validate": FLAGS.validate}
    settings["densities"] = _DENSITIES.value  # the iterative curve depends on them
    figure = Figure(pathlib.Path(FLAGS.json or out / "han_figure5.json"), settings)
    data = example.load_data()
    for curve in CURVES:
        draw_curve(figure, curve, data=data, out=out)
    print(json.dumps({"dense": figure.dense_errors, **figure.points}, indent=1))
    picture(figure, pathlib.Path(_FIGURE.value or out / "han_figure5.png"))


if __name__ == "__main__":
    FLAGS.set_default("method", "one_shot")  # its settings: retraining with a tenth of the learning rate
    app.run(main)
