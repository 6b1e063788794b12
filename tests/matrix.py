"""Runs the packed files in many versions of the runtimes, each in a clean environment of its own.

    python tests/matrix.py                              # all; `make test-matrix`
    python tests/matrix.py --runtimes tflite-runtime==2.14.0 ai-edge-litert==2.3.0
    python tests/matrix.py --table docs/runtimes.md     # and puts the table into this page
    python tests/matrix.py --resume                     # goes on where it was stopped

One delegate, one TensorFlow op: the ones that are built. `matrix_cases.py` writes the files: those of the first release
and others, and those that must be refused. A runtime that cannot be installed or started is named at the end, and the
others run.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "matrix"
RUN = ROOT / "tests" / "matrix_run.py"
CASES = ROOT / "tests" / "matrix_cases.py"
NATIVE = ROOT / "keras_prune" / "_native"
# TensorFlow without CUDA's parts: the same runtime, the same operators.
LITERT = "1.0.1 1.1.2 1.2.0 1.3.0 1.4.0 2.0.3 2.1.6 2.2.0 2.3.0".split()
TENSORFLOW = "2.16.2 2.17.1 2.18.1 2.19.1 2.20.0 2.21.0".split()
RUNTIMES = {
    "tflite-runtime==2.14.0": ["numpy<2"],  # compiled for NumPy 1, as is the next
    **{f"ai-edge-litert=={version}": ["numpy<2"] if version < "1.1" else [] for version in LITERT},
    "ai-edge-litert==2.1.6": ["ml_dtypes"],  # its own CompiledModel imports it
    **{f"tensorflow-cpu=={version}": [] for version in TENSORFLOW},
    "tflite-runtime==2.14.0 on Nehalem": ["numpy<2"],  # a CPU without AVX, emulated
}
EMULATOR = "qemu-x86_64"
# The columns of the table: what the names of cases begin with.
COLUMNS = {
    "dense": r"dense_codebook|pattern_",
    "convolutions": r"convolutions$",
    "tokens": r"tokens",
    "expanded": r"expanded_|repacked_",
    "int8": r"(dense|convolutions)_int8|integer$",
    "formats 1, 2": r"storage_version_",
    "stock": r"stock_",
    "CompiledModel": r"compiled_",
    "TF op, SavedModel": r"op_|saved_model_",
    "refused": r"refused_",
}


def pip(python, *arguments):
    """Installs into another environment, which has no pip of its own."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install(requirements, environment, wheels):
    """A clean environment with these packages, from the kept wheels where they are all there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(environment)], check=True)
    python = environment / "bin" / "python"
    kept = ["install", "--quiet", "--no-compile", "--no-index", "--find-links", str(wheels), *requirements]
    if wheels.is_dir() and pip(python, *kept).returncode == 0:
        return python
    wheels.mkdir(parents=True, exist_ok=True)
    for step in (["download", "--quiet", "--only-binary", ":all:", "--dest", str(wheels), *requirements], kept):
        done = pip(python, *step)
        if done.returncode:
            raise RuntimeError(f"pip {step[0]} of {requirements} failed:\n{done.stderr[-2000:]}")
    return python


def run(name, python, *, files, libraries):
    """What came of all cases in one runtime."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | quiet
    cpu = name.partition(" on ")[2]
    emulator = [EMULATOR, "-cpu", cpu] if cpu else []
    command = [*emulator, python, "-I", "-B", RUN, name.partition("==")[0], files, libraries, cpu]
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}:\n{done.stderr.decode(errors='replace')[-4000:]}")
    return json.loads(done.stdout)


def cell(results, column):
    """``files, largest difference`` of those in a column; what is not ok."""
    chosen = {name: result for name, result in results.items() if re.match(COLUMNS[column], name)}
    if not chosen:
        return "–"
    wrong = sorted(name for name, result in chosen.items() if not result["ok"])
    if wrong:
        return f"**{len(wrong)} of {len(chosen)} wrong**"
    if column == "refused":
        return f"{len(chosen)} ok"
    return f"{len(chosen)} ok, {max(result['max_error'] for result in chosen.values()):.0e}"


