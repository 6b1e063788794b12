r"""LeNet-300-100 or LeNet-5 on MNIST: train, prune, quantize, pack, and run the file on the device runtime.

The networks and the data are those of Han et al. 2015 (https://arxiv.org/abs/1506.02626, 12x fewer weights at 1.59 %
and 0.77 % error) and of Deep Compression (https://arxiv.org/abs/1510.00149, weights 40x smaller).

    python examples/mnist_lenet.py --seed 0 --out out/mnist --json out/mnist/result.json
    python examples/mnist_lenet.py --net lenet5 --method iterative

Errors are in percent; weights exclude biases; `weights_kept` is counted in the packed file: the entries of the packed
layers, and the weights of its other layers that are not zero. The hyper-parameters were chosen with `--validate`, which
trains on the first 55 000 images, judges on the last 5 000 of the training set and leaves the test set alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import app, flags, logging

import keras_prune
import keras_prune_export as kpe
from keras_prune_export import flatbuffer
from keras_prune_export.evaluation import Evaluation
from keras_prune_export.files import check_folder, write_atomic
from keras_prune_export.layer_bytes import bytes_table

_DATA = flags.DEFINE_string("data", None, "mnist.npz; by default keras.datasets.mnist (downloaded once).")
_OUT = flags.DEFINE_string("out", "out/mnist_lenet", "Where artifacts go.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of initial weights and shuffling.")
_VALIDATE = flags.DEFINE_boolean("validate", False, "Judge on 5 000 held-out training images, not the test set.")
_NET = flags.DEFINE_enum("net", "lenet_300_100", ["lenet_300_100", "lenet5"], "Which network.")
_METHOD = flags.DEFINE_enum(
    *("method", "gradual", ["gradual", "iterative", "one_shot"]),
    "How to prune: along a ramp while training, in rounds of pruning and retraining, or all at once and then retrain.",
)
_REGULARIZER = flags.DEFINE_enum("regularizer", "l2", ["l1", "l2"], "Penalty of the kernels in both phases.")
_DENSE = flags.DEFINE_string("dense", None, "Start from this trained model (an earlier run's OUT/dense.keras).")
# What is None here is chosen for the network and the method: see `Settings`.
_DENSE_EPOCHS = flags.DEFINE_integer("dense_epochs", None, "Epochs of dense training.", lower_bound=1)
_PRUNE_EPOCHS = flags.DEFINE_integer("prune_epochs", None, "Epochs of pruning and fine-tuning.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 128, "Examples a step.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", None, "Initial learning rate of dense training; it falls along a cosine.")
_RATE_FACTOR = flags.DEFINE_float("rate_factor", None, "Learning rate of pruning, as a multiple of that of training.")
_L1 = flags.DEFINE_float("l1", None, "L1 penalty of the kernels in dense training.")
_PRUNE_L1 = flags.DEFINE_float("prune_l1", None, "L1 penalty of the kernels while pruning and fine-tuning.")
_L2 = flags.DEFINE_float("l2", None, "L2 penalty of the kernels in dense training.")
_PRUNE_L2 = flags.DEFINE_float("prune_l2", None, "L2 penalty of the kernels while pruning and fine-tuning.")
_RAMP = flags.DEFINE_float("ramp", 0.6, "Share of the pruning steps in which sparsity rises (gradual).", 0, 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds of pruning and retraining (iterative).", lower_bound=1)
_PATIENCE = flags.DEFINE_integer("patience", 5, "Epochs without a lower loss that end a round (iterative).")
_DENSITY = flags.DEFINE_list("density", None, "Share of weights kept in each layer.")
_BITS = flags.DEFINE_integer("bits", 5, "Bits of a code: each layer has 2**bits - 1 shared weights.")

Arrays = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags leave open; a flag of the same name goes before it."""

    density: Sequence[float]
    dense_epochs: int
    prune_epochs: int
    learning_rate: float
    rate_factor: float
    l1: float = 1e-5
    prune_l1: float = 1e-5
    l2: float = 1e-4
    prune_l2: float = 2e-4


# Han's densities (8, 9 and 26 %; 66, 12, 8 and 19 %), LeNet-5's third scaled so that 12x holds before rounding, too.
_SETTINGS = {
    ("lenet_300_100", "gradual"): Settings((0.046, 0.095, 0.28), 20, 60, 0.1, 1.0),
    ("lenet_300_100", "iterative"): Settings((0.08, 0.09, 0.26), 20, 50, 0.1, 0.1),
    ("lenet_300_100", "one_shot"): Settings((0.08, 0.09, 0.26), 20, 30, 0.1, 0.1),
    ("lenet5", "gradual"): Settings((0.66, 0.12, 0.078, 0.19), 10, 15, 0.05, 1.0, l2=2e-4),
    ("lenet5", "iterative"): Settings((0.66, 0.12, 0.078, 0.19), 10, 20, 0.05, 0.3, l2=2e-4),
    ("lenet5", "one_shot"): Settings((0.66, 0.12, 0.078, 0.19), 10, 12, 0.05, 0.3, l2=2e-4),
}


