r"""Transfer learning with pruning, as in Molchanov et al. 2017: SqueezeNet from ImageNet to photos of flowers.

    python examples/flowers_transfer.py --data DATA --out out/flowers                           # one seed, 14 minutes
    python examples/flowers_transfer.py --data DATA --out out/flowers_full --setting full       # three seeds, hours

DATA has the folder flowers/ (train and val, CLASS/*.jpg) and models/squeezenet_v1_1_imagenet_notop.keras. SqueezeNet
is fine-tuned on the flowers (the dense model). From there, for each criterion, channels are removed a few at a time
while training goes on, until each of several shares of the FLOPs is reached; there the model is fine-tuned, judged
and stored, and pruning goes on from it. Networks of Taylor's shapes are trained from scratch, with random weights.
The result is a plot of accuracy against FLOPs, and the measured speed of the files that Taylor's models give.

Each finished run is stored in --out: the same command goes on after the last of them. With --validate the photos of val
are left alone: training photos are held out and judged instead.

Molchanov, Tyree, Karras, Aila and Kautz 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference"
(https://arxiv.org/abs/1611.06440).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

# TensorFlow takes oneDNN by itself on Intel's CPUs only; with it, an AMD one trains in half of the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import flowers_data
import flowers_figure
import keras
import numpy as np
from absl import app, flags, logging
from flowers_runs import Runs

import keras_prune
from keras_prune_export.files import write_atomic

_DATA = flags.DEFINE_string("data", None, "Folder with flowers/ and models/.", required=True)
_OUT = flags.DEFINE_string("out", "out/flowers", "Where results and checkpoints go.")
_SETTING = flags.DEFINE_enum("setting", "small", ["tiny", "small", "full"], "How much is done.")
_VALIDATE = flags.DEFINE_boolean("validate", False, "Judge on training photos that are held out, not on val.")
_FIGURE = flags.DEFINE_string("figure", None, "Where the plot goes; by default OUT/flowers_transfer.png.")
_JSON = flags.DEFINE_string("json", None, "Where all results go; by default OUT/flowers_transfer.json.")

WEIGHTS = "models/squeezenet_v1_1_imagenet_notop.keras"
# The lines of the plot, beside "scratch".
CRITERIA = {
    "taylor": keras_prune.Taylor,
    "minimum weight": keras_prune.WeightNorm,
    "activation mean": keras_prune.ActivationMean,
    "random": keras_prune.Random,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is done.

    Attributes:
        seeds: of shuffling, crops, dropout and new layers.
        criteria: of `CRITERIA`, Taylor's first: others take its shapes.
        levels: shares of the dense model's FLOPs, falling.
        size: of the network's input, pixels.
        dense_epochs: of fine-tuning before pruning.
        tune_epochs: of fine-tuning, at each level.
        tune_rates: the largest learning rate of each: a large one finds better weights, but needs time.
        labels: share of the labels in what pruned models are trained towards; the dense model's answers have the rest.
        rounds: crops of each photo.
        scratch_epochs: of training a pruned shape from scratch.
        num_units: removed at once.
        frequency: training steps from one removal to the next.
        strength: of the FLOPs in the scores (`keras_prune.Regularized`), of all criteria alike.
        limit: photos of each class and part; None: all.
    """

    seeds: tuple[int, ...] = (0,)
    criteria: tuple[str, ...] = tuple(CRITERIA)
    levels: tuple[float, ...] = (0.5, 0.26)
    size: int = 96
    dense_epochs: int = 5
    tune_epochs: tuple[int, ...] = (1, 8)
    tune_rates: tuple[float, ...] = (5e-4, 1e-3)
    labels: float = 0.3
    rounds: int = 5
    scratch_epochs: int = 4
    num_units: int = 64
    frequency: int = 5
    strength: float = 10.0
    limit: int | None = 450


