"""What a release keeps one small file of: every operator, storage version, coding, pattern and kind of activations.

`make_release.py` writes them down once a release; later releases must read them.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import struct
import zlib
from typing import Any

import keras
import numpy as np
from one_operator import MODELS, with_float16  # type: ignore[import-not-found]
from tflite_models import small_model  # type: ignore[import-not-found]
from unpack_models import Graph  # type: ignore[import-not-found]

import keras_prune
from keras_prune.patterns import Balanced, Block, Channel, NByM
from keras_prune_export import flatbuffer
from keras_prune_export.flatbuffer import schema

GOLDEN = pathlib.Path(__file__).parent / "golden"
layers = keras.layers

# float32 sums of a few hundred products, in any order: relative to the largest output, but not below 1.
FLOAT = 1e-5
# int8 activations behind operators that round in their own ways: such a value, one step off, moves the outputs.
STEP = 0.02


@dataclasses.dataclass(frozen=True)
class Kept:
    """One file, with what is to be given to it.

    Attributes:
        data: the file.
        about: what of the format it holds.
        tolerance: of the outputs.
        rows: rows of the inputs; 0: the shapes of the file are fixed.
        by_reference: packed operators on int8 activations: no stock file computes the same.
    """

    data: bytes
    about: str
    tolerance: float = FLOAT
    rows: int = 5
    by_reference: bool = False


def values(model: Any, seed: int) -> Any:
    """Gives a model weights that do not depend on the version of Keras or on the machine."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" not in variable.dtype:
            continue
        new = rng.uniform(-1, 1, variable.shape) / np.sqrt(max(1, np.prod(variable.shape[:-1])) / 4)
        variable.assign(np.abs(new) + 0.5 if "variance" in variable.path else new)
    return model


def pruned(model: Any, sparsity: float = 0.85, *, pattern: Any = "unstructured", seed: int = 0) -> Any:
    return keras_prune.prune(values(model, seed), sparsity, pattern=pattern)


def dense() -> Any:
    stack = [layers.Dense(48, "relu"), layers.Dense(24, "relu6"), layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((80,)), *stack])