def setting(name: str) -> Any:
    """The flag's value, or where none was given, the one for this network and method."""
    value = flags.FLAGS[name].value
    return getattr(_SETTINGS[_NET.value, _METHOD.value], name) if value is None else value


def load_data() -> tuple[Arrays, Arrays]:
    """(train, judge) as float32 images in [0, 1], in the shape that the network takes, and int32 labels."""
    if _DATA.value:
        with np.load(_DATA.value) as data:
            train, test = (data["x_train"], data["y_train"]), (data["x_test"], data["y_test"])
    else:
        train, test = keras.datasets.mnist.load_data()
    if _VALIDATE.value:
        test = (train[0][55_000:], train[1][55_000:])
        train = (train[0][:55_000], train[1][:55_000])
    return _prepare(train), _prepare(test)


def _prepare(pair: Arrays) -> Arrays:
    shape = (784,) if _NET.value == "lenet_300_100" else (28, 28, 1)
    return pair[0].reshape(-1, *shape).astype(np.float32) / 255, pair[1].astype(np.int32)


def lenet_300_100() -> keras.Model:
    """Three dense layers, 266 200 weights."""
    layers = [keras.layers.Dense(300, "relu"), keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((784,)), *layers])


def lenet5() -> keras.Model:
    """Caffe's LeNet-5: two convolutions without activation and two dense layers, 430 500 weights."""
    layers = keras.layers
    first = [layers.Conv2D(20, 5), layers.MaxPooling2D()]
    second = [layers.Conv2D(50, 5), layers.MaxPooling2D()]
    dense = [layers.Flatten(), layers.Dense(500, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *first, *second, *dense])


def compile_model(model: keras.Model, phase: str, rate: Any) -> None:
    """Compiles for a phase, "" (dense) or "prune_"; ``rate`` is a number or a schedule."""
    kind = _REGULARIZER.value
    regularizer = {"l1": keras.regularizers.L1, "l2": keras.regularizers.L2}[kind](setting(phase + kind))
    for layer in kernels(model).values():
        layer.kernel.regularizer = regularizer
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=_NET.value == "lenet_300_100",  # on CPUs XLA is faster for dense layers, slower for convolutions
    )


