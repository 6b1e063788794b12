"""What Bazel links into a server is what setup.py builds: the same sources, the same flags."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPS = ROOT / "custom_ops"


class Targets(dict):
    """Bazel's language is Python's: runs a BUILD file with functions that keep what they are given."""

    def __init__(self, path, cpu):
        super().__init__()
        self._folder = path.parent
        functions = {"glob": self._glob, "select": lambda cases: cases[f"@platforms//cpu:{cpu}"]}
        ignored = dict.fromkeys(("package", "licenses"), lambda *_, **__: None)
        exec(compile(path.read_text(), path, "exec"), {"cc_library": self._library, **functions, **ignored})

    def _library(self, *, name, **arguments):
        self[name] = arguments

    def _glob(self, patterns, exclude=()):
        left_out = {path for pattern in exclude for path in self._folder.glob(pattern)}
        found = {path for pattern in patterns for path in self._folder.glob(pattern)} - left_out
        return sorted(str(path.relative_to(self._folder)) for path in found)

    def reached(self, name):
        """A target and all that it needs here."""
        arguments = self[name]
        return {name: arguments} | {
            target: values
            for dep in arguments.get("deps", ())
            if dep.startswith(":")
            for target, values in self.reached(dep[1:]).items()
        }


def setup_constants():
    """The flags in setup.py, which cannot be imported without building."""
    names = {"COMMON_FLAGS", "AVX512_FLAGS", "X86_FLAGS", "ARM_FLAGS"}
    result: dict[str, object] = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in names:
            exec(compile(ast.Module([node], []), "setup.py", "exec"), result)
    return result


@pytest.mark.parametrize(("cpu", "flags"), [("x86_64", "X86_FLAGS"), ("aarch64", "ARM_FLAGS")])
def test_bazel_builds_the_sources_and_flags_of_setup_py(cpu, flags):
    constants = setup_constants()
    isas = constants[flags]
    sources = {}
    for target in Targets(OPS / "BUILD.bazel", cpu).reached("relative_index_matmul").values():
        for source in target.get("srcs", ()):
            assert source not in sources
            sources[source] = target["copts"]
            assert target["alwayslink"]
    every = {str(path.relative_to(OPS)) for folder in (".", "kernels", "tf") for path in (OPS / folder).glob("*.cc")}
    ours = {source for source in every if isa_of(source) in {None, "scalar", "reference", *isas}}
    assert set(sources) == ours
    common = [flag for flag in constants["COMMON_FLAGS"] if flag not in {"-fPIC", "-Wall", "-Wextra"}]  # Bazel's own
    for source, given in sources.items():
        assert given == [*common, *isas.get(isa_of(source), [])]


def isa_of(source):
    found = re.search(r"__([a-z0-9]+)\.cc$", source)
    return found and found[1]


def test_the_dockerfile_names_the_target_that_is_there():
    dockerfile = (OPS / "serving_host" / "Dockerfile").read_text()
    (folder,) = set(re.findall(r"^COPY custom_ops (\S+)$", dockerfile, re.MULTILINE))
    label = f"//{folder}:relative_index_matmul"
    assert f'["{label}"]' in dockerfile
    assert f'"{label}"' in (OPS / "BUILD.bazel").read_text()
