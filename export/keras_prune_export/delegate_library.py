"""The delegate for another kind of machine: the package's own, or built here by a cross compiler."""

from __future__ import annotations

import dataclasses
import pathlib
import platform
import shutil
import subprocess
import sys

from keras_prune import native

_NAME = "libkeras_prune_delegate.so"
_PACKAGE = pathlib.Path(native.__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class DeviceTarget:
    """A kind of machine that a delegate is built for.

    Attributes:
        name: as users say it.
        machines: what ``platform.machine()`` says there.
        elf: class (1: 32 bits, 2: 64) and machine number in the head of a shared library, of the System V ABI.
        compiler: the cross compiler's command.
        package: of Debian and Ubuntu, with the compiler in it.
    """

    name: str
    machines: tuple[str, ...]
    elf: tuple[int, int]
    compiler: str
    package: str

    @property
    def toolchain(self) -> str:
        """The name of the file for CMake in custom_ops/toolchains."""
        return f"{self.compiler.removesuffix('-g++')}.cmake"

    def folder(self) -> pathlib.Path:
        """Where the checkout's libraries for it are built."""
        return _PACKAGE.parent / "build" / self.name


TARGETS = {
    target.name: target
    for target in (
        DeviceTarget("linux-x86_64", ("x86_64", "amd64"), (2, 62), "x86_64-linux-gnu-g++", "g++-x86-64-linux-gnu"),
        DeviceTarget("linux-aarch64", ("aarch64", "arm64"), (2, 183), "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
    )
}


def target_named(name: str) -> DeviceTarget:
    """The target of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]


def delegate_for(target: DeviceTarget) -> bytes:
    """The delegate for a target.

    This machine's own if the target is its kind, else the one in the package's ``_native/<target>/``, else built by the
    target's cross compiler from the checkout that the package is in.

    Args:
        target: one of ``TARGETS``.

    Returns:
        The bytes of the shared library.

    Raises:
        FileNotFoundError: there is none, and what builds it is missing; says what to install.
        RuntimeError: the build failed.
        ValueError: the library is for another kind of machine.
    """
    carried = _PACKAGE / "_native" / target.name / _NAME
    if sys.platform == "linux" and platform.machine().lower() in target.machines:
        path = native.delegate_path()
    elif carried.is_file():
        path = carried
    else:
        path = _build(target)
    data = path.read_bytes()
    _check_elf(path, data, target)
    return data


def _check_elf(path: pathlib.Path, data: bytes, target: DeviceTarget) -> None:
    found = (data[4], int.from_bytes(data[18:20], "little")) if data[:4] == b"\x7fELF" and len(data) >= 20 else None
    if found != target.elf:
        raise ValueError(
            f"{path}: expected a shared library for {target.name} (ELF class and machine {target.elf}), got "
            f"{found or 'no ELF file'}; remove it and build again"
        )


def _build(target: DeviceTarget) -> pathlib.Path:
    """Builds in the checkout's build folder; what did not change is not compiled again."""
    source = _PACKAGE.parent / "custom_ops"
    if not (source / "CMakeLists.txt").is_file():
        raise FileNotFoundError(
            f"{target.name}: this installation of keras_prune holds no delegate for it, and no sources to build one "
            "from; run the command in a checkout of keras_prune (pip install -e .), or on the device itself"
        )
    cmake = tool("cmake")
    if cmake is None or shutil.which(target.compiler) is None:
        missing = "cmake" if cmake is None else target.compiler
        raise FileNotFoundError(
            f"{target.name}: expected {missing} on the PATH, to build the delegate; install it: "
            f"{'pip install cmake ninja' if cmake is None else f'apt-get install {target.package}'}"
        )
    folder = target.folder()
    ninja = tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={source / 'toolchains' / target.toolchain}"
    release = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_SHARED_LINKER_FLAGS=-s"]
    _run([cmake, "-S", str(source), "-B", str(folder), *generator, toolchain, *release])
    _run([cmake, "--build", str(folder), "--target", "keras_prune_delegate", "--parallel", "2"])
    return folder / _NAME


def tool(name: str) -> str | None:
    """A command on the PATH, or of this Python's environment."""
    beside = pathlib.Path(sys.executable).with_name(name)
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(command)} failed with code {result.returncode}:\n{tail}")
