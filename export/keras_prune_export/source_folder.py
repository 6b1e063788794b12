"""The folder of a SavedModel as what is exported: is it one, and what are its signatures."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from keras_prune_export.graph_definition import ASSET, INITIALIZER

_INTERNAL = (INITIALIZER, "__saved_model_train_op")  # signatures that are no endpoints
_KERAS_TWIN = "serve"  # Keras' export() saves it again as "serving_default"
_OURS = (ASSET, f"keras_prune_{ASSET}")


@dataclasses.dataclass(frozen=True)
class SourceFolder:
    """A SavedModel.

    Attributes:
        path: its folder.
        signatures: name -> name of each input -> its dtype as NumPy calls it ("float32"). Where Keras' ``export`` saved
            "serve" and again "serving_default", the latter only.
    """

    path: pathlib.Path
    signatures: dict[str, dict[str, str]]


def is_path(source: Any) -> bool:
    """Whether what was passed is meant as a SavedModel's folder, not as a model."""
    return isinstance(source, str | os.PathLike)


def read(path: str | os.PathLike[str], name: str) -> SourceFolder:
    """Checks a folder before TensorFlow loads it.

    Args:
        path: of the folder.
        name: of the public function, for errors.

    Returns:
        What its SavedModel says about itself.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: no SavedModel, a damaged one, one that `export_saved_model` packed, or one without signatures.
    """
    folder = pathlib.Path(path)
    file = folder / "saved_model.pb"
    if not folder.exists():
        raise FileNotFoundError(
            f"{name}: expected a Keras model or the folder of a SavedModel, and there is nothing at {folder}; check "
            "the path"
        )
    if not file.is_file():
        what = "a file" if folder.is_file() else "a folder without saved_model.pb"
        raise ValueError(
            f"{name}: expected a Keras model or the folder of a SavedModel, got {folder}, {what}; load .keras and .h5 "
            "files with keras.saving.load_model, and pack .tflite files with keras_prune.pack_tflite"
        )
    meta_graph = _meta_graph(file, name)
    assets = {asset.filename for asset in meta_graph.asset_file_def}
    if assets & set(_OURS) and not meta_graph.HasField("object_graph_def"):
        raise ValueError(
            f"{name}: expected a SavedModel with ordinary weights, and export_saved_model packed those of {folder}; "
            "export the model that it was made of"
        )
    found = {key: _inputs(s) for key, s in sorted(meta_graph.signature_def.items()) if key not in _INTERNAL}
    if not found:
        raise ValueError(
            f"{name}: expected a SavedModel with a signature, and {folder} has none; save it with model.export(), or "
            "with tf.saved_model.save(..., signatures=...)"
        )
    if found.keys() >= {"serving_default", _KERAS_TWIN}:
        found.pop(_KERAS_TWIN)
    return SourceFolder(folder, found)


def without_twin(folder: SourceFolder, path: str) -> str:
    """A folder with all the signatures that is not taken for one of Keras' ``export``.

    Of a SavedModel with a function "serve" the converter takes "serving_default" only, whatever else there is.

    Args:
        folder: what was read.
        path: an empty folder, for the SavedModel without that name.

    Returns:
        The path of the one to be converted: the old folder where nothing would be lost.
    """
    import tensorflow as tf  # noqa: PLC0415

    if folder.signatures.keys() <= {"serving_default"}:
        return str(folder.path)
    loaded = tf.saved_model.load(str(folder.path))
    if len(loaded.signatures) < 2 or not hasattr(loaded, _KERAS_TWIN):
        return str(folder.path)
    holder = tf.Module()
    holder.source = loaded
    tf.saved_model.save(holder, path, signatures={key: loaded.signatures[key] for key in folder.signatures})
    return path


def _meta_graph(file: pathlib.Path, name: str) -> Any:
    """The part for serving, which is the one that the converter takes."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{name}: expected a SavedModel, and {file} is damaged ({error}); export it again") from error
    for meta_graph in saved.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    raise ValueError(
        f"{name}: expected a SavedModel with a graph for serving (tag 'serve'), and {file.parent} has none; save it "
        "with model.export()"
    )


def _inputs(signature: Any) -> dict[str, str]:
    import tensorflow as tf  # noqa: PLC0415

    return {name: tf.dtypes.as_dtype(info.dtype).name for name, info in sorted(signature.inputs.items())}
