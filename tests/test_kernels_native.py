"""What compiled code needs and shows: the decoder calls nothing, kernels share no function, libraries need libc."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess

import pytest

from keras_prune import native

KERNELS = pathlib.Path(__file__).resolve().parents[1] / "custom_ops" / "kernels"
SOURCE = pathlib.Path(__file__).resolve().parents[1] / "custom_ops" / "sparse_format.cc"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
FLAGS = "-std=c++17 -Os -ffreestanding -fno-exceptions -fno-rtti -Wall -Wextra -Werror".split()


@pytest.mark.skipif(not shutil.which(COMPILER[0]) or not shutil.which("nm"), reason="needs a C++ compiler and nm")
@pytest.mark.parametrize(("crc_tables", "limit"), [(1, 6_000), (8, 14_000)])
def test_the_decoder_calls_nothing(tmp_path, crc_tables, limit):
    target = tmp_path / "sparse_format.o"
    command = [*COMPILER, *FLAGS, f"-DKERAS_PRUNE_CRC_TABLES={crc_tables}", "-c", str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    undefined = subprocess.run(["nm", "-u", str(target)], capture_output=True, text=True, check=True).stdout.split()
    # Position-independent code names this table on some targets; it is the linker's, not a function.
    assert [name for name in undefined if name not in ("U", "_GLOBAL_OFFSET_TABLE_")] == []
    # 3.4 KB of code and tables with one checksum table, 7 KB more with eight; the rest is room for other compilers.
    assert target.stat().st_size < limit + 4_000  # the object's own headers


# Compilers may make these of loops; freestanding environments have them too.
MEMORY_FUNCTIONS = {"memcpy", "memmove", "memset", "memcmp"}


@pytest.mark.skipif(not shutil.which(COMPILER[0]) or not shutil.which("nm"), reason="needs a C++ compiler and nm")
def test_the_decoder_of_version_2_calls_only_itself(tmp_path):
    names = ("sparse_format", "entropy_coding", "tensor_format", "tensor_decoding")
    objects = [str(tmp_path / f"{name}.o") for name in names]
    for name, target in zip(names, objects, strict=True):
        subprocess.run([*COMPILER, *FLAGS, "-c", str(SOURCE.with_name(f"{name}.cc")), "-o", target], check=True)
    whole = str(tmp_path / "whole.o")
    subprocess.run([*COMPILER, "-nostdlib", "-r", *objects, "-o", whole], check=True)
    undefined = subprocess.run(["nm", "-u", whole], capture_output=True, text=True, check=True).stdout.split()
    assert set(undefined) - {"U", "_GLOBAL_OFFSET_TABLE_"} <= MEMORY_FUNCTIONS


# As in setup.py, but for -O3: unoptimized code shows every function that a header defines.
PROJECT_FLAGS = (
    "-std=c++17 -O0 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics -ffp-contract=off"
).split()
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
}
ISA_FLAGS["avx512vbmi"] = [*ISA_FLAGS["avx512"], "-mavx512vbmi", "-mavx512vnni"]


@pytest.mark.skipif(not shutil.which(COMPILER[0]) or not shutil.which("nm"), reason="needs a C++ compiler and nm")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are x86-64's")
@pytest.mark.parametrize("isa", list(ISA_FLAGS))
def test_kernels_of_an_instruction_set_share_no_function(tmp_path, isa):
    """A weak symbol may replace the other files' copy, which then runs on CPUs that lack the instruction set."""
    sources = sorted(KERNELS.glob(f"*__{isa}.cc"))
    assert sources
    for source in sources:
        target = tmp_path / "kernels.o"
        command = [*COMPILER, *PROJECT_FLAGS, *ISA_FLAGS[isa], "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        symbols = subprocess.run(["nm", "-C", str(target)], capture_output=True, text=True, check=True).stdout
        shown = re.search(r" ([DRdr] keras_prune::kFc|T keras_prune::ApplyMask)", symbols)
        assert shown, "nm's output is not as this test reads it"
        assert [line for line in symbols.splitlines() if re.match(r"\w* +[VWuvw] ", line)] == []


PLUGIN = ["tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"]


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf (binutils)")
@pytest.mark.parametrize(
    ("library", "shown"),
    [(native.delegate_path, PLUGIN), (native.op_path, ["KerasPruneTfCacheCounts", "KerasPruneTfSetNumThreads"])],
)
def test_a_library_needs_only_libc_and_shows_only_its_interface(library, shown):
    path = str(library())
    dynamic = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    # Older glibc keeps parts of libc in files of their own.
    assert set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)) - {"libdl.so.2", "libpthread.so.0"} == {"libc.so.6"}
    symbols = subprocess.run(["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True, check=True).stdout
    defined = [line.split()[7] for line in symbols.splitlines() if re.search(r"(GLOBAL|WEAK)\s+DEFAULT\s+\d+", line)]
    assert sorted(defined) == shown


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf (binutils)")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors' glibc begins later")
@pytest.mark.parametrize("library", [native.delegate_path, native.op_path])
def test_a_library_loads_on_old_systems(library):
    """No newer glibc than 2.14: threads are used by what every version since then has; TensorFlow 2.16 wants 2.17."""
    command = ["readelf", "-W", "--version-info", str(library())]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    versions = re.findall(r"GLIBC_(\d+)\.(\d+)", shown)
    assert versions
    assert max((int(major), int(minor)) for major, minor in versions) <= (2, 14)
