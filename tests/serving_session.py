"""SavedModels through TensorFlow's C API: its ``TF_LoadSessionFromSavedModel`` is the loader that servers use."""

from __future__ import annotations

import ctypes
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

SIGNATURE = "serving_default"
_POINTER = ctypes.c_void_p


class _Output(ctypes.Structure):
    _fields_ = (("operation", _POINTER), ("index", ctypes.c_int))


def _library():
    library = ctypes.CDLL(str(pathlib.Path(tf.__file__).with_name("libtensorflow_cc.so.2")))
    for (
        name
    ) in "NewStatus NewGraph NewSessionOptions LoadSessionFromSavedModel GraphOperationByName AllocateTensor".split():
        getattr(library, f"TF_{name}").restype = _POINTER
    library.TF_TensorData.restype = _POINTER
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_Message.restype = ctypes.c_char_p
    return library


def signature(path):
    """The endpoint's names, types and shapes."""
    data = (pathlib.Path(path) / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(data).meta_graphs[0].signature_def[SIGNATURE]


class Session:
    """A SavedModel in a C++ session.

    Args:
        path: the folder.

    Raises:
        RuntimeError: the loader's error.
    """

    def __init__(self, path):
        self._lib, self._signature = _library(), signature(path)
        self._status, self._graph = _POINTER(self._lib.TF_NewStatus()), _POINTER(self._lib.TF_NewGraph())
        options = _POINTER(self._lib.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        folder = str(path).encode()
        load = self._lib.TF_LoadSessionFromSavedModel
        self._session = _POINTER(load(options, None, folder, tags, 1, self._graph, None, self._status))
        self._check()

    def _check(self):
        if self._lib.TF_GetCode(self._status):
            raise RuntimeError(self._lib.TF_Message(self._status).decode())

    def _outputs(self, infos):
        result = (_Output * len(infos))()
        for output, info in zip(result, infos, strict=True):
            name, _, index = info.name.partition(":")
            output.operation = self._lib.TF_GraphOperationByName(self._graph, name.encode())
            output.index = int(index)
        return result

    def _tensor(self, values):
        dims = (ctypes.c_int64 * values.ndim)(*values.shape)
        kind = tf.as_dtype(values.dtype).as_datatype_enum
        tensor = self._lib.TF_AllocateTensor(kind, dims, values.ndim, ctypes.c_size_t(values.nbytes))
        ctypes.memmove(
            self._lib.TF_TensorData(_POINTER(tensor)), np.ascontiguousarray(values).ctypes.data, values.nbytes
        )
        return tensor

    def _array(self, tensor):
        shape = [self._lib.TF_Dim(tensor, axis) for axis in range(self._lib.TF_NumDims(tensor))]
        dtype = tf.as_dtype(self._lib.TF_TensorType(tensor)).as_numpy_dtype
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self._lib.TF_TensorData(tensor), size), dtype).reshape(shape)

    def __call__(self, inputs):
        """Runs "serving_default": names -> arrays, in and out."""
        given, wanted = dict(self._signature.inputs), dict(self._signature.outputs)
        feeds, fetches = self._outputs(list(given.values())), self._outputs(list(wanted.values()))
        values = (_POINTER * len(given))(*[self._tensor(np.asarray(inputs[name])) for name in given])
        results = (_POINTER * len(wanted))()
        run = self._lib.TF_SessionRun
        ends = (None, 0, None, self._status)
        run(self._session, None, feeds, values, len(given), fetches, results, len(wanted), *ends)
        self._check()
        return {name: self._array(_POINTER(result)) for name, result in zip(wanted, results, strict=True)}