def table(reports):
    """Markdown."""
    lines = ["| runtime | Python, NumPy | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in sorted(reports, key=(*RUNTIMES, *reports).index):
        report = reports[name]
        cells = [cell(report["results"], column) for column in COLUMNS]
        versions = f"{report['python']}, {report['numpy']}"
        lines.append(f"| {name.replace('==', ' ')} | {versions} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def put(page, text):
    """Replaces what stands between the page's marks."""
    begin, end = "<!-- matrix -->\n", "<!-- /matrix -->"
    old = page.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"matrix: expected the marks {begin.strip()} and {end} in {page}")
    page.write_text(old[: old.index(begin) + len(begin)] + text + old[old.index(end) :])


def complain(reports):
    """Lists what is wrong; returns how much that is."""
    count = 0
    for name, report in reports.items():
        for case, result in report["results"].items():
            if not result["ok"]:
                count += 1
                sys.stdout.write(f"{name}: {case}: {json.dumps(result)[:1500]}\n")
    return count


def check_emulator(names):
    """Before anything is downloaded."""
    emulated = [name for name in names if " on " in name]
    if emulated and not shutil.which(EMULATOR):
        raise SystemExit(
            f"matrix: expected {EMULATOR} on the PATH, for {', '.join(emulated)}, and it is not there; "
            "`apt-get install qemu-user`, or name the other runtimes (make test-matrix RUNTIMES=..., --runtimes)"
        )


def write_files(folder):
    """By another process, as TensorFlow makes some of them."""
    if subprocess.run([sys.executable, str(CASES), str(folder)], check=False).returncode:
        raise SystemExit(f"matrix: {CASES.name} failed")


def try_one(name, arguments):
    """A runtime's report; ``failed`` where there was none."""
    environment = arguments.build / "environments" / name.replace(" ", "_")
    requirements = [name.partition(" on ")[0], *RUNTIMES.get(name, [])]
    start = time.monotonic()
    try:
        python = install(requirements, environment, arguments.build / "wheels")
        installed = time.monotonic()
        report = run(name, python, files=arguments.build / "files", libraries=arguments.libraries)
    except RuntimeError as error:
        return {"failed": str(error)}
    report["install_seconds"] = round(installed - start, 1)
    if not arguments.keep:
        shutil.rmtree(environment)
    return report


def summary(reports, wheels):
    """What it took."""
    install, work = (sum(r[key] for r in reports.values()) / 60 for key in ("install_seconds", "seconds"))
    kept = [path.stat().st_size for path in wheels.glob("*.whl")]
    return (
        f"{len(reports)} runtimes; {len(kept)} wheels, {sum(kept) / 1e6:,.0f} MB; "
        f"{install:.0f} minutes to download and install, {work:.0f} minutes to run\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES), help="as pip names them")
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="environments, files, kept wheels")
    parser.add_argument("--libraries", type=pathlib.Path, default=NATIVE, help="the folder of the native libraries")
    parser.add_argument("--table", type=pathlib.Path, help="a page with marks for the table")
    parser.add_argument("--resume", action="store_true", help="only what results.json in the build folder lacks")
    parser.add_argument("--keep", action="store_true", help="keep the environments (up to 2 GB each)")
    arguments = parser.parse_args()
    check_emulator(arguments.runtimes)
    if not arguments.resume:
        write_files(arguments.build / "files")
    results = arguments.build / "results.json"
    reports = json.loads(results.read_text()) if arguments.resume and results.is_file() else {}
    failed = {}
    for name in (name for name in arguments.runtimes if name not in reports):
        report = try_one(name, arguments)
        if "failed" in report:
            failed[name] = report["failed"]
            continue
        reports[name] = report
        results.write_text(json.dumps(reports, indent=1) + "\n")
        row = table({name: report}).splitlines()[-1]
        sys.stdout.write(f"{row} {report['install_seconds']} + {report['seconds']} s\n")
        sys.stdout.flush()
    wrong = complain(reports)
    for name, message in failed.items():
        sys.stdout.write(f"{name} was not run: {message}\n")
    if arguments.table and not failed:
        put(arguments.table, table(reports))
    passed = sum(len(report["results"]) for report in reports.values()) - wrong
    sys.stdout.write(summary(reports, arguments.build / "wheels"))
    sys.stdout.write(f"{passed} passed, {wrong} failed, {len(failed)} runtimes not run\n")
    return bool(wrong or failed)


if __name__ == "__main__":
    sys.exit(main())
