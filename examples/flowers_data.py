"""Photos of five flowers as batches for networks with ImageNet-Caffe weights (BGR, mean subtracted)."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

# Means of ImageNet's blue, green and red, as keras.applications.imagenet_utils.preprocess_input(mode="caffe") has them.
MEANS = np.array([103.939, 116.779, 123.68], np.float32)
BATCH = 32  # of the paper
_SMALLEST_CROP = 0.5  # of the photo's area
_STRETCH = 0.2  # logarithm of a crop's height / width, half of it
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


def training_batches(photos: Photos, size: int) -> tf.data.Dataset:
    """Shuffled batches of random crops of at least half the photo, mirrored or not, scaled to ``size`` pixels."""
    data = tf.data.Dataset.from_tensor_slices(photos).shuffle(len(photos[0])).batch(BATCH)

    def cropped(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _crop(images, _random_boxes(tf.shape(images)[0]), size), labels

    return data.map(cropped).prefetch(1)


def whole(images: np.ndarray, size: int) -> np.ndarray:
    """Whole photos, scaled and made the network's input: float32 (photos, size, size, 3)."""
    return np.concatenate([_crop(part, _whole_boxes(len(part)), size).numpy() for part in _parts(images)])


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + 256] for start in range(0, len(images), 256)]


def _crop(images: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    indices = tf.range(tf.shape(images)[0])
    pixels = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, indices, (size, size))
    return pixels[..., ::-1] - MEANS


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