_TINY = Settings(size=64, dense_epochs=1, scratch_epochs=1, num_units=256, frequency=1, limit=13)
SETTINGS = {
    "tiny": dataclasses.replace(_TINY, criteria=("taylor",), levels=(0.5,), tune_epochs=(1,), tune_rates=(5e-4,)),
    "small": Settings(),
    "full": Settings(
        seeds=(0, 1, 2),
        levels=(0.6, 0.26),
        dense_epochs=6,
        tune_epochs=(2, 24),
        tune_rates=(5e-4, 2e-3),
        scratch_epochs=16,
        num_units=16,
        frequency=8,
        rounds=12,
        limit=None,
    ),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What every run needs.

    Attributes:
        settings: how much is done.
        runs: what is finished.
        train: photos and labels.
        judge: the network's inputs and labels.
        seed: of this round of runs.
    """

    settings: Settings
    runs: Runs
    train: flowers_data.Photos
    judge: tuple[np.ndarray, np.ndarray]
    seed: int

    @functools.cached_property
    def crops(self) -> flowers_data.Crops:
        """What the dense model is trained on."""
        keras.utils.set_random_seed(self.seed)
        return flowers_data.crops(self.train, self.settings.size, self.settings.rounds)

    @functools.cached_property
    def taught(self) -> flowers_data.Crops:
        """What pruned models are trained on."""
        return flowers_data.taught(self.crops, self.model("dense"), self.settings.labels)

    def forget(self) -> None:
        """Frees the crops: a gigabyte for each seed."""
        for name in ("crops", "taught"):
            self.__dict__.pop(name, None)

    def name(self, what: str) -> str:
        """Of a run of this seed."""
        return f"{what}_seed{self.seed}"

    def model(self, what: str) -> keras.Model:
        """The checkpoint of a finished run of this seed."""
        return self.runs.model(self.name(what))


def transfer_model(weights: pathlib.Path, size: int, num_classes: int) -> keras.Model:
    """SqueezeNet's features with their weights, for another size of input, and a new classifier that gives logits."""
    trained = keras.saving.load_model(weights, compile=False)
    features = keras.models.clone_model(trained, input_tensors=keras.Input((size, size, 3)))
    features.set_weights(trained.get_weights())
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features.output)
    kept = keras.layers.Dropout(0.2, name="dropout")(pooled)
    # A random classifier's first gradients would destroy trained features (measured: 3.5 points of accuracy less).
    logits = keras.layers.Dense(num_classes, kernel_initializer="zeros", name="classes")(kept)
    return keras.Model(features.input, logits, name="flowers")


def compile_model(model: keras.Model, rate: Any) -> None:
    """Compiles with AdamW; ``rate`` is a number or a schedule."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), loss, metrics=["accuracy"])
    # One that has no variables yet would make them in the first step, and TensorFlow trace that step twice.
    model.optimizer.build(model.trainable_variables)


def fine_tune(model: keras.Model, data: flowers_data.Crops, *, rate: float, epochs: int) -> None:
    """Trains with a learning rate that rises for some steps and then falls to zero along a cosine."""
    batches = flowers_data.Batches(data)
    steps = epochs * len(batches)
    rise = min(60, steps // 4)
    schedule = keras.optimizers.schedules.CosineDecay(rate / 10, steps - rise, warmup_target=rate, warmup_steps=rise)
    compile_model(model, schedule)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)


def accuracy(model: keras.Model, task: Task) -> float:
    """Share of right answers, in percent."""
    logits = model.predict(task.judge[0], batch_size=64, verbose=0)
    return 100 * float(np.mean(logits.argmax(axis=1) == task.judge[1]))


def finish(task: Task, what: str, model: keras.Model) -> dict[str, Any]:
    """Judges a model and stores it."""
    cost = keras_prune.costs(model).total
    result = {"accuracy": accuracy(model, task), "flops": cost.flops, "parameters": cost.parameters}
    logging.info("%s: %s", task.name(what), result)
    return task.runs.finish(task.name(what), result, model)


def run_dense(task: Task) -> None:
    """Fine-tunes the whole network."""
    if task.runs.result(task.name("dense")):
        return
    data = task.crops
    keras.utils.set_random_seed(task.seed)
    model = transfer_model(pathlib.Path(_DATA.value) / WEIGHTS, task.settings.size, int(task.train[1].max()) + 1)
    fine_tune(model, data, rate=3e-4, epochs=task.settings.dense_epochs)
    finish(task, "dense", model)


class StopAt(keras.callbacks.Callback):
    """Ends a fit as soon as pruning has reached its target; the rest of the training goes on with the smaller model."""

    def __init__(self, target: keras_prune.Target) -> None:
        super().__init__()
        self.target = target

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Reads what `PruneCallback` has put into the logs."""
        if logs is not None and logs[self.target.quantity] <= self.target.fraction:
            self.model.stop_training = True


