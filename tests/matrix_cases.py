"""Writes the files of the runtime matrix: those that must run, and those that must be refused with a clear message.

python tests/matrix_cases.py build/matrix/files                     # the golden files of all releases, and others
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import zlib

import numpy as np
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from make_release import inputs_of, outputs_of  # type: ignore[import-not-found]
from release_models import FLOAT, GOLDEN, STEP, convolutional, dense, pruned  # type: ignore[import-not-found]
from stock_files import as_stock  # type: ignore[import-not-found]

import keras_prune
from keras_prune import native, ops, sparse_format
from keras_prune_export import compiled_model, flatbuffer
from keras_prune_export.flatbuffer import schema

# Of a SavedModel's expansion.
CORRUPT = "keras_prune: the packed weights are corrupt or another model"
# LiteRT's CompiledModel does not read the one's operator, with stock weights neither, and not the other's batches.
NOT_COMPILED = ("expanded_unidirectional_sequence_lstm", "tokens")
ELF_MACHINE, X86_64, AARCH64 = 18, 62, 183  # where the header says it, and what


def edited(data, change):
    """The file after a change of its tables."""
    model = flatbuffer.read(data)
    change(model)
    return flatbuffer.write(model)


def operator(model):
    """The first packed one."""
    names = [flatbuffer.text(code.customCode) or "" for code in model.operatorCodes]
    return next(op for op in model.subgraphs[0].operators if names[op.opcodeIndex].startswith("KerasPrune"))


def buffer(model):
    """The first packed weights."""
    return next(b for b in model.buffers if b.data is not None and bytes(b.data[:4]) == b"KPRI")


def with_options(op, version=None, flip=0):
    """Options of a version to come, with a right checksum; or damaged ones."""
    options = bytearray(bytes(op.customOptions))
    at = 12 if len(options) == 16 else 4
    if version is not None:
        options[0] = version
        options[at : at + 4] = zlib.crc32(bytes(options[:at]) + bytes(options[at + 4 :])).to_bytes(4, "little")
    options[1] ^= flip
    op.customOptions = np.frombuffer(bytes(options), np.uint8)


def with_format(packed, version):
    """Packed weights of a format to come, with a right checksum."""
    data = bytearray(bytes(packed.data))
    data[4] = version
    data[32:36] = bytes(4)
    data[32:36] = zlib.crc32(bytes(data)).to_bytes(4, "little")
    packed.data = np.frombuffer(bytes(data), np.uint8)


def flipped(packed):
    data = bytearray(bytes(packed.data))
    data[len(data) // 2] ^= 4
    packed.data = np.frombuffer(bytes(data), np.uint8)


def renamed(model, name):
    for code in model.operatorCodes:
        if (flatbuffer.text(code.customCode) or "").startswith("KerasPrune"):
            code.customCode = name


def damaged(data):
    """Name -> file, and what its message must say."""
    return {
        "newer_operator": (
            edited(data, lambda m: renamed(m, "KerasPruneToCome")),
            "got the operator KerasPruneToCome; install a newer keras_prune",
        ),
        "newer_options": (
            edited(data, lambda m: with_options(operator(m), 99)),
            "expected options version .*, got 99; install a keras_prune that reads it",
        ),
        "newer_format": (
            edited(data, lambda m: with_format(buffer(m), 99)),
            "a format version that is not read here; install a keras_prune",
        ),
        "damaged_weights": (
            edited(data, lambda m: flipped(buffer(m))),
            r"packed weights .*checksum does not match \(corrupt\); export the model again",
        ),
        "damaged_options": (
            edited(data, lambda m: with_options(operator(m), flip=64)),
            r"options' checksum does not match \(corrupt\); export the model again",
        ),
        "half_a_file": (half(data), "."),
        "no_file": (None, "."),
        "another_file": (b"PK\x03\x04" + bytes(400), "."),
        "empty": (b"", "."),
    }


def half(data):
    return data[: len(data) // 2]


def another_cpu(library):
    """The library with a header that names another processor."""
    changed = bytearray(library)
    changed[ELF_MACHINE] = AARCH64 if changed[ELF_MACHINE] != AARCH64 else X86_64
    return bytes(changed)


def libraries(folder):
    """Delegates that this machine or the runtime refuses."""
    library = native.delegate_path().read_bytes()
    (folder / "another_cpu.so").write_bytes(another_cpu(library))
    (folder / "no_library.so").write_text("not a library\n")
    (folder / "start_of_a_library.so").write_bytes(library[:40])  # on more of one, Linux's own loader crashes
    isas = "isa .*: expected reference, scalar, .* supported by this CPU, got '{}'; leave it out"
    file = {"file": "dense_codebook_4.tflite"}
    return [
        {"name": "refused_delegate_of_another_cpu", "library": "another_cpu.so", "error": "another_cpu.so", **file},
        {"name": "refused_no_library", "library": "no_library.so", "error": "no_library.so", **file},
        {"name": "refused_start_of_a_library", "library": "start_of_a_library.so", "error": "start_of_a_library.so"}
        | file,
        {"name": "refused_unknown_isa", "options": {"isa": "mmx"}, "error": isas.format("mmx"), **file},
        {"name": "refused_isa_of_another_cpu", "options": {"isa": "neon"}, "error": isas.format("neon"), **file},
        {"name": "refused_isa_that_the_cpu_lacks", "cpu": "Nehalem", "options": {"isa": "avx2"}, **file}
        | {"error": isas.format("avx2")},
        {"name": "refused_unknown_option", "options": {"threads": 4}, "error": "unknown option 'threads'", **file},
    ]


def refused(folder):
    """Writes what must be refused; returns the cases."""
    cases = libraries(folder)
    for operator_name, source in (
        ("KerasPruneFullyConnected", "dense_codebook_4"),
        ("KerasPruneConv2D", "convolutions"),
        ("KerasPruneUnpack", "expanded_lossless"),
    ):
        short = operator_name.removeprefix("KerasPrune").lower()
        message = rf"Encountered unresolved custom op: KerasPrune|{operator_name}"
        case = {"name": f"refused_{short}_without_delegate", "file": f"{source}.tflite", "delegate": False}
        cases.append(case | {"error": message})
        for what, (data, error) in damaged((folder / f"{source}.tflite").read_bytes()).items():
            name = f"refused_{short}_{what}"
            if data is not None:
                (folder / f"{name}.tflite").write_bytes(data)
            # tflite-runtime checks no tables: what becomes of half of them is chance.
            cases.append({"name": name, "file": f"{name}.tflite", "error": error, "checks": what == "half_a_file"})
    return cases


def refused_compiled(folder):
    """What LiteRT's CompiledModel must refuse: `refused` wrote the files."""
    case = {"kind": "compiled_model", "file": "dense_codebook_4.tflite", "expect": "dense_codebook_4.npz"}
    isa = "isa .*: expected reference, scalar, .* supported by this CPU, got 'mmx'; leave it out"
    cases = [
        {
            "name": "old_runtime",
            "old": True,
            "error": r"expected ai-edge-litert 2\.1\.6 or newer, got .*load_interpreter",
        },
        {"name": "without_delegate", "delegate": False, "error": "KerasPruneFullyConnected"},
        {"name": "delegate_of_another_cpu", "library": "another_cpu.so", "error": "another_cpu.so"},
        {"name": "unknown_isa", "variables": {"KERAS_PRUNE_ISA": "mmx"}, "error": isa},
    ]
    for what, (_, error) in damaged((folder / case["file"]).read_bytes()).items():
        cases.append({"name": what, "file": f"refused_fullyconnected_{what}.tflite", "error": error})
    return [case | one | {"name": f"refused_compiled_{one['name']}"} for one in cases]


