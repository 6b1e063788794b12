"""The packed SavedModel's graph: the endpoint as Keras made it, and an initialisation that expands the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from keras_prune_export import expansion, graph_definition
from keras_prune_export.dense_saved_model import DenseSavedModel
from keras_prune_export.graph_definition import ASSET, INITIALIZER, SIGNATURE
from keras_prune_export.targets.saved_model import Stored

PACKED_OP = "KerasPruneRelativeIndexMatmul"  # keras_prune.ops.OP_NAME, without an import of TensorFlow


@dataclasses.dataclass(frozen=True)
class Expanded:
    """One stream of the asset, and the variables whose values it holds.

    Attributes:
        nodes: names of the variables' handles in the graph.
        stored: their values, one after another.
        shapes: of the variables.
    """

    nodes: tuple[str, ...]
    stored: Stored
    shapes: tuple[tuple[int, ...], ...]


def check_operators(graph: Any, name: str, *, target: str = "stock") -> None:
    """Refuses a model with operators that the target does not have.

    Args:
        graph: ``GraphDef`` of the model.
        name: of the model.
        target: "stock", or "packed" for servers with our op.

    Raises:
        ValueError: names them.
    """
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    known = {PACKED_OP} if target == "packed" else set()
    ours = {node.op for node in nodes if node.op.startswith("KerasPrune")} - known
    found = sorted(ours | {node.op for node in nodes if node.op.endswith("PyFunc")})
    if found:
        raise ValueError(
            f"export_saved_model: expected operators of stock TensorFlow, and {name!r} uses {', '.join(found)}; export "
            "the model as it was before PackedDense.from_dense, or with target='packed' for servers that have our op, "
            "and express py_function in TensorFlow"
        )


def write(folder: pathlib.Path, dense: DenseSavedModel, entries: Sequence[Expanded]) -> None:
    """Writes the SavedModel.

    Args:
        folder: an empty folder.
        dense: the model as Keras exported it.
        entries: the values of every variable.
    """
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415

    data = b"".join(entry.stored.data for entry in entries)
    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[_meta_graph(dense, entries, data)])
    (folder / "assets").mkdir()
    for name, source in dense.assets.items():
        shutil.copyfile(source, folder / "assets" / name)
    (folder / "assets" / _asset_name(dense)).write_bytes(data)
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString(deterministic=True))


def _asset_name(dense: DenseSavedModel) -> str:
    return ASSET if ASSET not in dense.assets else f"keras_prune_{ASSET}"


def _meta_graph(dense: DenseSavedModel, entries: Sequence[Expanded], data: bytes) -> Any:
    """Only what loaders need: the object graph says the same again, and without it Python loads as from TF 1."""
    import tensorflow as tf  # noqa: PLC0415

    old = dense.meta_graph
    built = _build(dense, entries, data)
    with built.graph.as_default():  # TensorFlow exports no graph in eager mode
        exported = tf.compat.v1.train.export_meta_graph(graph=built.graph, strip_default_attrs=True)
    new = tf.compat.v1.MetaGraphDef(graph_def=exported.graph_def)
    new.meta_info_def.tags.append(tf.saved_model.SERVING)
    new.meta_info_def.tensorflow_version = old.meta_info_def.tensorflow_version
    new.meta_info_def.stripped_default_attrs = True
    new.signature_def[SIGNATURE].CopyFrom(old.signature_def[SIGNATURE])
    new.signature_def[INITIALIZER].outputs[INITIALIZER].name = built.initializer
    new.asset_file_def.extend(old.asset_file_def)
    new.asset_file_def.add(filename=_asset_name(dense)).tensor_info.name = built.file
    names = _shorten(new, built.variables)
    _name_variables(new.graph_def, hashlib.blake2b(data, digest_size=6).hexdigest())
    variables = [[_renamed(name, names) for name in variable] for variable in built.variables]
    new.collection_def["local_variables"].bytes_list.value.extend(_definition(*variable) for variable in variables)
    return new


def _definition(handle: str, assign: str, read: str) -> bytes:
    """With it Python makes a variable of the handle, and frees it with the model; C++ frees all with the session."""
    from tensorflow.core.framework import variable_pb2  # noqa: PLC0415

    definition = variable_pb2.VariableDef(variable_name=handle, initializer_name=assign, snapshot_name=read)
    definition.is_resource = True
    return definition.SerializeToString()


def _name_variables(graph: Any, unique: str) -> None:
    """Names that no other model in the same process has, which would share the variables."""
    handles = [node for node in graph.node if node.op == "VarHandleOp"]
    for number, node in enumerate(handles):
        node.attr["shared_name"].s = f"{unique}_{number}".encode()


def _shorten(meta_graph: Any, variables: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """Shrinks the graph and gives tensors their new names."""
    infos = [asset.tensor_info for asset in meta_graph.asset_file_def]
    for _, signature in sorted(meta_graph.signature_def.items()):
        infos += [info for _, info in [*sorted(signature.inputs.items()), *sorted(signature.outputs.items())]]
    needed = [info.name for info in infos] + [name for variable in variables for name in variable]
    names = graph_definition.shrink(meta_graph.graph_def, [name.partition(":")[0] for name in needed])
    for info in infos:
        info.name = _renamed(info.name, names)
    return names


def _renamed(tensor: str, names: dict[str, str]) -> str:
    name, colon, port = tensor.partition(":")
    return f"{names[name]}{colon}{port}"


@dataclasses.dataclass(frozen=True)
class _Built:
    """A graph with its initialisation.

    Attributes:
        graph: ``tf.Graph``.
        file: the tensor of the asset's path.
        initializer: the node that initialises everything.
        variables: of each: its handle, the node that assigns it, and a tensor that reads it.
    """

    graph: Any
    file: str
    initializer: str
    variables: list[tuple[str, str, str]]


def _build(dense: DenseSavedModel, entries: Sequence[Expanded], data: bytes) -> _Built:
    import tensorflow as tf  # noqa: PLC0415

    checksum = expansion.checksum(data)
    before = dense.meta_graph.signature_def[INITIALIZER].outputs[INITIALIZER].name
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(dense.meta_graph.graph_def, name="")
        file = tf.constant(_asset_name(dense))
        content = expansion.checked(file, checksum)
        expanders = {kind: expansion.expander(kind) for kind in dict.fromkeys(entry.stored.kind for entry in entries)}
        done, begin, variables = [graph.get_operation_by_name(before)] if before else [], 0, []
        for entry in entries:
            with tf.control_dependencies(done):  # one after another: memory for one only, beside the variables
                values = expanders[entry.stored.kind](content, *_arguments(entry, begin))
                done = _assign(graph, entry, values)
            begin += len(entry.stored.data)
            variables += [(op.inputs[0].name, op.name, _read(op)) for op in done]
        with tf.control_dependencies(done):
            initializer = tf.no_op()
    return _Built(graph, file.name, initializer.name, variables)


def _read(assign: Any) -> str:
    import tensorflow as tf  # noqa: PLC0415

    return str(tf.raw_ops.ReadVariableOp(resource=assign.inputs[0], dtype=assign.inputs[1].dtype).name)


def _arguments(entry: Expanded, begin: int) -> tuple[Any, Any]:
    import tensorflow as tf  # noqa: PLC0415

    stored = entry.stored
    numbers = [begin, len(stored.data), stored.count, *stored.channels]
    return tf.constant(numbers, tf.int64), tf.constant(stored.shape, tf.int32, shape=[len(stored.shape)])


def _assign(graph: Any, entry: Expanded, values: Any) -> list[Any]:
    import tensorflow as tf  # noqa: PLC0415

    parts = [values]
    if entry.shapes != (entry.stored.shape,):
        sizes = [tf.TensorShape(shape).num_elements() for shape in entry.shapes]
        flat = zip(tf.split(values, sizes), entry.shapes, strict=True)
        parts = [part if len(shape) == 1 else tf.reshape(part, shape) for part, shape in flat]
    handles = [graph.get_operation_by_name(node).outputs[0] for node in entry.nodes]
    return [tf.raw_ops.AssignVariableOp(resource=h, value=v) for h, v in zip(handles, parts, strict=True)]
