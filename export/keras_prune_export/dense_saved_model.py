"""Keras 3 model -> the dense SavedModel that Keras makes, taken apart: graph, variables, assets."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_prune_export import converter
from keras_prune_export.graph_definition import SIGNATURE


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable that the endpoint uses.

    Attributes:
        node: name of the graph's node that makes its handle.
        values: its values, read when called: all variables at once may not fit in memory twice.
        index: its place in the model's ``variables``; None for one that Keras does not know.
    """

    node: str
    values: Callable[[], np.ndarray]
    index: int | None


@dataclasses.dataclass(frozen=True)
class DenseSavedModel:
    """What Keras exported.

    Attributes:
        meta_graph: ``MetaGraphDef``.
        variables: those of the endpoint "serving_default".
        assets: name -> path of each file that the graph reads.
    """

    meta_graph: Any
    variables: list[Variable]
    assets: dict[str, pathlib.Path]


def export(model: Any, folder: str) -> DenseSavedModel:
    """Exports a model as Keras does.

    Args:
        model: a built Keras 3 model.
        folder: where to; it must stay as long as the result is used.

    Returns:
        The parts.

    Raises:
        ValueError: Keras or TensorFlow refused the model.
    """
    try:
        with converter.quiet():
            model.export(folder)
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        called = "; call the model on a batch first" if "called" in first else ""
        raise ValueError(
            f"export_saved_model: Keras cannot export the model {model.name!r}: {first}{called}"
        ) from error
    return read(pathlib.Path(folder))


def read(folder: pathlib.Path) -> DenseSavedModel:
    """Takes a SavedModel apart that `export` made."""
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (meta_graph,) = saved.meta_graphs
    assets = {asset.filename: folder / "assets" / asset.filename for asset in meta_graph.asset_file_def}
    return DenseSavedModel(meta_graph, _variables(folder, meta_graph), assets)


def _variables(folder: pathlib.Path, meta_graph: Any) -> list[Variable]:
    """The handles that the endpoint's function is called with; the object graph says what each is."""
    import tensorflow as tf  # noqa: PLC0415

    objects = meta_graph.object_graph_def
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    keys = _checkpoint_keys(objects, reader)
    known = {child.node_id: int(child.local_name) for child in objects.nodes[_child(objects, "variables")].children}
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    (output, *_) = meta_graph.signature_def[SIGNATURE].outputs.values()
    call = nodes[output.name.partition(":")[0]]
    bound = objects.concrete_functions[call.attr["f"].func.name].bound_inputs
    handles = call.input[len(call.input) - len(bound) :]
    return [
        Variable(handle, functools.partial(reader.get_tensor, keys[number]), known.get(number))
        for handle, number in zip(handles, bound, strict=True)
        if nodes[handle].op == "VarHandleOp"
    ]


def _child(objects: Any, name: str) -> int:
    return next(child.node_id for child in objects.nodes[0].children if child.local_name == name)


def _checkpoint_keys(objects: Any, reader: Any) -> dict[int, str]:
    """Object -> its key in the checkpoint, which has the same objects under the same names from the root on."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2  # noqa: PLC0415

    stored = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    found, waiting, keys = {0: 0}, [0], {}
    while waiting:
        number = waiting.pop()
        there = {child.local_name: child.node_id for child in stored.nodes[found[number]].children}
        for attribute in stored.nodes[found[number]].attributes:
            keys[number] = attribute.checkpoint_key
        for child in objects.nodes[number].children:
            if child.node_id not in found and child.local_name in there:
                found[child.node_id] = there[child.local_name]
                waiting.append(child.node_id)
    return keys
