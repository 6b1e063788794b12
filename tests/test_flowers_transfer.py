"""The transfer example: photos in, a table and a plot out, and killed anywhere it goes on."""

from __future__ import annotations

import importlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def example(name: str):
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def flowers_dir(data_dir) -> pathlib.Path:
    for name in ("flowers/train", "models/squeezenet_v1_1_imagenet_notop.keras"):
        if not (data_dir / name).exists():
            pytest.skip(f"{data_dir / name} is not there")
    return data_dir


def write_photos(folder: pathlib.Path, classes: list[str], count: int, *, side: int = 8) -> None:
    """Photos of one color: the class's place among its like, in red."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((side, side, 3), np.uint8)
            pixels[..., 0], pixels[..., 2] = 100 * label, 10 * number
            (folder / name / f"{number}.jpg").write_bytes(tf.io.encode_jpeg(pixels, quality=100).numpy())


def test_photos_become_inputs_in_bgr_with_the_means_subtracted(tmp_path):
    data = example("flowers_data")
    write_photos(tmp_path / "train", ["b", "a"], 6)
    write_photos(tmp_path / "val", ["a", "b"], 2)
    train, judge = data.load(tmp_path)
    assert train[0].shape == (12, 8, 8, 3)
    assert train[1].tolist() == [0] * 6 + [1] * 6  # classes by name
    assert judge[1].tolist() == [0, 0, 1, 1]
    inputs = data.whole(judge[0], 4)
    assert inputs.shape == (4, 4, 4, 3)
    # "b" is the second class of val, with red 100; JPEG rounds
    np.testing.assert_allclose(inputs[2] + data.MEANS, np.broadcast_to([0, 0, 100], (4, 4, 3)), atol=3)
    np.testing.assert_allclose(inputs[3] + data.MEANS, np.broadcast_to([10, 0, 100], (4, 4, 3)), atol=3)


def test_held_out_photos_are_not_trained_with_and_val_is_left_alone(tmp_path):
    data = example("flowers_data")
    write_photos(tmp_path / "train", ["a"], 12)  # and no val
    train, judge = data.load(tmp_path, validate=True)
    blue = [round(int(image[0, 0, 2]) / 10) for image in data.load(tmp_path, validate=True)[1][0]]
    assert (len(train[0]), len(judge[0])) == (10, 2)
    assert blue == [0, 4]  # by name, 0.jpg 1.jpg 10.jpg 11.jpg 2.jpg 3.jpg 4.jpg: the first and the seventh


def striped_photos(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Brighter from left to right, each of its own class."""
    left_to_right = np.broadcast_to(np.arange(0, 256, 16, dtype=np.uint8)[:, None], (count, 16, 16, 3))
    return left_to_right, np.arange(count, dtype=np.int32)


def test_crops_are_parts_of_the_photos(seeded):
    data = example("flowers_data")
    made = data.crops(striped_photos(40), 6, 3)
    assert made.images.shape == (3, 40, 6, 6, 3)
    assert made.images.dtype == np.uint8
    np.testing.assert_array_equal(made.targets, np.broadcast_to(np.eye(40), (3, 40, 40)))
    rows = made.images[:, :, 0, :, 0].reshape(120, 6).astype(int)
    rising = np.diff(rows, axis=1).min(axis=1) > 0
    assert 0 < rising.sum() < 120  # some are mirrored
    width = np.abs(rows[:, -1] - rows[:, 0]) / 240
    assert width.min() >= 0.49  # at least half the photo's area, so at least half its width; pixels are rounded
    assert width.max() <= 1


def test_each_epoch_takes_another_round_in_another_order(seeded):
    data = example("flowers_data")
    made = data.crops(striped_photos(40), 6, 2)
    batches = data.Batches(made)
    orders = []
    for number in (1, 0):
        epoch = [batches[at] for at in range(len(batches))]
        assert [images.shape for images, _ in epoch] == [(32, 6, 6, 3), (8, 6, 6, 3)]
        labels = np.concatenate([targets for _, targets in epoch]).argmax(axis=1)
        assert sorted(labels) == list(range(40))
        np.testing.assert_array_equal(
            np.concatenate([images for images, _ in epoch]), made.images[number, labels].astype(np.float32) - data.MEANS
        )
        orders.append(labels.tolist())
        batches.on_epoch_end()
    assert orders[0] != orders[1]


def test_a_teacher_has_its_share_of_the_targets(seeded):
    data = example("flowers_data")
    plain = data.crops(striped_photos(40), 6, 2)
    features = [keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(40)]
    teacher = keras.Sequential(features)
    taught = data.taught(plain, teacher, 0.25)
    logits = teacher.predict(plain.images[1].astype(np.float32) - data.MEANS, verbose=0)
    wanted = 0.25 * np.eye(40) + 0.75 * keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(taught.targets[1], wanted, atol=1e-5)
    assert taught.images is plain.images


@pytest.mark.parametrize("kind", ["none", "sizes", "classes"])
def test_wrong_photos_are_refused(tmp_path, kind):
    data = example("flowers_data")
    (tmp_path / "train").mkdir()
    if kind != "none":
        write_photos(tmp_path / "train", ["a"], 2)
        write_photos(tmp_path / "val", ["a" if kind == "sizes" else "other"], 1, side=8)
    if kind == "sizes":
        write_photos(tmp_path / "train", ["b"], 1, side=16)
    error, message = {
        "none": (FileNotFoundError, r"expected photos as CLASS/\*\.jpg, and there are none; give --data"),
        "sizes": (ValueError, r"expected photos of one size, got \[\(8, 8, 3\), \(16, 16, 3\)\]"),
        "classes": (ValueError, r"expected the classes of train, \['a'\], got \['other'\]"),
    }[kind]
    with pytest.raises(error, match=message):
        data.load(tmp_path)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own saving on NumPy 2
