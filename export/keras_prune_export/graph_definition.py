"""A SavedModel's graph as small as loaders allow: what no endpoint needs, and long names, are left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

# Names in a SavedModel: our asset, the endpoint that servers call, and what they run once, at load.
ASSET = "weights.bin"
SIGNATURE, INITIALIZER = "serving_default", "__saved_model_init_op"

# Attributes that describe how the graph was made. Loaders infer shapes again, and older ones refuse unknown attributes.
_DESCRIPTIONS = (
    "_class",
    "_collective_manager_ids",
    "_construction_context",
    "_has_manual_control_dependencies",
    "_input_shapes",
    "_output_shapes",
    "_user_specified_name",
    "config_proto",
    "debug_name",
)


def shrink(graph: Any, roots: Sequence[str]) -> dict[str, str]:
    """Shrinks a graph in place, without a change to what it computes.

    Args:
        graph: ``GraphDef``.
        roots: names of the nodes that are fetched or fed.

    Returns:
        Old name -> new name of each node that is left.
    """
    _prune_nodes(graph, roots)
    _prune_functions(graph)
    for body in _bodies(graph):
        _strip(body)
    for function in graph.library.function:
        _strip_function(function)
    _rename_functions(graph)
    for function in graph.library.function:
        _rename_in_function(function)
    names = {node.name: new for node, new in zip(graph.node, _names("n"), strict=False)}
    for node in graph.node:
        node.name = names[node.name]
        _set_inputs(node, lambda name: names[name])
    return names


def _names(letter: str) -> Iterator[str]:
    """Short names: a letter, which a function's arguments need in lower case, and a number."""
    return (f"{letter}{number:x}" for number in itertools.count())


def _prune_nodes(graph: Any, roots: Sequence[str]) -> None:
    """Keeps what the roots need, in the order in which they lead to it: the same for each export."""
    nodes = {node.name: node for node in graph.node}
    order = _reachable(roots, lambda name: [_node_of(text) for text in nodes[name].input])
    kept = [nodes[name] for name in order]
    del graph.node[:]
    graph.node.extend(kept)


def _reachable(roots: Iterable[str], following: Callable[[str], Iterable[str]]) -> list[str]:
    found: dict[str, None] = {}
    waiting = [*roots][::-1]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += [*following(name)][::-1]
    return list(found)


def _node_of(text: str) -> str:
    return text.removeprefix("^").partition(":")[0]


def _prune_functions(graph: Any) -> None:
    functions = {function.signature.name: function for function in graph.library.function}
    order = _reachable(_called(graph.node, functions), lambda name: _called(functions[name].node_def, functions))
    kept = [functions[name] for name in order]
    gradients = [entry for entry in graph.library.gradient if {entry.function_name, entry.gradient_func} <= {*order}]
    graph.library.Clear()
    graph.library.function.extend(kept)
    graph.library.gradient.extend(gradients)


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if node.op in functions:
            yield node.op
        for reference in _references(node.attr):
            if reference.name in functions:
                yield reference.name


def _references(attributes: Mapping[str, Any]) -> Iterator[Any]:
    """Functions that attributes name, and those in attributes of these."""
    for _, value in sorted(attributes.items()):
        kind = value.WhichOneof("value")
        found = [value.func] if kind == "func" else list(value.list.func) if kind == "list" else []
        for reference in found:
            yield reference
            yield from _references(reference.attr)


def _bodies(graph: Any) -> list[Any]:
    return [graph.node, *(function.node_def for function in graph.library.function)]


def _strip(nodes: Iterable[Any]) -> None:
    for node in nodes:
        node.ClearField("experimental_debug_info")
        node.ClearField("experimental_type")
        for name in _DESCRIPTIONS:
            node.attr.pop(name, None)


def _strip_function(function: Any) -> None:
    function.ClearField("arg_attr")
    for name in _DESCRIPTIONS:
        function.attr.pop(name, None)
    for argument in [*function.signature.input_arg, *function.signature.output_arg]:
        for field in ("description", "handle_data", "experimental_full_type"):
            argument.ClearField(field)


def _rename_functions(graph: Any) -> None:
    names = {function.signature.name: new for function, new in zip(graph.library.function, _names("f"), strict=False)}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    for entry in graph.library.gradient:
        entry.function_name, entry.gradient_func = names[entry.function_name], names[entry.gradient_func]
    for node in itertools.chain(*_bodies(graph)):
        node.op = names.get(node.op, node.op)
        for reference in _references(node.attr):
            reference.name = names.get(reference.name, reference.name)


def _rename_in_function(function: Any) -> None:
    """Nodes and arguments; results keep their names, which callers may use."""
    arguments = {arg.name: new for arg, new in zip(function.signature.input_arg, _names("a"), strict=False)}
    nodes = {node.name: new for node, new in zip(function.node_def, _names("n"), strict=False)}
    names = nodes | arguments
    for argument in function.signature.input_arg:
        argument.name = names[argument.name]
    for node in function.node_def:
        node.name = names[node.name]
        _set_inputs(node, lambda name: names[name])
    for key, value in dict(function.ret).items():
        function.ret[key] = _renamed(value, lambda name: names[name])
    for key, value in dict(function.control_ret).items():
        function.control_ret[key] = names[value]


def _set_inputs(node: Any, rename: Callable[[str], str]) -> None:
    renamed = [_renamed(text, rename) for text in node.input]
    del node.input[:]
    node.input.extend(renamed)


def _renamed(text: str, rename: Callable[[str], str]) -> str:
    control = "^" if text.startswith("^") else ""
    name, colon, port = text.removeprefix("^").partition(":")
    return f"{control}{rename(name)}{colon}{port}"
