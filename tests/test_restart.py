"""A run killed with SIGKILL at any step and restarted ends with the masks and the schedule of an unbroken one."""

from __future__ import annotations

import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

RUN = pathlib.Path(__file__).with_name("restart_run.py")
KINDS = ("whole", "killed")


def run(folder, cases):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(RUN), str(folder), json.dumps(cases)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def log_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def assert_same_run(folder, whole, killed):
    """Every step that was trained, once or again, had the step number, sparsity and masks of the unbroken run."""
    expected = {line["step"]: line for line in log_of(folder, whole)}
    assert sorted(expected) == list(range(1, 36))
    assert len({json.dumps(line["masks"]) for line in expected.values()}) > 4
    seen = log_of(folder, killed)
    # 6 x 8 and 8 x 3 weights, of which 20 or 25 % are kept; that they are zero is checked after each batch.
    assert sum(expected[35]["masks"]) == (10 + 5 if "default" in whole else 12 + 6)
    assert len(seen) > len(expected)  # some steps were trained twice
    assert seen[-1]["step"] == 35
    for line in seen:
        assert line == expected[line["step"]]
    with np.load(folder / f"{whole}.npz") as one, np.load(folder / f"{killed}.npz") as two:
        for name in one.files:
            assert (one[name] == two[name]).all(), name


def kills(count, seed):
    """After how many batches each process kills itself; an epoch has 7, and four of its ends come before the last."""
    chooser = random.Random(seed)
    ends = min(4, count - 1)
    numbers = [chooser.randint(8, 14) for _ in range(ends)] + [chooser.randint(1, 7) for _ in range(count - ends)]
    chooser.shuffle(numbers)
    return numbers


def test_three_kills(tmp_path):
    names = ("default first", "taylor last")
    cases = {f"{name} {kind}": kills(3, name) if kind == "killed" else [] for name in names for kind in KINDS}
    run(tmp_path, cases)
    for name in names:
        assert_same_run(tmp_path, *(f"{name} {kind}" for kind in KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default first", "default last", "taylor first", "taylor last", "magnitude first"])
def test_twenty_kills(tmp_path, name):
    run(tmp_path, {f"{name} whole": [], f"{name} killed": kills(20, name)})
    assert_same_run(tmp_path, *(f"{name} {kind}" for kind in KINDS))
