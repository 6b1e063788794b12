"""Stock files with TFLite's own sparse tensors, run once before they are returned."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_prune_export import converter, flatbuffer, runtime
from keras_prune_export.flatbuffer import schema

_OPS = schema.BuiltinOperator
_TOLERANCE = 1e-4  # of the largest output: the same products added in another order, layer after layer
_UNKNOWN_SIZE = 64  # of a dimension that the file leaves open, other than the first, which counts examples
_ADVICE = "take target='packed', which stores any weights, or weights=None"


def make(model: Any, *, function: str = "export_tflite") -> bytes:
    """Converts a model to a file whose sparse float32 weights are stored as positions and values.

    Args:
        model: as `keras_prune_export.convert` takes it.
        function: name of the public function, for errors.

    Returns:
        The file's bytes. The default interpreter has run every signature of it, with the dense file's outputs.

    Raises:
        ValueError: no weight is sparse enough, the file does not run or computes something else, or the converter's
            refusal.
    """
    dense, sparse = converter.convert(model), converter.convert(model, optimize="sparse")
    file = flatbuffer.read(sparse)
    if not any(tensor.sparsity is not None for graph in file.subgraphs for tensor in graph.tensors):
        raise ValueError(
            f"{function}: expected a layer that the converter can store sparse with weights='sparse', and it "
            "found none with enough zeros; prune the model first, or take weights=None"
        )
    check_pooled(file, function)
    check_runs(sparse, dense, function)
    return sparse


def check_pooled(file: Any, function: str) -> None:
    """Refuses a sparse convolution of pooled features: XNNPACK's sparse kernels fail there, on ARM64, at run time.

    Raises:
        ValueError: there is one.
    """
    for graph in file.subgraphs:
        writers = {index: op for op in graph.operators for index in flatbuffer.indices(op.outputs)}
        for op in graph.operators:
            if flatbuffer.builtin_code(file, op) == _OPS.CONV_2D:
                data, weights = (writers.get(index) for index in flatbuffer.indices(op.inputs)[:2])
                if _is(file, data, _OPS.MEAN) and _is(file, weights, _OPS.DENSIFY):
                    name = flatbuffer.text(graph.tensors[flatbuffer.indices(op.outputs)[0]].name)
                    raise ValueError(
                        f"{function}: expected no convolution of pooled features with weights='sparse', got {name!r}: "
                        "such a file fails at run time on ARM64; give the model GlobalAveragePooling2D() without "
                        f"keepdims and a Dense layer, or {_ADVICE}"
                    )


def _is(file: Any, op: Any, code: int) -> bool:
    return op is not None and flatbuffer.builtin_code(file, op) == code


def check_runs(sparse: bytes, dense: bytes, function: str) -> None:
    """Runs every signature of two files under the default interpreter (with XNNPACK) on the same random inputs.

    Raises:
        ValueError: a file does not load or run, or an output is not the dense file's.
    """
    wanted = _outputs(
        dense, f"{function}: expected a model that runs on random inputs, to compare the sparse file with"
    )
    found = _outputs(sparse, f"{function}: expected a file with TFLite's sparse tensors that runs; {_ADVICE}")
    for key, want in wanted.items():
        got = found[key]
        if got.dtype.kind != "f":
            same = np.array_equal(got, want)
        else:
            finite = np.abs(want[np.isfinite(want)])
            same = got.shape == want.shape and np.allclose(
                got, want, rtol=0, atol=_TOLERANCE * finite.max(initial=0), equal_nan=True
            )
        if not same:
            raise ValueError(
                f"{function}: expected the outputs of the dense file from the sparse one, and {key[1]!r} of signature "
                f"{key[0]!r} differs; {_ADVICE}"
            )


def _outputs(data: bytes, problem: str) -> dict[tuple[str, str], np.ndarray]:
    """(signature, output) -> values for seeded random inputs."""
    outputs = {}
    try:
        with converter.quiet():
            interpreter = runtime.runtime_module().Interpreter(model_content=data)
            for key in interpreter.get_signature_list():
                runner, rng = interpreter.get_signature_runner(key), np.random.default_rng(0)
                details = runner.get_input_details()
                inputs = {name: _random(details[name], rng) for name in sorted(details)}
                outputs.update({(key, name): values for name, values in runner(**inputs).items()})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{problem}; the runtime said: {str(error)[:300]}") from error
    return outputs


def _random(detail: Any, rng: np.random.Generator) -> np.ndarray:
    """Standard normal floats; zeros and ones as integers, which every table has."""
    signature = detail.get("shape_signature", detail["shape"])
    shape = [size if size > 0 else (1 if axis == 0 else _UNKNOWN_SIZE) for axis, size in enumerate(signature)]
    if np.dtype(detail["dtype"]).kind == "f":
        return rng.normal(size=shape).astype(detail["dtype"])
    return rng.integers(0, 2, shape).astype(detail["dtype"])
