"""LiteRT 2's CompiledModel with our delegate, through LiteRT's C interface. Needs NumPy and ai-edge-litert.

CompiledModel takes delegates as *accelerators* of its environment. The Python classes of the wheels hide what registers
one; the wheel's ``libLiteRt.so`` exports it. A C++ host does the same in the same order.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# From here on LiteRT has the functions below with these arguments; LiteRtSetDelegateFunction had others before.
OLDEST = (2, 1, 6)
_CPU = 1  # kLiteRtHwAcceleratorCpu
_ALIGNMENT = 64  # of host memory that becomes a tensor buffer
# Element types are numbered as in TFLite.
_DTYPES = {1: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8, 10: np.float16}
_MOST_DIMENSIONS = 8

_Handle = ctypes.c_void_p
_Name = ctypes.CFUNCTYPE(ctypes.c_int, _Handle, ctypes.POINTER(ctypes.c_char_p))
_Number = ctypes.CFUNCTYPE(ctypes.c_int, _Handle, ctypes.POINTER(ctypes.c_int))
_Flag = ctypes.CFUNCTYPE(ctypes.c_int, _Handle, ctypes.POINTER(ctypes.c_bool))
_Create = ctypes.CFUNCTYPE(ctypes.c_int, _Handle, _Handle, _Handle, _Handle, ctypes.POINTER(_Handle))
_Report = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_Plugin = ctypes.CFUNCTYPE(_Handle, _Handle, _Handle, ctypes.c_size_t, _Report)


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank_and_flags", ctypes.c_uint32),  # 7 bits of rank, then: has strides
        ("dimensions", ctypes.c_int32 * _MOST_DIMENSIONS),
        ("strides", ctypes.c_uint32 * _MOST_DIMENSIONS),
    )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dimensions[: self.rank_and_flags & 127])


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


class _LiteRt:
    """The C functions; those that return a status raise what it says."""

    def __init__(self, path: pathlib.Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise ValueError(f"CompiledModel: LiteRt{name} failed with status {status}; LiteRT has logged the reason")

    def handle(self, name: str, *arguments: Any) -> Any:
        """What a function makes and returns through its last argument."""
        made = _Handle()
        self(name, *arguments, ctypes.byref(made))
        return made

    def destroy(self, name: str, handle: Any) -> None:
        getattr(self._library, f"LiteRtDestroy{name}").restype = None
        getattr(self._library, f"LiteRtDestroy{name}")(handle)


def library_path() -> pathlib.Path:
    """The wheel's library with the C interface.

    Raises:
        ImportError: ai-edge-litert is not installed, or older than 2.1.6.
    """
    version = importlib.metadata.version("ai-edge-litert")
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise ImportError(
            f"CompiledModel: expected ai-edge-litert {wanted} or newer, got {version}; "
            f"`pip install 'ai-edge-litert>={wanted}'`, or take load_interpreter"
        )
    package = importlib.import_module("ai_edge_litert")
    return pathlib.Path(package.__path__[0]) / "libLiteRt.so"


class _Accelerator:
    """Our delegate as LiteRT asks for it; the callbacks must live as long as the environment."""

    def __init__(self, litert: _LiteRt, delegate: pathlib.Path) -> None:
        plugin = ctypes.CDLL(str(delegate))
        create = _Plugin(("tflite_plugin_create_delegate", plugin))
        self.messages: list[str] = []  # of the delegate, where it could not be made
        report = _Report(lambda message: self.messages.append(message.decode(errors="replace")))

        def make(_context: Any, _environment: Any, _accelerator: Any, _options: Any, wrapper: Any) -> int:
            made = create(None, None, 0, report)
            if not made:
                return 1
            litert("WrapDelegate", _Handle(made), plugin.tflite_plugin_destroy_delegate, wrapper)
            return 0

        self.plugin = plugin
        self.callbacks: dict[str, Callable[..., Any]] = {
            "SetAcceleratorGetName": _answer(_Name, b"keras_prune"),
            "SetAcceleratorGetHardwareSupport": _answer(_Number, _CPU),
            "SetIsAcceleratorDelegateResponsibleForJitCompilation": _answer(_Flag, False),
            "SetDelegateFunction": _Create(make),
        }

    def register(self, litert: _LiteRt, environment: Any) -> None:
        accelerator = litert.handle("CreateAccelerator")
        for name, callback in self.callbacks.items():
            litert(name, accelerator, callback)
        litert("RegisterAccelerator", environment, accelerator, None, None)


def _answer(kind: Any, value: Any) -> Any:
    """A callback that always says the same."""

    def callback(_accelerator: Any, out: Any) -> int:
        out[0] = value
        return 0

    return kind(callback)


class CompiledModel:
    """A packed file, or another, in LiteRT's CompiledModel on the CPU.

    LiteRT's XNNPACK sees the graph before our delegate does, so that it takes no operator whose weights are expanded
    ones: LiteRT's own kernels compute these, more slowly. Take `keras_prune.load_interpreter` for such files, and for
    those whose output shapes come out only while they run (batches of unrolled recurrent layers): LiteRT refuses these.

    Args:
        path: of a .tflite file.
        delegate: the delegate's library; None: this package's.

    Raises:
        FileNotFoundError: no such file, or the delegate was not built.
        ImportError: ai-edge-litert is not installed, or older than 2.1.6.
        ValueError: LiteRT or the delegate refused the file.

    Example:
        >>> model = CompiledModel("model.tflite")  # doctest: +SKIP
        >>> outputs = model.run({"x": x})  # doctest: +SKIP

    Attributes:
        input_names: of the first signature.
        output_names: likewise.
    """

    def __init__(self, path: str | os.PathLike[str], *, delegate: str | os.PathLike[str] | None = None) -> None:
        if delegate is None:  # else this file works alone, without its package
            delegate = importlib.import_module("keras_prune.native").delegate_path()
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"CompiledModel: expected a .tflite file at {path}, and there is none")
        self._handles: list[tuple[str, Any]] = []
        self._litert = litert = _LiteRt(library_path())
        environment = self._own("Environment", litert.handle("CreateEnvironment", 0, None))
        self._accelerator = _Accelerator(litert, pathlib.Path(delegate))
        self._accelerator.register(litert, environment)
        options = self._own("Options", litert.handle("CreateOptions"))
        litert("SetOptionsHardwareAccelerators", options, _CPU)
        model = self._own("Model", litert.handle("CreateModelFromFile", environment, os.fsencode(path)))
        signature = litert.handle("GetModelSignature", model, ctypes.c_size_t(0))
        self._inputs, self._outputs = self._tensors(signature, "Input"), self._tensors(signature, "Output")
        self.input_names, self.output_names = list(self._inputs), list(self._outputs)
        try:
            compiled = litert.handle("CreateCompiledModel", environment, model, options)
        except ValueError as error:
            raise ValueError(" ".join([str(error), *self._accelerator.messages])) from error
        self._model = self._own("CompiledModel", compiled)

    def _own(self, kind: str, handle: Any) -> Any:
        self._handles.append((kind, handle))
        return handle

    def _tensors(self, signature: Any, side: str) -> dict[str, Any]:
        """The signature's names and their tensors, in the order of the subgraph: that of the buffers of a call."""
        litert, count, name = self._litert, ctypes.c_size_t(), ctypes.c_char_p()
        litert(f"GetNumSignature{side}s", signature, ctypes.byref(count))
        names = {}
        for index in map(ctypes.c_size_t, range(count.value)):
            litert(f"GetSignature{side}Name", signature, index, ctypes.byref(name))
            names[litert.handle(f"GetSignature{side}TensorByIndex", signature, index).value] = name.value or b""
        subgraph = litert.handle("GetSignatureSubgraph", signature)
        tensors = [litert.handle(f"GetSubgraph{side}", subgraph, ctypes.c_size_t(k)) for k in range(count.value)]
        return {names[tensor.value].decode(): tensor for tensor in tensors}

    def close(self) -> None:
        """Frees everything; the model cannot run any more."""
        while self._handles:
            self._litert.destroy(*self._handles.pop())

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the first signature once.

        Args:
            inputs: an array for each of ``input_names``, of its type; their shapes are those of this call.

        Returns:
            Name -> output.

        Raises:
            KeyError: an input is missing.
            ValueError: LiteRT refused a shape or a size, or an operator failed.
        """
        litert, first = self._litert, ctypes.c_size_t(0)
        given = [np.asarray(inputs[name]) for name in self.input_names]
        for index, x in enumerate(given):
            shape = (ctypes.c_int * x.ndim)(*x.shape)
            place = (first, ctypes.c_size_t(index), shape, ctypes.c_size_t(x.ndim))
            litert("CompiledModelResizeInputTensorNonStrict", self._model, *place)
        arrays = [_aligned(x.dtype, x.shape) for x in given]
        for array, x in zip(arrays, given, strict=True):
            array[...] = x
        rows = len(given[0]) if given and given[0].ndim else 1
        rooms, sizes = self._new_outputs(rows)
        self._invoke([self._buffer(array) for array in arrays], [self._buffer(room) for room in rooms])
        results = [room if size is None else room[:size] for room, size in zip(rooms, sizes, strict=True)]
        return dict(zip(self.output_names, results, strict=True))

    def _invoke(self, inputs: list[Any], outputs: list[Any]) -> None:
        sides = [(ctypes.c_size_t(len(side)), (_Handle * len(side))(*side)) for side in (inputs, outputs)]
        try:
            self._litert("RunCompiledModel", self._model, ctypes.c_size_t(0), *sides[0], *sides[1])
        finally:
            for buffer in (*inputs, *outputs):
                self._litert.destroy("TensorBuffer", buffer)

    def _new_outputs(self, rows: int) -> tuple[list[np.ndarray], list[int | None]]:
        """Memory for each output, of the shapes that the inputs' shapes make, and how many rows of it are the output.

        LiteRT does not always know the batch that the file leaves open: behind an operator whose output's shape is
        computed, its layout has the file's, or that of an earlier call, for which there must be room even so.
        """
        layouts = (_Layout * len(self._outputs))()
        rooms: list[np.ndarray] = []
        sizes: list[int | None] = []
        first, count = ctypes.c_size_t(0), ctypes.c_size_t(len(layouts))
        self._litert("GetCompiledModelOutputTensorLayouts", self._model, first, count, layouts, True)
        for tensor, layout in zip(self._outputs.values(), layouts, strict=True):
            kind = _TensorType()
            self._litert("GetRankedTensorType", tensor, ctypes.byref(kind))
            is_open, shape = kind.layout.shape[:1] == (-1,), layout.shape
            rooms.append(_aligned(_DTYPES[kind.element], (max(rows, shape[0]), *shape[1:]) if is_open else shape))
            sizes.append(rows if is_open else None)
        return rooms, sizes

    def _buffer(self, array: np.ndarray) -> Any:
        """A tensor buffer on an array's memory."""
        kind = _TensorType()
        kind.element = next(number for number, dtype in _DTYPES.items() if dtype == array.dtype)
        kind.layout.rank_and_flags = array.ndim
        kind.layout.dimensions[: array.ndim] = array.shape
        memory = (_Handle(array.ctypes.data), ctypes.c_size_t(array.nbytes), None)
        return self._litert.handle("CreateTensorBufferFromHostMemory", ctypes.byref(kind), *memory)


def _aligned(dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """Zeros whose memory begins where LiteRT wants it."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + num_bytes].view(dtype).reshape(shape)
