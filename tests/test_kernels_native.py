"""The decoder is freestanding C++: compiled for a device without heap or C++ library, it calls nothing."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

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
