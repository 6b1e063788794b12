"""The Android build, by stock clang with Android's ABI, and its JNI in this machine's JVM (slow).

No Android system is here: what is tested is that the libraries need nothing that Android's do not have, that their code
computes right (in a glibc process: they name only functions that glibc has under the same names), and the Java class.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import emulated_arm  # type: ignore[import-not-found]
import numpy as np
import pytest
from pruned_models import dense_model  # type: ignore[import-not-found]

import keras_prune
from keras_prune import native
from keras_prune_export import delegate_library, runtime

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[1]
ANDROID = ROOT / "export" / "android"
LINKERS = {"arm64-v8a": "aarch64-linux-gnu-ld", "x86_64": "x86_64-linux-gnu-ld"}
PAGE = 16 * 1024
# From bionic's libc/libc.map.txt (https://android.googlesource.com/platform/bionic): all are there since API level 21,
# and 24 is the lowest that is built for.
BIONIC = frozenset(
    "__cxa_finalize __sched_cpucount calloc free getauxval getenv getpid malloc memcmp memcpy memmove memset mmap "
    "munmap posix_memalign pthread_create pthread_join sched_getaffinity sigfillset sigprocmask snprintf strcmp strlen "
    "strncmp syscall sysconf".split()
)
OURS = {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}


def call(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def java_home():
    if shutil.which("javac") is None:
        pytest.skip("needs a JDK: apt-get install default-jdk-headless")
    return pathlib.Path(shutil.which("javac")).resolve().parents[1]


@pytest.fixture(scope="module", params=list(LINKERS))
def built(request, tmp_path_factory):
    """The ABI and the folder with its libraries."""
    abi = request.param
    if shutil.which("clang++") is None or shutil.which(LINKERS[abi]) is None:
        pytest.skip("needs: apt-get install clang g++-aarch64-linux-gnu")
    include = java_home() / "include"
    versions = sorted(pathlib.Path("/usr/include/c++").glob("*"))
    if not versions:
        pytest.skip("needs the headers of libstdc++: apt-get install g++")
    folder = tmp_path_factory.mktemp(abi)
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_TOOLCHAIN_FILE": ROOT / "tests" / "android_clang.cmake",
        "ANDROID_ABI": abi,
        "HEADERS_VERSION": versions[-1].name,
        "CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES": f"{include};{include / 'linux'}",
        "CMAKE_MAKE_PROGRAM": delegate_library.tool("ninja"),
    }
    cmake = delegate_library.tool("cmake")
    call(cmake, "-S", ANDROID, "-B", folder, "-G", "Ninja", *(f"-D{name}={value}" for name, value in settings.items()))
    call(cmake, "--build", folder, "--target", "delegate", "jni", "--parallel", "2")
    return abi, folder


def symbols(path, *options):
    return {line.split()[-1] for line in call("nm", "-D", *options, path).splitlines()}


def test_it_needs_nothing_that_android_lacks(built):
    _, folder = built
    delegate, jni = folder / "libkeras_prune_delegate.so", folder / "libkeras_prune_jni.so"
    assert symbols(delegate, "--undefined-only") <= BIONIC
    assert symbols(jni, "--undefined-only") <= BIONIC | OURS
    assert symbols(delegate, "--defined-only") == OURS
    assert symbols(jni, "--defined-only") == {
        f"Java_org_kerasprune_KerasPruneDelegate_{f}" for f in ("create", "destroy")
    }
    assert re.findall(r"NEEDED.*\[(.*)\]", call("readelf", "-d", delegate)) == []
    assert re.findall(r"NEEDED.*\[(.*)\]", call("readelf", "-d", jni)) == ["libkeras_prune_delegate.so"]


def test_pages_of_16_kib(built):
    abi, folder = built
    for path in folder.glob("*.so"):
        shown = call("readelf", "--wide", "--file-header", "--segments", path)
        assert {"arm64-v8a": "AArch64", "x86_64": "X86-64"}[abi] in shown
        assert {int(line.split()[-1], 16) for line in shown.splitlines() if line.split()[:1] == ["LOAD"]} == {PAGE}


RUN = """
import sys, numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
library, model, x, y = sys.argv[1:]
interpreter = Interpreter(model, experimental_delegates=[load_delegate(library)], num_threads=2)
interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], np.load(x).shape)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(x))
interpreter.invoke()
np.save(y, interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


@pytest.mark.parametrize("options", [{}, {"activations": "int8"}], ids=["float32", "int8"])
def test_its_code_computes_right(built, options, *, packed_layers_compute, tmp_path):
    abi, folder = built
    if abi == "arm64-v8a" and emulated_arm.missing():
        pytest.skip(emulated_arm.missing())
    files = [tmp_path / name for name in ("model.tflite", "x.npy", "y.npy")]
    keras_prune.export_tflite(dense_model(), files[0], **options)
    x = np.random.default_rng(4).random((6, 784), np.float32)
    np.save(files[1], x)
    (tmp_path / "run.py").write_text(RUN)
    command = [tmp_path / "run.py", folder / "libkeras_prune_delegate.so", *files]
    call(*(emulated_arm.python("ai-edge-litert", *command) if abi == "arm64-v8a" else [sys.executable, *command]))
    interpreter = runtime.load_interpreter(files[0])
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    # Float sums are added in another order; integer ones are equal.
    np.testing.assert_allclose(np.load(files[2]), want, rtol=0, atol=0 if options else 1e-5 * np.abs(want).max())


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    """A function that runs the Java program with the JNI library built for this machine."""
    home, folder = java_home(), tmp_path_factory.mktemp("java")
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    flags = "-std=c++17 -O1 -shared -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -Wall -Wextra -Werror".split()
    include = [f"-I{home / 'include'}", f"-I{home / 'include' / 'linux'}"]
    delegate = native.delegate_path()
    parts = [ANDROID / "src/main/cpp/delegate_jni.cc", delegate, f"-Wl,-rpath,{delegate.parent}"]
    call(*compiler, *flags, *include, *parts, "-o", folder / "libkeras_prune_jni.so")
    sources = [*(ANDROID / "src").rglob("*.java"), *(ROOT / "tests" / "android_java").rglob("*.java")]
    call(home / "bin" / "javac", "-Xlint:all", "-Werror", "-d", folder, *sources)

    def run(**variables):
        command = (home / "bin" / "java", "-Xcheck:jni", f"-Djava.library.path={folder}", "-cp", folder, "UseDelegate")
        return call(*command, env={**os.environ, **variables})

    return run


def test_the_class_in_a_jvm(java):
    assert java().splitlines() == [
        "handles: true",
        "closed: KerasPruneDelegate: expected an open delegate, and it is closed; make another",
    ]


def test_why_there_is_no_delegate_reaches_java(java):
    shown = java(KERAS_PRUNE_ISA="mmx")
    assert re.match(r"refused: keras_prune delegate: isa .*got 'mmx'", shown)