def convolutional() -> Any:
    """What computes on packed weights, what is expanded, and what stands between them."""
    stack = [
        layers.Conv2D(16, 3, activation="relu", padding="same"),
        layers.MaxPooling2D(),
        layers.Conv2D(24, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2D(32, (1, 3), dilation_rate=(1, 2), padding="valid"),
        layers.Conv2D(24, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(6),
    ]
    return keras.Sequential([keras.Input((16, 20, 3)), *stack])


def tokens() -> Any:
    """Embeddings, an unrolled recurrent layer, leading dimensions that are kept; two inputs and two outputs."""
    words, extra = keras.Input((6,), dtype="int32", name="words"), keras.Input((6, 16), name="extra")
    x = layers.Add()([layers.Embedding(50, 16)(words), extra])
    x = layers.Dense(24, "tanh")(x)
    state = layers.GRU(12, unroll=True)(x)
    return keras.Model([words, extra], [layers.Dense(7)(state), layers.Dense(5, "relu")(x)])


def images(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (20, 16, 20, 3)).astype(np.float32)


def vectors(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (20, 80)).astype(np.float32)


def exported() -> dict[str, Kept]:
    """Each kind of weights and of activations; every network passes the converter once, which takes long."""
    stock, pack = functools.partial(keras_prune.export_tflite, target="stock"), keras_prune.pack_tflite
    net, conv, words = stock(pruned(dense())), pruned(convolutional()), stock(pruned(tokens()))
    integers = stock(conv, weights=keras_prune.Int8(), activations="int8", representative_data=images())
    conv = stock(conv)
    codebook = functools.partial(pack, weights=None)
    files = {f"dense_codebook_{n}": Kept(pack(net, weights=keras_prune.Codebook(n)), f"{n} bits") for n in (2, 4, 8)}
    rows = codebook(net, activations="int8")
    one = codebook(net, activations="int8", representative_data=vectors())
    network = codebook(conv, activations="int8", representative_data=images())
    kinds = {
        "float16": "float16",
        "int8": keras_prune.Int8(),
        "codebook": keras_prune.Codebook(8),
        "lossless": "lossless",
    }
    for name, weights in kinds.items():
        files[f"expanded_{name}"] = Kept(pack(conv, weights=weights), f"weights: {name}")
    return files | {
        "dense_int8_rows": Kept(rows, "int8 activations, a step for each row", by_reference=True),
        "dense_int8": Kept(one, "int8 activations, one step for good", by_reference=True),
        "dense_int8_long_options": Kept(
            with_long_options(codebook(net), 1 / 64), "int8 activations, one step, long options", by_reference=True
        ),
        "convolutions_int8_rows": Kept(
            codebook(conv, activations="int8"), "int8 activations, a step for each patch", STEP, by_reference=True
        ),
        "convolutions": Kept(codebook(conv), "convolutions that compute, others expanded"),
        "convolutions_int8": Kept(network, "int8 activations in a network", STEP, by_reference=True),
        "tokens": Kept(codebook(words), "embedding, recurrent layer, kept dimensions, several inputs"),
        "integer": Kept(pack(integers), "integer operators, int8 weights expanded", STEP),
    }


def with_long_options(data: bytes, scale: float) -> bytes:
    """The form of options with one step of x that files had before the first release."""
    model = flatbuffer.read(data)
    for op in model.subgraphs[0].operators:
        if flatbuffer.text(model.operatorCodes[op.opcodeIndex].customCode) == "KerasPruneFullyConnected":
            head, tail = bytes([*bytes(op.customOptions)[:3], 2]), struct.pack("<f", scale)
            options = head + zlib.crc32(head + tail).to_bytes(4, "little") + tail
            op.customOptions = np.frombuffer(options, np.uint8)
    return flatbuffer.write(model)


def patterned() -> dict[str, Kept]:
    """One layer of each pattern; and float16 weights behind a DEQUANTIZE, which goes."""
    patterns = {"blocks": Block((4, 1)), "n_by_m": NByM(1, 4), "balanced": Balanced(16), "channels": Channel()}
    files = {}
    for name, pattern in patterns.items():
        kernel = np.random.default_rng(7).uniform(-1, 1, (96, 48)).astype(np.float32)
        kernel *= pattern.keep(np.abs(kernel), 0.75)
        model = flatbuffer.write(small_model(kernel.T, activation=1))
        files[f"pattern_{name}"] = Kept(keras_prune.pack_tflite(model, weights=None), f"pattern {name}")
    half = MODELS["CONV_2D"]()
    with_float16(half, "constant1")
    packed = keras_prune.pack_tflite(flatbuffer.write(half))
    files["repacked_float16"] = Kept(packed, "float16 weights, and their DEQUANTIZE", rows=0)
    for name, make in MODELS.items():
        packed = keras_prune.pack_tflite(flatbuffer.write(make()))
        files[f"expanded_{name.lower()}"] = Kept(packed, f"weights of {name}, every bit", rows=0)
    return files


def storage_version_1() -> bytes:
    """Every golden buffer of version 1 in an operator of its own: y = x W^T, the activations being constants."""
    graph = Graph()
    graph.subgraph()
    graph.last.inputs = [graph.add([1])]
    graph._code(schema.BuiltinOperator.CUSTOM, "KerasPruneFullyConnected")
    for line in (GOLDEN / "manifest.txt").read_text().splitlines():
        name, rows, cols, *_ = line.split()
        x = np.random.default_rng(int(rows)).uniform(-1, 1, (3, int(cols))).astype(np.float32)
        packed = (GOLDEN / f"{name}.packed").read_bytes()
        inputs = [graph.add(x.shape, "float32", x.tobytes()), graph.add([len(packed)], "uint8", packed)]
        op = graph.operator(len(graph.model.operatorCodes) - 1, inputs, [graph.add([3, int(rows)])])
        head = bytes([1, 0, 0, 0])  # options version 1, no activation
        op.customOptions = np.frombuffer(head + zlib.crc32(head).to_bytes(4, "little"), np.uint8)
        graph.last.outputs.append(op.outputs[0])
    return graph.finish()


def storage_version_2() -> bytes:
    """Every golden buffer of version 2, expanded; the outputs are the weights themselves."""
    graph = Graph()
    graph.subgraph()
    graph.last.inputs = [graph.add([1])]
    buffers = []
    for line in (GOLDEN / "tensor_manifest.txt").read_text().splitlines():
        name, _, _, element, rows, cols, *_ = line.split()
        kind = ["float32", "float16", "int8", "uint8"][int(element)]
        graph.last.outputs.append(graph.add([int(rows), int(cols)], kind))
        buffers.append((GOLDEN / f"{name}.packed").read_bytes())
    graph.unpack(buffers, graph.last.outputs)
    return graph.finish()


def every_file() -> dict[str, Kept]:
    """Name -> file."""
    return {
        **exported(),
        **patterned(),
        "storage_version_1": Kept(storage_version_1(), "all golden buffers of version 1", rows=0),
        "storage_version_2": Kept(storage_version_2(), "all golden buffers of version 2", 0.0, rows=0),
    }
