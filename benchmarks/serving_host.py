"""The C++ host of SavedModels (custom_ops/serving_host): built on the installed TensorFlow, started, talked to."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, tensor_pb2

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "serving_host"
SIGNATURE = "serving_default"
_ANSWER = struct.Struct("<IIiq")  # custom_ops/serving_host/pipe_server.h


class HostError(RuntimeError):
    """What the host says is wrong; ``code`` is the number of the status, as in gRPC."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def build(target: str = "serving_host") -> pathlib.Path:
    """Builds the host, or ``"serving_host_with_op"``, where that was not done; takes a minute of a CPU the first time.

    Raises:
        FileNotFoundError: cmake or a C++ compiler is missing.
        RuntimeError: the compiler's errors.
    """
    cmake = shutil.which("cmake", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None:
        raise FileNotFoundError("serving_host: expected cmake on the PATH; pip install cmake")
    source = ROOT / "custom_ops" / "serving_host"
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DTENSORFLOW_FOLDER={tf.sysconfig.get_lib()}"]
    for command in (
        [cmake, "-S", str(source), "-B", str(BUILD), *options],
        [cmake, "--build", str(BUILD), "--target", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"serving_host: {' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
    return BUILD / target


def encode(inputs: Mapping[str, Any], signature: str = SIGNATURE) -> bytes:
    """A request: tensors (or TensorProtos) by the signature's names."""
    message = attr_value_pb2.NameAttrList(name=signature or SIGNATURE)  # an empty request would mean: reload
    for name, value in inputs.items():
        proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
        message.attr[name].tensor.CopyFrom(proto)
    return message.SerializeToString()


def decode(answer: bytes) -> dict[str, np.ndarray]:
    """An answer's tensors by the signature's names."""
    message = attr_value_pb2.NameAttrList.FromString(answer)
    return {name: tf.make_ndarray(value.tensor) for name, value in message.attr.items()}


class Process:
    """The host in a process of its own. Use it in a ``with`` statement, which ends it.

    Args:
        binary: what `build` returned.
        folder: with the versions, ``folder/1`` and so on; the newest is loaded.
        options: of the host, without the dashes; ``op_library=…`` for example.

    Attributes:
        loaded: ``load_ms``, ``version``, and the memory without and with the model, ``bytes_before`` and
            ``bytes_loaded``.

    Raises:
        HostError: the model was not loaded.
    """

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path, options: Sequence[str] = ()) -> None:
        command = [str(binary), str(folder), *(f"--{option}" for option in options)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
        line = self._output.readline()
        if not line:
            Process.__exit__(self)
            raise HostError(self._message)
        self.loaded: dict[str, float] = json.loads(line)

    @property
    def _input(self) -> Any:
        return self._process.stdin

    @property
    def _output(self) -> Any:
        return self._process.stdout

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self._input.close()  # the host ends with its input
        self.returncode = self._process.wait()
        self._output.close()
        self._errors.seek(0)
        self._message = self._errors.read().decode(errors="replace").strip()
        self._errors.close()

    def resident_bytes(self) -> int:
        """The memory that the process has now."""
        pages = pathlib.Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Host(Process):
    """Answers requests from any number of threads."""

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path, options: Sequence[str] = ()) -> None:
        super().__init__(binary, folder, options)
        self._lock, self._ids = threading.Lock(), itertools.count()
        self._futures: dict[int, concurrent.futures.Future[tuple[int, bytes]]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, request: bytes) -> concurrent.futures.Future[tuple[int, bytes]]:
        """A request's version and answer, once it is there. An empty one: serve the newest version from now on."""
        future: concurrent.futures.Future[tuple[int, bytes]] = concurrent.futures.Future()
        with self._lock:
            number = next(self._ids) % 2**32
            self._futures[number] = future
            self._input.write(struct.pack("<II", len(request), number) + request)
            self._input.flush()
        return future

    def predict(self, inputs: Mapping[str, Any], signature: str = SIGNATURE) -> dict[str, np.ndarray]:
        """Runs a signature; names -> arrays, in and out."""
        return decode(self.send(encode(inputs, signature)).result()[1])

    def reload(self) -> int:
        """Serves the newest version, which is returned."""
        return self.send(b"").result()[0]

    def _read(self) -> None:
        while len(header := self._output.read(_ANSWER.size)) == _ANSWER.size:
            size, number, code, version = _ANSWER.unpack(header)
            body = self._output.read(size)
            future = self._futures.pop(number)
            if code:
                future.set_exception(HostError(body.decode(errors="replace"), code))
            else:
                future.set_result((version, body))
        for future in self._futures.values():
            future.set_exception(HostError("serving_host: the process has ended"))

    def __exit__(self, *exception: object) -> None:
        self._input.close()
        self._reader.join()
        super().__exit__()


class LoadTest(Process):
    """Sends one request again and again, from threads within the host.

    Args:
        binary: what `build` returned.
        folder: with the versions.
        request: by `encode`.
        scratch: a folder for the request and the answers.
        options: of the host.
    """

    def __init__(
        self,
        binary: pathlib.Path,
        folder: pathlib.Path,
        *,
        request: bytes,
        scratch: pathlib.Path,
        options: Sequence[str] = (),
    ) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._answers = scratch / "answer"
        (scratch / "request").write_bytes(request)
        more = [f"load_test={scratch / 'request'}", f"responses={self._answers}"]
        super().__init__(binary, folder, [*options, *more])

    def run(self, *, threads: int, requests: int, seconds: float = 0, reload_ms: int = 0) -> dict[str, Any]:
        """Runs until each thread sent its requests, or for so many seconds; 0 means no end by time, and no reloads.

        Returns:
            Sums over all runs: ``requests``, ``errors``, ``first_error``, ``reloads``, ``versions`` (that answered),
            ``seconds``, ``p50_ms``, ``p99_ms`` of a request; and ``resident_bytes`` now.
        """
        self._input.write(f"{threads} {requests} {seconds} {reload_ms}\n".encode())
        self._input.flush()
        line = self._output.readline()
        if not line:
            Process.__exit__(self)
            raise HostError(f"serving_host: ended with {self.returncode}: {self._message}")
        result: dict[str, Any] = json.loads(line)
        return result

    def answer(self, version: int) -> dict[str, np.ndarray]:
        """What every request to a version was answered."""
        return decode(self._answers.with_name(f"{self._answers.name}.{version}").read_bytes())
