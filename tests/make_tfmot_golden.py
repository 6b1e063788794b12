"""Makes tests/golden/tfmot: what TFMOT's schedules and masks are, to compare ours with.

TFMOT needs Keras 2 and switches its process to it, so this runs in an environment of its own, once:

    python3.11 -m venv /tmp/tfmot
    /tmp/tfmot/bin/pip install "tensorflow-cpu==2.18.*" "tf_keras==2.18.*" tensorflow-model-optimization==0.8.1
    TF_USE_LEGACY_KERAS=1 /tmp/tfmot/bin/python tests/make_tfmot_golden.py
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden" / "tfmot"
STEPS = 130
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("PolynomialDecay", {"initial_sparsity": 0.0, "final_sparsity": 0.8, "begin_step": 0, "end_step": 100}),
    (
        "PolynomialDecay",
        {"initial_sparsity": 0.5, "final_sparsity": 0.9, "begin_step": 10, "end_step": 110, "frequency": 10},
    ),
    (
        "PolynomialDecay",
        {"initial_sparsity": 0.2, "final_sparsity": 0.975, "begin_step": 7, "end_step": 64, "power": 1, "frequency": 6},
    ),
    (
        "PolynomialDecay",
        {"initial_sparsity": 0.3, "final_sparsity": 0.6, "begin_step": 20, "end_step": 40, "power": 5, "frequency": 1},
    ),
    ("ConstantSparsity", {"target_sparsity": 0.5, "begin_step": 0}),
    ("ConstantSparsity", {"target_sparsity": 0.75, "begin_step": 13, "end_step": 93, "frequency": 20}),
    ("ConstantSparsity", {"target_sparsity": 0.9, "begin_step": 5, "end_step": 100, "frequency": 7}),
]
SHAPES = {"dense": (37, 21), "conv": (3, 3, 5, 7), "small": (3, 3)}
SPARSITIES = (0.0, 0.25, 0.5, 0.8, 0.93, 0.99)
# Name -> shape, block size, pooling. Sizes divide the shape, or leave out one row: where two or more are missing, TFMOT
# scores windows that begin before the first row ("SAME" padding on both sides) and masks blocks that begin with it.
BLOCKS: dict[str, tuple[tuple[int, int], tuple[int, int], str]] = {
    "avg_4x1": ((36, 21), (4, 1), "AVG"),
    "max_2x3": ((37, 21), (2, 3), "MAX"),
    "avg_1x8": ((37, 24), (1, 8), "AVG"),
    "avg_4x4": ((16, 32), (4, 4), "AVG"),
}
# Name -> shape, (m zeros, of n).
M_BY_N = {"dense_2_4": ((24, 10), (2, 4)), "conv_2_4": ((3, 3, 8, 5), (2, 4)), "dense_6_8": ((32, 6), (6, 8))}


def tie_free(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Weights of both signs, no two of the same size: a permutation of distinct numbers."""
    rng = np.random.default_rng(seed)
    sizes = (rng.permutation(int(np.prod(shape))) + 1) / np.prod(shape)
    return (sizes * rng.choice([-1, 1], sizes.shape)).reshape(shape).astype(np.float32)


def make_schedules(schedules: Any) -> list[dict[str, Any]]:
    import tensorflow as tf  # noqa: PLC0415

    result = []
    for name, config in SCHEDULES:
        schedule = getattr(schedules, name)(**config)
        pairs = [schedule(tf.constant(step, tf.int64)) for step in range(STEPS)]
        result.append(
            {
                "class_name": name,
                "config": config,
                "should_prune": "".join("01"[bool(should)] for should, _ in pairs),
                "sparsity": [float(np.round(float(sparsity), 7)) for _, sparsity in pairs],
            }
        )
    return result


def make_masks(pruning_impl: Any, schedules: Any) -> dict[str, np.ndarray]:
    import tensorflow as tf  # noqa: PLC0415

    def mask(weights: np.ndarray, sparsity: float, **options: Any) -> np.ndarray:
        settings = {"block_size": [1, 1], "block_pooling_type": "AVG", **options}
        pruning = pruning_impl.Pruning(lambda: 0, [], schedules.ConstantSparsity(sparsity, 0), **settings)
        result = pruning._maybe_update_block_mask(tf.constant(weights))[1]
        return np.packbits(result.numpy().astype(bool))

    arrays = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        weights = arrays[f"weights/{name}"] = tie_free(shape, number)
        for sparsity in SPARSITIES:
            arrays[f"unstructured/{name}/{sparsity}"] = mask(weights, sparsity)
    for number, (name, (shape, size, pooling)) in enumerate(BLOCKS.items()):
        weights = arrays[f"weights/{name}"] = tie_free(shape, 20 + number)
        for sparsity in SPARSITIES:
            options = {"block_size": list(size), "block_pooling_type": pooling}
            arrays[f"block/{name}/{sparsity}"] = mask(weights, sparsity, **options)
    for number, (name, (shape, m_by_n)) in enumerate(M_BY_N.items()):
        weights = arrays[f"weights/{name}"] = tie_free(shape, 10 + number)
        arrays[f"m_by_n/{name}"] = mask(weights, 0.5, sparsity_m_by_n=m_by_n)
    return arrays


def main() -> None:
    from tensorflow_model_optimization.python.core.sparsity.keras import (  # type: ignore[import-not-found]  # noqa: PLC0415
        pruning_impl,
        pruning_schedule,
    )

    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in make_schedules(pruning_schedule))
    (FOLDER / "schedules.json").write_text(f"[\n{lines}\n]\n")
    arrays: dict[str, Any] = make_masks(pruning_impl, pruning_schedule)
    np.savez_compressed(FOLDER / "masks.npz", **arrays)


if __name__ == "__main__":
    main()