def refused_op(folder):
    """What the TensorFlow op must refuse: bytes, CPUs, a library."""
    with np.load(folder / "op_codebook_256.npz") as values:
        x, packed, y = (values[name] for name in ("x0", "x1", "y0"))
    (folder / "another_cpu_op.so").write_bytes(another_cpu(native.op_path().read_bytes()))
    isa = "KERAS_PRUNE_ISA names an instruction set that is unknown or that this CPU lacks; unset it"
    cases = [
        {"name": "of_another_cpu", "library": "another_cpu_op.so", "error": "another_cpu_op.so"},
        {"name": "unknown_isa", "variables": {"KERAS_PRUNE_ISA": "mmx"}, "error": isa},
    ]
    damaged, newer = schema.BufferT(), schema.BufferT()
    damaged.data = newer.data = packed
    flipped(damaged)
    with_format(newer, 99)
    for what, data, error in (
        ("damaged_weights", damaged.data, r"checksum does not match \(corrupt\)"),
        ("newer_format", newer.data, "a format version that is not read here"),
        ("half_of_the_weights", half(packed), "packed weights are shorter than their header says"),
    ):
        np.savez_compressed(folder / f"refused_op_{what}.npz", x0=x, x1=data, y0=y)
        cases.append({"name": what, "expect": f"refused_op_{what}.npz", "error": error})
    case = {"kind": "op", "expect": "op_codebook_256.npz"}
    return [case | one | {"name": f"refused_op_{one['name']}"} for one in cases]