def test_finished_runs_are_found_again(tmp_path):
    runs = example("flowers_runs").Runs(tmp_path / "out", {"size": 4})
    assert runs.result("dense_seed0") is None
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    runs.finish("dense_seed0", {"accuracy": 50.0}, model)
    again = example("flowers_runs").Runs(tmp_path / "out", {"size": 4})
    assert again.result("dense_seed0") == again.need("dense_seed0") == {"accuracy": 50.0}
    np.testing.assert_array_equal(again.model("dense_seed0").get_weights()[0], model.get_weights()[0])
    assert sorted(path.name for path in runs.folder.iterdir()) == [
        "dense_seed0.json",
        "dense_seed0.keras",
        "settings.json",
    ]


def test_results_of_other_settings_are_refused(tmp_path):
    example("flowers_runs").Runs(tmp_path, {"size": 4})
    with pytest.raises(
        ValueError, match=r"expected results made with \{'size': 8\}, got \{'size': 4\}; give another --out"
    ):
        example("flowers_runs").Runs(tmp_path, {"size": 8})


def write_results(folder: pathlib.Path) -> None:
    results = {
        "dense_seed0": {"accuracy": 90.0, "flops": 1000, "parameters": 100},
        "dense_seed1": {"accuracy": 88.0, "flops": 1000, "parameters": 100},
        "taylor_0.5_seed0": {"accuracy": 89.0, "flops": 500, "parameters": 50},
        "taylor_0.5_seed1": {"accuracy": 88.5, "flops": 400, "parameters": 25},
        "activation mean_0.26_seed0": {"accuracy": 80.0, "flops": 250, "parameters": 20},
        "files_seed0": {
            name: {"accuracy": 0.9, "num_bytes": 4000, "latency_ms": ms, "latency_ms_p10": ms, "latency_ms_p90": ms}
            for name, ms in (("dense", 3.0), ("taylor_0.5", 2.0))
        },
    }
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))


def test_results_become_a_table_and_a_plot(tmp_path):
    figure = example("flowers_figure")
    write_results(tmp_path)
    results = figure.collect(tmp_path)
    rows = [line.split() for line in figure.table(results).splitlines()]
    assert ["dense", "1.00", "1.00", "89.0", "88.0", "90.0", "+0.0", "2"] in rows
    # half the FLOPs and 0.4 of them: 2 and 2.5 times fewer; a point lost, half a point won
    assert ["taylor", "2.25", "3.00", "88.8", "88.5", "89.0", "-0.2", "2"] in rows
    assert ["activation", "mean", "4.00", "5.00", "80.0", "80.0", "80.0", "-10.0", "1"] in rows
    assert ["taylor_0.5", "0", "90.0", "4,000", "2.000", "2.000", "2.000", "1.50"] in rows
    figure.draw(results, tmp_path / "plot.png")
    assert tf.io.decode_png((tmp_path / "plot.png").read_bytes()).shape[0] > 300


def command(data: pathlib.Path, out: pathlib.Path, setting: str) -> list[str]:
    return [
        sys.executable,
        str(EXAMPLES / "flowers_transfer.py"),
        f"--data={data}",
        f"--out={out}",
        f"--setting={setting}",
    ]


def run(data: pathlib.Path, out: pathlib.Path, setting: str) -> dict:
    result = subprocess.run(command(data, out, setting), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads((out / "flowers_transfer.json").read_text())


def kill_after(path: pathlib.Path, process: subprocess.Popen) -> None:
    """Kills a process as soon as it has written a file."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(flowers_dir, tmp_path):
    process = subprocess.Popen(
        command(flowers_dir, tmp_path, "tiny"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kill_after(tmp_path / "dense_seed0.json", process)
    first = (tmp_path / "dense_seed0.json").stat().st_mtime_ns
    results = run(flowers_dir, tmp_path, "tiny")
    assert (tmp_path / "dense_seed0.json").stat().st_mtime_ns == first  # it was not trained again
    dense, taylor, scratch = (results[name] for name in ("dense", "taylor", "scratch"))
    assert taylor["0.5"]["0"]["flops"] <= 0.5 * dense["1"]["0"]["flops"]
    assert scratch["0.5"]["0"]["flops"] == taylor["0.5"]["0"]["flops"]
    assert scratch["0.5"]["0"]["parameters"] == taylor["0.5"]["0"]["parameters"]
    files = results["files"]["0"]
    assert files["taylor_0.5"]["num_bytes"] < 0.8 * files["dense"]["num_bytes"]
    for name, judged in (("dense", dense["1"]), ("taylor_0.5", taylor["0.5"])):
        # 65 photos, of which rounding may move one across the border between classes
        assert abs(100 * files[name]["accuracy"] - judged["0"]["accuracy"]) < 1.6
    assert (tmp_path / "flowers_transfer.png").stat().st_size > 10_000


@pytest.mark.slow
def test_taylor_keeps_the_promise(flowers_dir, tmp_path):
    """The small setting: 3.8 times fewer FLOPs, at a loss that is below those of random channels and of scratch."""
    results = run(flowers_dir, tmp_path, "small")
    dense = results["dense"]["1"]["0"]
    taylor, chance, scratch = (results[name]["0.26"]["0"] for name in ("taylor", "random", "scratch"))
    assert dense["accuracy"] > 80
    assert dense["flops"] / taylor["flops"] >= 3.8
    assert taylor["accuracy"] > chance["accuracy"]
    assert taylor["accuracy"] > scratch["accuracy"]
