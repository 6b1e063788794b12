"""Several replicas: what is gathered of units is that of one device."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

RUN = pathlib.Path(__file__).with_name("unit_distribute_run.py")
WHERE = {
    "taylor": {"first_out", "second", "heads"},
    "gates": {"first", "second", "heads"},
    "activations": {"first_out", "second"},
    "labels": {"first_out", "second"},
}


@pytest.fixture(scope="module")
def runs():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.run([sys.executable, str(RUN)], capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("optimizer", ["sgd", "loss scale"])
@pytest.mark.parametrize("criterion", WHERE)
def test_two_replicas(runs, criterion, optimizer):
    one, two = runs[f"{optimizer} one"][criterion], runs[f"{optimizer} two"][criterion]
    assert set(one) == set(two) == WHERE[criterion]
    for where, value in one.items():
        # Each replica squares what it sees at an activation, half a batch; gates are those of the whole batch.
        if (criterion, where) != ("gates", "second"):
            assert two[where] == pytest.approx(value, rel=1e-4, abs=1e-8), where
