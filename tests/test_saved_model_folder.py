"""The folder of a packed SavedModel: weights= and what it holds, written whole or not at all, refused when corrupt."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import saved_models  # type: ignore[import-not-found]
import serving_session  # type: ignore[import-not-found]
import tensorflow as tf

import keras_prune
from keras_prune.int8 import Int8
from keras_prune.quantization import Codebook
from keras_prune_export import folders, serving_graph

layers = keras.layers


@pytest.fixture(scope="module")
def model():
    return saved_models.prune(saved_models.dense())


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return keras_prune.export_saved_model(model, tmp_path_factory.mktemp("models") / "1")


def values(path):
    """The variables that Python finds, largest first."""
    return sorted((v.numpy() for v in tf.saved_model.load(str(path)).variables), key=lambda v: -v.size)


def test_python_finds_the_variables_with_their_values(model, exported):
    found = values(exported)
    want = sorted(saved_models.quantized_weights(model), key=lambda v: -v.size)
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("weights", "want"),
    [
        ("lossless", lambda kernel: kernel),
        ("float16", lambda kernel: kernel.astype(np.float16).astype(np.float32)),
        (Codebook(2), lambda kernel: np.take(*reversed(Codebook(2).fit(kernel)))),
        (Int8(), lambda kernel: (np.multiply(*[part.T for part in Int8().fit(kernel.T)])).astype(np.float32)),
        ({"dense.*": "float16"}, lambda kernel: kernel.astype(np.float16).astype(np.float32)),
    ],
    ids=["lossless", "float16", "codebook", "int8", "mapping"],
)
def test_weights_say_what_the_server_computes_with(weights, want, tmp_path):
    pruned = saved_models.prune(saved_models.sequential((40,), layers.Dense(30, name="dense")))
    path = keras_prune.export_saved_model(pruned, tmp_path / "1", weights=weights)
    kernel, bias = values(path)
    np.testing.assert_array_equal(kernel, want(pruned.layers[0].kernel.numpy()))
    np.testing.assert_array_equal(bias, pruned.layers[0].bias.numpy())


def test_what_is_not_pruned_keeps_every_bit(tmp_path):
    pruned = saved_models.sequential((40,), layers.Dense(30), layers.Dense(20))
    saved_models.prune(pruned, 1.0)
    kernel = pruned.layers[0].kernel.numpy()
    pruned.layers[0].kernel.assign(np.where(np.arange(kernel.size).reshape(kernel.shape) % 4, 0, kernel))
    first, second, *_ = values(keras_prune.export_saved_model(pruned, tmp_path / "1"))
    np.testing.assert_array_equal(second, pruned.layers[1].kernel.numpy())
    assert len(np.unique(first)) == 16


ERRORS = [
    (lambda p: keras_prune.export_saved_model("model", p), TypeError, "expected a Keras 3 model"),
    (lambda p: keras_prune.export_saved_model(keras.Sequential(), p), ValueError, "expected a built model"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p), ValueError, "expected a weight with at least"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p, weights="int4"), ValueError, "'int4'"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p, weights=4), TypeError, "Codebook"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p, min_sparsity=2), ValueError, "from 0 to 1"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p, weights={"no": "float16"}), ValueError, "'no'"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), 3), TypeError, "name of a folder"),
    (lambda p: keras_prune.export_saved_model(saved_models.dense(), p / "a" / "b"), FileNotFoundError, "make it first"),
]


@pytest.mark.parametrize("case", ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors_say_what_is_wrong_and_leave_nothing(case, tmp_path):
    call, kind, message = case
    with pytest.raises(kind, match=message):
        call(tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_operators_that_a_stock_server_lacks_are_refused(model, tmp_path):
    own = keras.Sequential([keras.Input((40,)), keras_prune.layers.PackedDense.from_dense(model.layers[0])])
    with pytest.raises(ValueError, match="KerasPruneRelativeIndexMatmul"):
        keras_prune.export_saved_model(own, tmp_path / "1", weights="lossless")
    assert list(tmp_path.iterdir()) == []


def test_a_value_beyond_float16_is_named(tmp_path):
    huge = saved_models.prune(saved_models.dense())
    huge.layers[0].kernel.assign(huge.layers[0].kernel * 1e6)
    with pytest.raises(ValueError, match=r"dense.*/kernel: a value does not fit in float16"):
        keras_prune.export_saved_model(huge, tmp_path / "1", weights="float16")


def test_a_saved_model_is_replaced_whole(model, exported, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exported, path)
    (path / "variables").mkdir()
    (path / "variables" / "old").write_bytes(b"old")
    path.chmod(0o750)
    keras_prune.export_saved_model(model, path, weights="lossless")
    assert sorted(entry.name for entry in path.iterdir()) == ["assets", "saved_model.pb"]
    assert path.stat().st_mode & 0o777 == 0o750
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_folder_and_a_link_are_followed(model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert keras_prune.export_saved_model(model, tmp_path / "link") == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "saved_model.pb").is_file()


@pytest.mark.parametrize("name", ["photo.jpg", "saved_model.pb/../notes.txt", "variables/x"])
def test_a_folder_that_is_no_saved_model_stays(name, tmp_path):
    file = tmp_path / "1" / pathlib.Path(os.path.normpath(name))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="expected a new name or a SavedModel to replace"):
        folders.check_saved_model_path(tmp_path / "1")
    assert file.read_bytes() == b"mine"


def test_a_file_in_the_way_stays(tmp_path):
    (tmp_path / "1").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="a file stands there"):
        folders.check_saved_model_path(tmp_path / "1")


def half_write(folder):
    (folder / "saved_model.pb").write_bytes(b"half")
    raise OSError("disk full")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed"])
def test_a_failing_write_leaves_the_old_folder(exchange, monkeypatch, tmp_path):
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda new, path: False)
    path = tmp_path / "1"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"), folders.replaced(path) as new:
        half_write(new)
    assert (path / "saved_model.pb").read_bytes() == b"old"
    with folders.replaced(path) as new:
        (new / "saved_model.pb").write_bytes(b"new")
    assert (path / "saved_model.pb").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


ENDLESS = """
import itertools, pathlib, sys
from keras_prune_export import folders
for number in itertools.count():
    path = folders.check_saved_model_path(sys.argv[1])
    with folders.replaced(path) as new:
        for name in ("saved_model.pb", "assets"):
            (new / name).write_bytes(b"%d" % number)
    if number == 3:
        print("running", flush=True)