def kernels(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers with a kernel, by name."""
    return {layer.name: layer for layer in model.layers if hasattr(layer, "kernel")}


def fit(model: keras.Model, train: Arrays, *, phase: str, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
    """One phase of training with a learning rate that falls to zero along a cosine."""
    epochs = setting("prune_epochs" if phase else "dense_epochs")
    rate = setting("learning_rate") * (setting("rate_factor") if phase else 1)
    compile_model(model, phase, keras.optimizers.schedules.CosineDecay(rate, epochs * steps_per_epoch(train)))
    model.fit(*train, epochs=epochs, batch_size=_BATCH.value, verbose=2, callbacks=list(callbacks))


def steps_per_epoch(train: Arrays) -> int:
    """Batches of an epoch, the last one smaller."""
    return -(-len(train[0]) // _BATCH.value)


def allocation(model: keras.Model) -> keras_prune.PerLayer:
    """The sparsity of each layer."""
    densities = [float(density) for density in setting("density")]
    return keras_prune.PerLayer({name: 1 - d for name, d in zip(kernels(model), densities, strict=True)})


def final_sparsity(model: keras.Model) -> float:
    """The sparsity of all layers together."""
    targets, sizes = allocation(model).sparsities, {n: math.prod(k.kernel.shape) for n, k in kernels(model).items()}
    return sum(targets[name] * size for name, size in sizes.items()) / sum(sizes.values())


def gradual(model: keras.Model, train: Arrays) -> None:
    """Magnitude pruning along a cubic ramp (Zhu and Gupta 2017), with a density for each layer."""
    end_step = round(_RAMP.value * setting("prune_epochs") * steps_per_epoch(train))
    schedule = keras_prune.PolynomialDecay(end_step=end_step)
    fit(model, train, phase="prune_", callbacks=[keras_prune.PruneCallback(schedule, allocation=allocation(model))])


def iterative(model: keras.Model, train: Arrays) -> None:
    """Rounds of pruning and retraining with a smaller learning rate (Han et al. 2015)."""
    compile_model(model, "prune_", setting("learning_rate"))
    epochs = -(-setting("prune_epochs") // _ROUNDS.value)
    base = setting("learning_rate") * setting("rate_factor")
    fall = keras.callbacks.LearningRateScheduler(lambda epoch: base * (1 + math.cos(math.pi * epoch / epochs)) / 2)
    rounds = keras_prune.iterative_prune(
        model,
        dict(zip("xy", train, strict=True), epochs=epochs, batch_size=_BATCH.value, verbose=2, callbacks=[fall]),
        sparsities=keras_prune.geometric_sparsities(final_sparsity(model), _ROUNDS.value),
        learning_rate_factor=setting("rate_factor"),
        patience=_PATIENCE.value,
        options={"allocation": allocation(model)},
    )
    print(rounds)


def one_shot(model: keras.Model, train: Arrays) -> None:
    """Everything pruned at once, then retraining with a smaller learning rate."""
    keras_prune.prune(model, final_sparsity(model), allocation=allocation(model))
    fit(model, train, phase="prune_")


def check_flags() -> None:
    """Raises what would else be raised when the training is over; makes the folder of ``--json``."""
    if _JSON.value:
        pathlib.Path(_JSON.value).parent.mkdir(parents=True, exist_ok=True)
        check_folder(_JSON.value)
    keras_prune.Codebook(bits=_BITS.value)
    expected = len(_SETTINGS[_NET.value, _METHOD.value].density)
    densities = [float(density) for density in setting("density")]
    if len(densities) != expected or not all(0 < density <= 1 for density in densities):
        raise ValueError(f"--density: expected {expected} shares above 0 and up to 1, one for a layer, got {densities}")


def error_percent(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of wrong classes, in percent."""
    return 100 * float(np.mean(predictions.argmax(axis=1) != labels))


def dense_model(train: Arrays) -> keras.Model:
    """The model before pruning: trained now, or in an earlier run."""
    if _DENSE.value:
        return keras.saving.load_model(_DENSE.value)
    model = {"lenet_300_100": lenet_300_100, "lenet5": lenet5}[_NET.value]()
    logging.info("Dense training")
    fit(model, train, phase="")
    return model


def main(argv: list[str]) -> None:
    """Trains, prunes, exports, judges."""
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    check_flags()
    keras.utils.set_random_seed(_SEED.value)
    train, test = load_data()
    model = dense_model(train)
    model.save(out / "dense.keras")
    dense_error = error_percent(model.predict(test[0], batch_size=1000, verbose=0), test[1])
    logging.info("Pruning and fine-tuning")
    {"gradual": gradual, "iterative": iterative, "one_shot": one_shot}[_METHOD.value](model, train)
    keras_prune.strip(model)
    keras_prune.sparsity_table(model)
    choices = {"net": _NET.value, "method": _METHOD.value, "regularizer": _REGULARIZER.value}
    result = {"seed": _SEED.value, **choices, "dense_error": dense_error, **export(model, test, out)}
    print(json.dumps(result, indent=2))
    if _JSON.value:
        write_atomic(_JSON.value, json.dumps(result, indent=2).encode())


def export(model: keras.Model, test: Arrays, out: pathlib.Path) -> dict[str, Any]:
    """Writes the artifacts and judges the packed file on the device runtime."""
    weights = keras_prune.Codebook(bits=_BITS.value)
    quantized = keras_prune.quantize(model, weights)
    model.save(out / "model.keras")
    write_atomic(out / "model_float.tflite", kpe.convert(model))
    keras_prune.export_tflite(model, out / "model_packed.tflite", weights=weights)
    files = {"float32": out / "model_float.tflite", "packed": out / "model_packed.tflite"}
    comparison = keras_prune.compare_tflite(files, *test)
    packed = comparison["packed"]
    print(f"{comparison}\n\n{bytes_table(packed.sizes)}")
    others = dense_weights(out / "model_packed.tflite")
    expected = quantized.predict(test[0], batch_size=1000, verbose=0).argmax(axis=1)
    return {
        "error": packed.error_percent,
        "weights_total": sum(layer.num_weights for layer in packed.layers) + others.size,
        "weights_kept": packed.weights_kept + int(np.count_nonzero(others)),
        "float_bytes": comparison["float32"].num_bytes,
        "packed_bytes": packed.num_bytes,
        **bytes_by_part(packed),
        "prediction_mismatches": int(np.sum(packed.predictions != expected)),
        "latency_ms_float": comparison["float32"].latency_ms,
        "latency_ms_packed": packed.latency_ms,
    }


def bytes_by_part(packed: Evaluation) -> dict[str, int | float]:
    """Where the bytes of the packed file are, beside the entropy of the weights' positions and codes."""
    *layers, constants, tables = packed.sizes
    return {
        "weight_bytes": sum(layer.num_bytes - layer.codebook for layer in layers),
        "entropy_bound": packed.entropy_bound,
        "codebook_bytes": sum(layer.codebook for layer in layers),
        "bias_bytes": constants.num_bytes,
        "flatbuffer_bytes": tables.num_bytes,
    }


def dense_weights(path: pathlib.Path) -> np.ndarray:
    """The weights that a file holds as ordinary constants of its layers, zeros included; biases are left out."""
    file = flatbuffer.read(path.read_bytes())
    operators = flatbuffer.schema.BuiltinOperator
    kinds = (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED)
    graph = file.subgraphs[0]
    tensors = [graph.tensors[op.inputs[1]] for op in graph.operators if flatbuffer.builtin_code(file, op) in kinds]
    tensors = [tensor for tensor in tensors if file.buffers[tensor.buffer].data is not None]  # others are packed
    return np.concatenate([np.zeros(0, np.float32), *(flatbuffer.constant(file, t).reshape(-1) for t in tensors)])


if __name__ == "__main__":
    app.run(main)
