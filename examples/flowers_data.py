"""Photos of five flowers as batches for networks with ImageNet-Caffe weights (BGR, mean subtracted)."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import keras
import numpy as np
import tensorflow as tf

# Means of ImageNet's blue, green and red, as keras.applications.imagenet_utils.preprocess_input(mode="caffe") has them.
MEANS = np.array([103.939, 116.779, 123.68], np.float32)
BATCH = 32  # of the paper
_SMALLEST_CROP = 0.5  # of the photo's area
_STRETCH = 0.2  # logarithm of a crop's height / width, half of it
_AT_ONCE = 32  # photos that are cropped together
_HELD_OUT = 6  # with `validate`, one photo in six of the training set is judged instead of the judge's own

Photos = tuple[np.ndarray, np.ndarray]


def load(folder: pathlib.Path, *, limit: int | None = None, validate: bool = False) -> tuple[Photos, Photos]:
    """Decodes all photos once; they stay in memory as bytes.

    Args:
        folder: with ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, all of one size.
        limit: photos of each class and part; None: all.
        validate: leave val alone: judge every sixth photo of train, and train with the others.

    Returns:
        (train, judge), each uint8 images (photos, height, width, 3), RGB, and int32 labels (photos,).

    Raises:
        FileNotFoundError: there are no photos.
        ValueError: photos of several sizes, or other classes in val than in train.
    """
    classes = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
    train = _read(folder / "train", classes, limit)
    if not validate:
        others = sorted(path.name for path in (folder / "val").glob("*") if path.is_dir())
        if others != classes:
            raise ValueError(f"{folder}/val: expected the classes of train, {classes}, got {others}")
        return train, _read(folder / "val", classes, limit)
    judged = np.arange(len(train[0])) % _HELD_OUT == 0
    return (train[0][~judged], train[1][~judged]), (train[0][judged], train[1][judged])


def _read(folder: pathlib.Path, classes: list[str], limit: int | None) -> Photos:
    names = [sorted((folder / name).glob("*.jpg"))[:limit] for name in classes]
    files = [(path, label) for label, paths in enumerate(names) for path in paths]
    if not files:
        raise FileNotFoundError(f"{folder}: expected photos as CLASS/*.jpg, and there are none; give --data=FOLDER")
    images = [tf.io.decode_jpeg(path.read_bytes(), channels=3).numpy() for path, _ in files]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"{folder}: expected photos of one size, got {sorted({image.shape for image in images})}")
    return np.stack(images), np.array([label for _, label in files], np.int32)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Several crops of each training photo, made once: cropping and a teacher in each epoch would cost as much again.

    Attributes:
        images: uint8 (rounds, photos, size, size, 3), BGR.
        targets: float32 (rounds, photos, classes); each adds up to 1.
    """

    images: np.ndarray
    targets: np.ndarray


def crops(photos: Photos, size: int, rounds: int) -> Crops:
    """Random crops of at least half the photo, mirrored or not, scaled to ``size`` pixels; targets are the labels."""
    images = np.empty((rounds, len(photos[0]), size, size, 3), np.uint8)
    for made in images:
        for start in range(0, len(made), _AT_ONCE):
            part = photos[0][start : start + _AT_ONCE]
            pixels = _crop(part, _random_boxes(len(part)), size)
            made[start : start + _AT_ONCE] = tf.cast(tf.round(pixels), tf.uint8).numpy()
    labels = np.eye(photos[1].max() + 1, dtype=np.float32)[photos[1]]
    return Crops(images, np.broadcast_to(labels, (rounds, *labels.shape)))


def taught(data: Crops, teacher: keras.Model, share: float) -> Crops:
    """The same crops; the labels keep a share of the targets, a teacher's probabilities have the rest."""
    answers = [teacher.predict(Batches(data, number), verbose=0) for number in range(len(data.images))]
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(np.stack(answers)))
    return Crops(data.images, share * data.targets + (1 - share) * probabilities)


class Batches(keras.utils.PyDataset):
    """One round of crops an epoch, in a new order each, as the network's inputs.

    Args:
        data: the crops.
        fixed: the number of one round, in its own order, instead.
    """

    def __init__(self, data: Crops, fixed: int | None = None) -> None:
        super().__init__()
        self.data, self.fixed, self.epoch = data, fixed, 0
        # Keras' seed (keras.utils.set_random_seed) sets NumPy's global generator
        self.random = np.random.default_rng(np.random.randint(2**31))
        self.order = np.arange(data.images.shape[1])
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self.order) / BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number = self.epoch % len(self.data.images) if self.fixed is None else self.fixed
        at = self.order[index * BATCH : (index + 1) * BATCH]
        return self.data.images[number, at].astype(np.float32) - MEANS, self.data.targets[number, at]

    def on_epoch_end(self) -> None:
        """The next round, in a new order."""
        if self.fixed is None:
            self.epoch += 1
            self.random.shuffle(self.order)


def whole(images: np.ndarray, size: int) -> np.ndarray:
    """Whole photos, scaled and made the network's input: float32 (photos, size, size, 3)."""
    parts = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    return np.concatenate([_crop(part, _whole_boxes(len(part)), size).numpy() - MEANS for part in parts])


def _crop(images: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    indices = tf.range(tf.shape(images)[0])
    pixels = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, indices, (size, size))
    return pixels[..., ::-1]


def _whole_boxes(count: int) -> tf.Tensor:
    return tf.tile([[0.0, 0.0, 1.0, 1.0]], [count, 1])


def _random_boxes(count: tf.Tensor) -> tf.Tensor:
    """(count, 4) top, left, bottom, right in [0, 1]; where left and right are exchanged, the crop is mirrored."""
    shape = [count, 1]
    side = tf.sqrt(tf.random.uniform(shape, _SMALLEST_CROP, 1))
    stretch = tf.exp(tf.random.uniform(shape, -_STRETCH, _STRETCH))
    height, width = tf.minimum(side * stretch, 1), tf.minimum(side / stretch, 1)
    top, left = tf.random.uniform(shape) * (1 - height), tf.random.uniform(shape) * (1 - width)
    mirrored = tf.random.uniform(shape) < 0.5
    ends = tf.where(mirrored, left + width, left), tf.where(mirrored, left, left + width)
    return tf.concat([top, ends[0], top + height, ends[1]], axis=1)