def remove_channels(model: keras.Model, task: Task, *, criterion: str, fraction: float) -> keras.Model:
    """Removes channels a few at a time, training on between, until a fraction of the FLOPs is left."""
    target = keras_prune.Target("flops", fraction)
    schedule = keras_prune.Greedy(task.settings.num_units, frequency=task.settings.frequency, target=target)
    scores = keras_prune.Regularized(CRITERIA[criterion](), "flops", task.settings.strength)
    prune = keras_prune.PruneCallback(schedule, criterion=scores, pattern=keras_prune.Channel())
    # It rises, as 1e-3 at once destroys what the network knows, and the scores with it.
    rate = keras.optimizers.schedules.PolynomialDecay(5e-5, decay_steps=120, end_learning_rate=1e-3)
    compile_model(model, rate)
    data = flowers_data.Batches(task.taught)
    model.fit(data, epochs=100, shuffle=False, verbose=2, callbacks=[prune, StopAt(target)])
    return keras_prune.shrink(model)


def run_pruning(task: Task, criterion: str) -> None:
    """Passes through all levels, each from the one before."""
    before, dense = "dense", task.runs.need(task.name("dense"))["flops"]
    tuning = zip(task.settings.tune_epochs, task.settings.tune_rates, strict=True)
    for level, (epochs, rate) in zip(task.settings.levels, tuning, strict=True):
        what = f"{criterion}_{level:g}"
        if not task.runs.result(task.name(what)):
            data = task.taught
            keras.utils.set_random_seed(task.seed)
            fraction = level * dense / task.runs.need(task.name(before))["flops"]
            model = remove_channels(task.model(before), task, criterion=criterion, fraction=fraction)
            fine_tune(model, data, rate=rate, epochs=epochs)
            finish(task, what, model)
        before = what


def run_scratch(task: Task) -> None:
    """Trains networks of the shapes that Taylor has found, from random weights."""
    for level in task.settings.levels:
        what = f"scratch_{level:g}"
        if task.runs.result(task.name(what)):
            continue
        data = task.taught
        keras.utils.set_random_seed(task.seed)
        model = keras.models.clone_model(task.model(f"taylor_{level:g}"), clone_function=reinitialized)
        fine_tune(model, data, rate=1e-3, epochs=task.settings.scratch_epochs)
        finish(task, what, model)


def reinitialized(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy with new random weights: He's, as without batch normalization others do not reach deep layers."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.Conv2D):
        config["kernel_initializer"] = "he_normal"
    return type(layer).from_config(config)


def run_timing(task: Task) -> None:
    """Judges and times the files of the dense model and Taylor's on the device runtime, in turn, on one thread."""
    if task.runs.result(task.name("files")):
        return
    names = ["dense", *(f"taylor_{level:g}" for level in task.settings.levels)]
    files = {name: keras_prune.export_tflite(task.model(name), target="stock") for name in names}
    comparison = keras_prune.compare_tflite(files, *task.judge)
    print(comparison)
    keep = ("accuracy", "num_bytes", "latency_ms", "latency_ms_p10", "latency_ms_p90")
    results = {name: {key: value[key] for key in keep} for name, value in comparison.to_dict().items()}
    task.runs.finish(task.name("files"), results)


def main(argv: list[str]) -> None:
    """Does what is not done yet, then draws what there is."""
    del argv
    settings, out = SETTINGS[_SETTING.value], pathlib.Path(_OUT.value)
    same = {key: value for key, value in dataclasses.asdict(settings).items() if key != "seeds"}
    runs = Runs(out, json.loads(json.dumps({**same, "validate": _VALIDATE.value})))
    folder = pathlib.Path(_DATA.value) / "flowers"
    train, judge = flowers_data.load(folder, limit=settings.limit, validate=_VALIDATE.value)
    judged = (flowers_data.whole(judge[0], settings.size), judge[1])
    tasks = [Task(settings, runs, train, judged, seed) for seed in settings.seeds]
    for task in tasks:
        run_dense(task)
        run_pruning(task, settings.criteria[0])
        run_timing(task)
        report(runs, out)
        if len(tasks) > 1:
            task.forget()
    for task in tasks:
        for criterion in settings.criteria[1:]:
            run_pruning(task, criterion)
        run_scratch(task)
        report(runs, out)
        task.forget()


def report(runs: Runs, out: pathlib.Path) -> None:
    """Tables, the plot and one file with all results."""
    results = flowers_figure.collect(runs.folder)
    print(flowers_figure.table(results))
    write_atomic(_JSON.value or out / "flowers_transfer.json", (json.dumps(results, indent=1) + "\n").encode())
    flowers_figure.draw(results, pathlib.Path(_FIGURE.value or out / "flowers_transfer.png"))


if __name__ == "__main__":
    app.run(main)
