"""Builds the native libraries; all metadata is in setup.cfg.

Both libraries are plain shared objects without Python in them, so one wheel serves every Python version of a platform.
The name of a kernel's file says what it is compiled for: ``<dtype>_<op>_<layout>__<isa>.cc``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
import platform
import shlex
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
OPS = pathlib.Path("custom_ops")
COMMON_FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics -ffp-contract=off "
    "-Wall -Wextra"
).split()
AVX512_FLAGS = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
X86_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512_FLAGS,
    "avx512vbmi": [*AVX512_FLAGS, "-mavx512vbmi", "-mavx512vnni"],
}
ARM_FLAGS = {"neon": [], "neondot": ["-march=armv8.2-a+dotprod"]}
ISA_FLAGS = {"x86_64": X86_FLAGS, "amd64": X86_FLAGS, "aarch64": ARM_FLAGS, "arm64": ARM_FLAGS}.get(
    platform.machine().lower(), {}
)
# Nothing but libc, so that the libraries load in any process on a Linux whose glibc is not older than the one they were
# built with. libgcc is its static part; pthread and dl are parts of libc that older glibc keeps in files of their own.
# TensorFlow's C API is looked up when the op loads. Without the names of what is not shown (-s), a tenth of the file.
LINK_FLAGS = "-nodefaultlibs -Wl,-s -Wl,--no-undefined -Wl,-z,now -Wl,--as-needed -lpthread -ldl -lc -lgcc".split()


def sources(*folders: str) -> list[str]:
    """The sources in these folders that this machine's compiler can build, and the storage format's."""
    found: list[pathlib.Path] = []
    for folder in (".", *folders):
        for path in sorted((ROOT / OPS / folder).glob("*.cc")):
            if "__" not in path.stem or path.stem.rsplit("__")[-1] in ("scalar", "reference", *ISA_FLAGS):
                found.append(path.relative_to(ROOT))
    return [str(path) for path in found]


def headers() -> list[str]:
    """All headers: a library is rebuilt when one changes."""
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / OPS).rglob("*.h"))]


class SharedLibrary(Extension):
    """A shared object without Python in it."""


class BuildNative(build_ext):
    """Compiles with the machine's C++ compiler (``CXX``, else ``c++``); nothing else is needed."""

    def get_ext_filename(self, fullname: str) -> str:
        """``keras_prune/_native/lib<name>.so``, without a Python version in it."""
        return str(pathlib.Path(*fullname.split("."))) + ".so"

    def copy_extensions_to_source(self) -> None:
        """For editable installs; the folder is not under version control."""
        (ROOT / "keras_prune" / "_native").mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def build_extension(self, ext: Extension) -> None:
        """Compiles what changed, two files at a time, and links."""
        if sys.platform != "linux":
            raise SystemExit(f"keras_prune: the native libraries are built for Linux, not yet for {sys.platform}")
        target = pathlib.Path(self.get_ext_fullpath(ext.name))
        temp = pathlib.Path(self.build_temp) / ext.name.rsplit(".", maxsplit=1)[-1]
        temp.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(lambda source: self.compile_one(source, temp), ext.sources))
        unfinished = target.with_suffix(".so.tmp")
        self.call([*compiler(), "-shared", *objects, "-o", str(unfinished), *LINK_FLAGS, *environment("LDFLAGS")])
        unfinished.replace(target)

    def compile_one(self, source: str, temp: pathlib.Path) -> str:
        """Compiles one file when it, a header or the command is not what its object was made from."""
        isa = pathlib.Path(source).stem.rsplit("__")[-1]
        flags = [*COMMON_FLAGS, *ISA_FLAGS.get(isa, []), *environment("CPPFLAGS"), *environment("CXXFLAGS")]
        command = [*compiler(), *flags, "-c", source]
        digest = hashlib.sha256(shlex.join(command).encode()).hexdigest()[:12]
        target = temp / f"{source.replace('/', '_')}.{digest}.o"
        inputs = [source, *headers()]
        if not target.exists() or target.stat().st_mtime < max((ROOT / path).stat().st_mtime for path in inputs):
            self.call([*command, "-o", str(target)])
        return str(target)

    def call(self, command: list[str]) -> None:
        """Runs a compiler command and shows it."""
        self.announce(shlex.join(command), level=2)
        try:
            subprocess.run(command, check=True, cwd=ROOT)
        except FileNotFoundError:
            raise SystemExit(f"keras_prune: no C++17 compiler named {command[0]!r}; install one or set CXX") from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"keras_prune: {shlex.join(command)} failed with code {error.returncode}") from None


class PlatformWheel(bdist_wheel):
    """Any Python 3, this platform only."""

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-<platform>``."""
        return ("py3", "none", super().get_tag()[2])


def compiler() -> list[str]:
    """The C++ compiler's command."""
    return environment("CXX") or ["c++"]


def environment(name: str) -> list[str]:
    """Words of an environment variable, as every build tool takes them."""
    return shlex.split(os.environ.get(name, ""))


setup(
    ext_modules=[
        SharedLibrary(
            "keras_prune._native.libkeras_prune_delegate",
            sources("kernels", "tflite"),
            depends=headers(),
        ),
        SharedLibrary("keras_prune._native.libkeras_prune_tf_op", sources("kernels", "tf"), depends=headers()),
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
