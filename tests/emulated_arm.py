"""A 64-bit ARM Linux with Python and the runtimes' own wheels, emulated by qemu; nothing is installed, root not needed.

Debian's packages are downloaded by apt into a private folder and unpacked; wheels come by pip. All of it, some 60 MB to
download, is kept in ``build/emulated/``.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "emulated" / "aarch64"
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TOOLS = ("qemu-aarch64", "apt-get", "dpkg", "aarch64-linux-gnu-g++")
# Debian 12 has Python 3.11, the last that tflite-runtime has wheels for, and Raspberry Pi OS is made of it.
SOURCE = f"deb [arch=arm64 signed-by={KEYRING}] http://deb.debian.org/debian bookworm main\n"
PACKAGES = (
    "libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libcrypt1 libuuid1 "
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib"
).split()
RUNTIMES = {
    "ai-edge-litert": ("ai-edge-litert==2.3.0", "numpy==1.26.4"),
    "tflite-runtime": ("tflite-runtime==2.14.0", "numpy==1.26.4"),
}
WHEELS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
# LiteRT reads the processor's kind there, and qemu shows the file of the machine that it runs on. A Cortex-A72, as in
# the Raspberry Pi 4.
CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def missing() -> str:
    """What is needed and not there; empty: nothing."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not KEYRING.is_file():
        absent.append(str(KEYRING))
    need = "apt-get install qemu-user g++-aarch64-linux-gnu debian-archive-keyring"
    return f"{', '.join(absent)}: {need}" if absent else ""


def call(*command: object, cwd: pathlib.Path) -> str:
    result = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _complete(folder: pathlib.Path) -> bool:
    return (folder / ".complete").is_file()


def _start(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def root() -> pathlib.Path:
    """The folder with the system's files, made when it is not there."""
    folder = FOLDER / "root"
    if not _complete(folder):
        _start(folder)
        for package in _download():
            call("dpkg", "-x", package, folder, cwd=folder)
        (folder / "proc").mkdir()
        (folder / "proc" / "cpuinfo").write_text(CPUINFO)
        (folder / ".complete").touch()
    return folder


def _download() -> list[pathlib.Path]:
    """The packages' files, by an apt that knows nothing of this machine's packages and changes none of them."""
    apt = FOLDER / "apt"
    _start(apt)
    for name in ("lists/partial", "cache/archives/partial", "sources.list.d", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(SOURCE)
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "sources.list.d",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    call("apt-get", *options, "-q", "update", cwd=apt)
    call("apt-get", *options, "-q", "download", *PACKAGES, cwd=apt / "packages")
    return sorted((apt / "packages").glob("*.deb"))


def packages_of(runtime: str) -> pathlib.Path:
    """The folder with the unpacked wheels of a runtime and of NumPy."""
    folder = FOLDER / runtime
    if not _complete(folder):
        _start(folder)
        platforms = [part for name in WHEELS for part in ("--platform", f"{name}_aarch64")]
        chosen = ["--python-version=3.11", "--only-binary=:all:", "--no-deps", "--no-compile", *platforms]
        call(sys.executable, "-m", "pip", "install", "-q", "--target", folder, *chosen, *RUNTIMES[runtime], cwd=FOLDER)
        (folder / ".complete").touch()
    return folder


def command(program: object, *arguments: object, cpu: str = "max", variables: tuple[str, ...] = ()) -> list[str]:
    """That of an emulated program; ``cpu`` is qemu's name."""
    unset = [part for name in ("PYTHONHOME", "KERAS_PRUNE_ISA") for part in ("-U", name)]
    given = [part for variable in variables for part in ("-E", variable)]
    return [str(part) for part in ("qemu-aarch64", "-cpu", cpu, "-L", root(), *unset, *given, program, *arguments)]


def python(runtime: str, *arguments: object, cpu: str = "max") -> list[str]:
    """The command of the emulated Python with a runtime."""
    variables = (f"PYTHONPATH={packages_of(runtime)}",)
    return command(root() / "usr/bin/python3.11", *arguments, cpu=cpu, variables=variables)
