"""Several replicas and several processes: the same masks everywhere, and those of one device."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

RUN = pathlib.Path(__file__).with_name("distribute_run.py")
NAMES = ("magnitude", "taylor", "loss scale", "averages")


def start(*arguments):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONWARNINGS": "ignore"}
    environment.pop("TF_CONFIG", None)
    command = [sys.executable, str(RUN), *map(json.dumps, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process):
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def mirrored():
    return result(start())


@pytest.mark.parametrize("name", NAMES)
def test_mirrored_strategy(mirrored, name):
    """Two logical CPUs; zeros and equal masks on both are checked after each batch, in the process itself."""
    one, two = mirrored[f"{name} one"], mirrored[f"{name} two"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert two["zeros"] == [36, 18]  # 75 % of 48 and of 24
    assert two["step"] == len(two["masks"]) == 12
    assert len({json.dumps(mask) for mask in two["masks"]}) > 3
    assert two["masks"] == one["masks"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


@pytest.mark.slow
def test_multi_worker_mirrored_strategy(mirrored, tmp_path):
    """Two processes, a loop by hand; what Keras' own fit says there is in docs/training.md."""
    ports = free_ports(2)
    first, second = map(result, [start(index, ports, str(tmp_path)) for index in range(2)])
    like = {"restarted": "taylor", "wrapped": "magnitude"}
    for name in (*NAMES, *like):
        assert first[name]["masks"] == second[name]["masks"], name
        assert first[name]["weights"] == second[name]["weights"], name
        assert (first[name]["zeros"], first[name]["step"]) == ([36, 18], 12), name
        one = mirrored[f"{like.get(name, name)} one"]
        assert first[name]["masks"] == one["masks"], name
    assert "PerReplica" in first["fit"]
    assert "with an unsupported type" in first["fit"]


def test_keras_distribution_changes_nothing_on_this_backend(mirrored):
    """`keras.distribution.DataParallel` of two devices is accepted, but TensorFlow's backend trains on one."""
    assert mirrored["keras.distribution"]["replicas"] == 1
    assert mirrored["keras.distribution"]["zeros"] == [36, 18]
    assert mirrored["keras.distribution"]["masks"] == mirrored["magnitude one"]["masks"]
