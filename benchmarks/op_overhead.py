r"""What the TensorFlow op's Compute adds to the bare kernel, batch 1: the C++ program `tf_op_bench` in figures.

    python benchmarks/op_overhead.py --json out/bench/op_overhead.json

The program runs the op in a session of the installed TensorFlow; each run of Compute stands beside one of the
kernel alone, on the same input. The goal is at most 3 µs.
"""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess

import op_report
import timing
from absl import app, flags

_JSON = flags.DEFINE_string("json", "out/bench/op_overhead.json", "Where the figures go.")
_PROGRAM = flags.DEFINE_string("program", "build/bench/tf_op_bench", "The C++ program; `make bench` builds it.")
_QUICK = flags.DEFINE_bool("quick", False, "Few runs of each layer: to try this script.")


def _tensorflow() -> str:
    """The folder of the installed package, which is not imported."""
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.origin is None:
        raise app.UsageError("expected an installed tensorflow, got none; run `make setup`")
    return str(pathlib.Path(found.origin).parent)


def main(argv: list[str]) -> None:
    """Runs the program and writes its figures."""
    del argv
    machine = timing.machine()
    if not pathlib.Path(_PROGRAM.value).is_file():
        raise app.UsageError(f"expected the program {_PROGRAM.value}; build it with `make build/bench/tf_op_bench`")
    timing.pin()
    command = [_PROGRAM.value, _tensorflow(), *(["100"] if _QUICK.value else [])]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    print(text, end="")
    timing.write(pathlib.Path(_JSON.value), {"machine": machine, "quick": _QUICK.value, "layers": op_report.read(text)})


if __name__ == "__main__":
    app.run(main)