def refused_saved_models(folder):
    """SavedModels without the op, damaged, or not whole."""
    without_op = "Op type not registered 'KerasPruneRelativeIndexMatmul'"
    cases = [{"name": "without_op", "file": "with_op", "expect": "op_codebook_256.npz", "error": without_op}]
    weights = (folder / "packed_model" / "assets" / "weights.bin").read_bytes()
    graph = (folder / "packed_model" / "saved_model.pb").read_bytes()
    for what, part, data, error in (
        ("damaged_weights", "assets/weights.bin", weights[:-1] + bytes([weights[-1] ^ 1]), CORRUPT),
        ("half_of_the_weights", "assets/weights.bin", half(weights), CORRUPT),
        ("no_weights", "assets/weights.bin", None, "weights.bin; No such file or directory"),
        ("half_a_graph", "saved_model.pb", half(graph), "saved_model.pb"),
    ):
        shutil.copytree(folder / "packed_model", folder / f"refused_{what}")
        place = folder / f"refused_{what}" / part
        place.unlink()
        if data is not None:
            place.write_bytes(data)
        cases.append({"name": what, "file": f"refused_{what}", "expect": "packed_model.npz", "error": error})
    case = {"kind": "saved_model", "delegate": False}
    return [case | one | {"name": f"refused_saved_model_{one['name']}"} for one in cases]


def golden(folder, sources):
    """Copies the golden files of the releases; returns the cases."""
    cases = []
    for source in sources:
        for case in json.loads((source / "cases.json").read_text()):
            for key in ("file", "expect"):
                shutil.copy(source / case[key], folder)
            cases.append(case)
    return cases


def stock(folder):
    """Files without our operators, which run everywhere, without the delegate."""
    sparse = keras_prune.export_tflite(pruned(convolutional()), target="stock", weights="sparse")
    interpreter = litert.Interpreter(model_content=sparse)
    x = inputs_of(interpreter, 5)
    np.savez_compressed(folder / "stock_sparse.npz", x0=x[0], y0=outputs_of(interpreter, x)[0])
    files = {"sparse": (sparse, "stock_sparse", FLOAT)}
    for name, tolerance in (("convolutions", FLOAT), ("integer", STEP)):
        files[name] = (as_stock((folder / f"{name}.tflite").read_bytes()), name, tolerance)
    for name, (data, _, _) in files.items():
        (folder / f"stock_{name}.tflite").write_bytes(data)
    return [
        {"name": f"stock_{name}", "file": f"stock_{name}.tflite", "delegate": False, "expect": f"{values}.npz"}
        | {"tolerance": tolerance}
        for name, (_, values, tolerance) in files.items()
    ]


def compiled(folder, cases):
    """The golden files in LiteRT's CompiledModel, whose module is self-contained."""
    shutil.copy(compiled_model.__file__, folder)
    return [
        {key: value for key, value in case.items() if key != "about"}
        | {"name": f"compiled_{case['name']}", "kind": "compiled_model"}
        for case in cases
        if case["name"] not in NOT_COMPILED
    ]


def of_tensorflow(folder):
    """The op on golden bytes, a SavedModel with it, and a packed one of TensorFlow's own operators."""
    cases = []
    for name in ("nothing_pruned", "codebook_256", "eight_bit_gaps", "all_pruned"):
        packed = np.fromfile(GOLDEN / f"{name}.packed", np.uint8)
        weights = sparse_format.to_dense(packed)
        x = np.random.default_rng(3).uniform(-1, 1, (7, weights.shape[1])).astype(np.float32)
        np.savez_compressed(folder / f"op_{name}.npz", x0=x, x1=packed, y0=x @ weights.T)
        cases.append({"name": f"op_{name}", "kind": "op", "expect": f"op_{name}.npz", "tolerance": FLOAT})
    module = tf.Module()
    module.packed = tf.Variable(packed := np.fromfile(GOLDEN / "codebook_256.packed", np.uint8))
    shape = tf.TensorSpec([None, int(sparse_format.to_dense(packed).shape[1])], tf.float32, "x")
    call = tf.function(lambda x: ops.relative_index_matmul(x, module.packed), [shape])
    tf.saved_model.save(module, str(folder / "with_op"), {"serving_default": call})
    model = pruned(dense())
    x = np.random.default_rng(4).uniform(-1, 1, (7, 80)).astype(np.float32)
    keras_prune.export_saved_model(model, folder / "packed_model", weights="lossless")
    np.savez_compressed(folder / "packed_model.npz", x0=x, y0=model.predict(x, verbose=0))
    kept = {"kind": "saved_model", "tolerance": FLOAT}
    return [
        *cases,
        {"name": "saved_model_with_op", "file": "with_op", "expect": "op_codebook_256.npz", **kept},
        {"name": "saved_model_packed", "file": "packed_model", "delegate": False, "expect": "packed_model.npz", **kept},
    ]


def write(folder, sources):
    """All files of the matrix."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cases = golden(folder, sources)
    cases += [*compiled(folder, cases), *stock(folder), *of_tensorflow(folder), *refused(folder)]
    cases += [*refused_compiled(folder), *refused_op(folder), *refused_saved_models(folder)]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), [pathlib.Path(a) for a in sys.argv[2:]] or sorted(GOLDEN.glob("release_*")))
