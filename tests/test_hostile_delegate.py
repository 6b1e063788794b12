"""The delegate in the runtime: every flip and every truncation of our bytes in a file is an error when it is loaded."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from packed_models import one_layer, options_bytes  # type: ignore[import-not-found]
from unpack_models import constants_model, pack, random_weights, unpack_options  # type: ignore[import-not-found]

from keras_prune import sparse_format, tensor_format
from keras_prune_export import runtime

CODES = np.array([[0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 2, 1]], np.uint8)
CODEBOOK = np.array([0, 0.5, -1, 2], np.float32)
X = np.arange(4, dtype=np.float32)[None]
INT8 = random_weights((3, 8), density=0.3, dtype="int8")
PACKED = {
    "FullyConnected, version 1": sparse_format.encode(CODES, CODEBOOK),
    "FullyConnected, version 2": tensor_format.encode_codes(CODES, CODEBOOK),
    "Unpack": pack(INT8),
}


def file_of(kind, packed=None, options=None):
    """A file with one packed operator."""
    packed = PACKED[kind] if packed is None else packed
    if kind == "Unpack":
        data = constants_model([INT8], packed=[packed])
        return data if options is None else data.replace(unpack_options(), options)
    return one_layer(packed, None, [1, 4], rows=3, options=options)


def flips(data):
    found = []
    for bit in range(8 * len(data)):
        at = bit // 8
        found.append(data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :])
    return found


def loads(data):
    """Whether the runtime takes a file; ours must refuse with their own message."""
    try:
        runtime.load_interpreter(data)
    except ValueError as error:
        assert "KerasPrune" in str(error)  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize("kind", PACKED)
def test_the_undamaged_file_gives_its_result(kind):
    interpreter = runtime.load_interpreter(file_of(kind))
    if kind != "Unpack":
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(got, INT8 if kind == "Unpack" else X @ CODEBOOK[CODES].T)


@pytest.mark.parametrize("kind", PACKED)
def test_every_flip_of_the_packed_bytes_in_the_file(kind):
    """In place: nothing of the file around them changes."""
    data, packed = file_of(kind), PACKED[kind]
    assert data.count(packed) == 1
    damaged = [data.replace(packed, changed) for changed in flips(packed)]
    assert len(damaged) == 8 * len(packed)
    assert [number for number, changed in enumerate(damaged) if loads(changed)] == []


@pytest.mark.parametrize("kind", PACKED)
def test_every_truncation_of_the_packed_bytes(kind):
    packed = PACKED[kind]
    assert [n for n in range(1, len(packed)) if loads(file_of(kind, packed[:n]))] == []
    assert not loads(file_of(kind, packed + b"\0"))


@pytest.mark.parametrize("kind", PACKED)
def test_every_flip_and_truncation_of_the_options(kind):
    options = unpack_options() if kind == "Unpack" else options_bytes()
    data = file_of(kind)
    assert data.count(options) == 1
    assert [number for number, changed in enumerate(flips(options)) if loads(data.replace(options, changed))] == []
    length = data.index(options) - 4  # of the vector
    for size in range(len(options)):
        assert not loads(data[:length] + size.to_bytes(4, "little") + data[length + 4 :]), size


@pytest.mark.parametrize("kind", PACKED)
def test_every_length_that_the_file_claims_of_the_packed_bytes(kind):
    """As a truncation in place: the tensor's shape stays."""
    data, packed = file_of(kind), PACKED[kind]
    length = data.index(packed) - 4
    assert data[length : length + 4] == len(packed).to_bytes(4, "little")
    for size in [*range(len(packed)), len(packed) + 1]:
        with pytest.raises(ValueError, match="the runtime refused the model"):
            runtime.load_interpreter(data[:length] + size.to_bytes(4, "little") + data[length + 4 :])


_WHOLE_FILES = """
import collections, os, resource, sys
import numpy as np
import test_hostile_delegate as made
from keras_prune_export import runtime
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
def outcome(data, plain):
    child = os.fork()
    if child == 0:
        try:
            if plain:
                interpreter = runtime.runtime_module().Interpreter(model_content=data)
                interpreter.allocate_tensors()
            else:
                interpreter = runtime.load_interpreter(data)
                for detail in interpreter.get_input_details():
                    interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
                interpreter.invoke()
        except (ValueError, RuntimeError, MemoryError):
            os._exit(1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else ("taken", "refused", "another error")[os.WEXITSTATUS(status)]
found = collections.Counter()
for kind, seed in zip(made.PACKED, range(3)):
    data, rng = made.file_of(kind), np.random.default_rng(seed)
    for number in range(int(sys.argv[1])):
        changed = bytearray(data)
        for position in rng.integers(8, len(data), rng.integers(1, 3)):
            changed[position] ^= 1 << rng.integers(8)
        result = outcome(bytes(changed), plain=False)
        if result == "killed" and outcome(bytes(changed), plain=True) == "killed":
            result = "kills the runtime without us, too"
        found[result] += 1
print(dict(found))
"""


def whole_files(count):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", _WHOLE_FILES, str(count)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout.splitlines()[-1])


def test_damage_anywhere_in_the_file():
    """The runtime itself may die of a damaged file, without a packed operator as well; we may not."""
    found = whole_files(60)
    assert found["taken"] + found["refused"] + found.get("kills the runtime without us, too", 0) == 180


@pytest.mark.slow
def test_more_damage_anywhere_in_the_file():
    found = whole_files(2000)
    assert found["taken"] + found["refused"] + found.get("kills the runtime without us, too", 0) == 6000