"""


def test_a_process_that_is_killed_leaves_a_whole_folder(tmp_path):
    path = tmp_path / "1"
    for wait in (0.0, 0.001, 0.003, 0.007):
        command = [sys.executable, "-c", ENDLESS, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "running\n"
            time.sleep(wait)
            process.kill()
        assert (path / "saved_model.pb").read_bytes() == (path / "assets").read_bytes()
        assert {entry.name for entry in path.iterdir()} == {"saved_model.pb", "assets"}


def damaged(exported, folder, data):
    shutil.copytree(exported, folder)
    (folder / "assets" / serving_graph.ASSET).write_bytes(data)
    return folder


def test_a_corrupt_asset_fails_to_load_and_says_so(exported, tmp_path):
    data = (exported / "assets" / serving_graph.ASSET).read_bytes()
    choose = random.Random(0)
    flips = [(choose.randrange(len(data)), choose.randrange(8)) for _ in range(20)]
    cases = [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at, bit in flips]
    cases += [b"", data[:1], data[:-1], data[: len(data) // 2], data + b"\0", bytes(len(data))]
    for number, case in enumerate(cases):
        with pytest.raises(RuntimeError, match="packed weights are corrupt"):
            serving_session.Session(damaged(exported, tmp_path / str(number), case))
    with pytest.raises(tf.errors.InvalidArgumentError, match="packed weights are corrupt"):
        tf.saved_model.load(str(tmp_path / "0"))


def test_a_missing_asset_fails_to_load(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "1")
    (tmp_path / "1" / "assets" / serving_graph.ASSET).unlink()
    with pytest.raises(RuntimeError, match=serving_graph.ASSET):
        serving_session.Session(tmp_path / "1")


def test_two_models_in_one_process_do_not_share_variables(model, exported, tmp_path):
    other = saved_models.prune(saved_models.dense(), 0.5)
    second = keras_prune.export_saved_model(other, tmp_path / "2")
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 40)), tf.float32)
    loaded = [tf.saved_model.load(str(path)).signatures["serving_default"] for path in (exported, second, exported)]
    first, changed, again = [serve(x=x)["output_0"].numpy() for serve in loaded]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, changed)


def test_the_same_model_gives_the_same_bytes(model, exported, tmp_path):
    again = keras_prune.export_saved_model(model, tmp_path / "1")
    for name in ("saved_model.pb", f"assets/{serving_graph.ASSET}"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()


def test_words_are_looked_up_in_the_server_too(tmp_path):
    word = keras.Input((1,), dtype="string", name="word")
    numbers = layers.Embedding(10, 8)(layers.StringLookup(vocabulary=["a", "b", "c"])(word))
    model = saved_models.prune(keras.Model(word, layers.Dense(4)(layers.Flatten()(numbers))))
    path = keras_prune.export_saved_model(model, tmp_path / "1")
    serving_session.Session(path)
    model.set_weights(saved_models.quantized_weights(model))
    words = tf.constant([["a"], ["elsewhere"], ["c"]])
    got = tf.saved_model.load(str(path)).signatures["serving_default"](word=words)["output_0"]
    np.testing.assert_allclose(got, model(words), rtol=1e-6, atol=1e-6)  # eager operators and optimized ones
