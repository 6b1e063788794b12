"""Rounds of pruning and retraining."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_prune import allocation as allocations
from keras_prune import patterns
from keras_prune.masks import apply_masks, check_model, mask_sparsity, prunable
from keras_prune.schedules import check_sparsity
from keras_prune.surgery import prune


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of pruning and retraining.

    Attributes:
        sparsity: fraction of zeros among the weights that are pruned.
        learning_rate: with which the round began.
        history: each metric's name -> its value after each epoch, as in Keras' ``History.history``.
    """

    sparsity: float
    learning_rate: float
    history: dict[str, list[float]]

    @property
    def epochs(self) -> int:
        """Epochs of retraining; fewer than asked for where progress had stopped."""
        return max(map(len, self.history.values()), default=0)

    @property
    def last(self) -> dict[str, float]:
        """The metrics after the last epoch."""
        return {name: values[-1] for name, values in self.history.items() if values}


@dataclasses.dataclass(frozen=True)
class Rounds:
    """All rounds, in order; ``str(rounds)`` is a table."""

    rounds: tuple[Round, ...]

    def __iter__(self) -> Any:
        return iter(self.rounds)

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, index: int) -> Round:
        return self.rounds[index]

    def __str__(self) -> str:
        names = list(self.rounds[-1].last)
        lines = [["round", "sparsity", "learning rate", "epochs", *names]]
        for number, done in enumerate(self.rounds, 1):
            metrics = [f"{done.last[name]:.4f}" for name in names]
            lines.append([str(number), f"{done.sparsity:.2%}", f"{done.learning_rate:.3g}", str(done.epochs), *metrics])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in lines)


def geometric_sparsities(final_sparsity: float, rounds: int) -> list[float]:
    """Targets of rounds that each keep the same share of what is left: ``1 - (1 - s) ** (i / n)``, i = 1 … n.

    Args:
        final_sparsity: s, fraction of zeros after the last round, in [0, 1).
        rounds: n, at least 1.

    Returns:
        One target a round.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> [round(value, 4) for value in geometric_sparsities(0.875, 3)]
        [0.5, 0.75, 0.875]
    """
    check_sparsity("final_sparsity", final_sparsity)
    if int(rounds) != rounds or rounds < 1:
        raise ValueError(f"rounds: expected a whole number >= 1, got {rounds!r}")
    return [1 - (1 - final_sparsity) ** (i / rounds) for i in range(1, rounds)] + [final_sparsity]


def iterative_prune(
    model: Any,
    fit: Mapping[str, Any],
    *,
    sparsities: Sequence[float],
    learning_rate_factor: float = 0.1,
    patience: int | None = None,
    monitor: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Rounds:
    """Prunes a trained model in rounds, and retrains what is left after each, in place.

    Each round prunes to its target, and then trains with ``learning_rate_factor`` times the learning rate that the
    model was compiled with, from the surviving weights as they are: neither rewound nor initialised anew. The masks
    stay on the model until `keras_prune.strip`; its learning rate is as before in the end.

    Args:
        model: a Keras 3 model, trained, and compiled with a learning rate that is a number.
        fit: arguments of ``model.fit`` for one round: ``dict(x=x, y=y, epochs=5, batch_size=128)``.
        sparsities: each round's target, rising, in [0, 1); `geometric_sparsities` makes them.
        learning_rate_factor: > 0; Han et al. take 1/10 for LeNet and 1/100 for AlexNet.
        patience: end a round when ``monitor`` has not improved in this many epochs, and take the round's best
            weights; None: train all epochs.
        monitor: a metric in the logs; None: ``"val_loss"`` if ``fit`` has validation data, else ``"loss"``.
        options: arguments of `keras_prune.prune`: ``criterion``, ``pattern``, ``allocation``, ``layers``, ... A
            `PerLayer` allocation reaches its sparsities in the last round.

    Returns:
        What happened in each round.

    Raises:
        TypeError: not a Keras 3 model, no arguments of ``fit``, or its learning rate is a schedule.
        ValueError: no target, targets that fall or are outside [0, 1), a model that is not compiled.

    Example:
        >>> rounds = keras_prune.iterative_prune(  # doctest: +SKIP
        ...     model, dict(x=x, y=y, epochs=5), sparsities=keras_prune.geometric_sparsities(0.92, 5))

    Han, Pool, Tran and Dally 2015, "Learning both Weights and Connections for Efficient Neural Networks"
    (https://arxiv.org/abs/1506.02626).
    """
    check_model(model)
    if not isinstance(fit, Mapping):
        raise TypeError(f"fit: expected arguments of model.fit, such as dict(x=x, y=y, epochs=5), got {fit!r}")
    _check_sparsities(sparsities)
    rate = _learning_rate(model)
    if not learning_rate_factor > 0:
        raise ValueError(f"learning_rate_factor: expected a number > 0, got {learning_rate_factor!r}")
    options = dict(options or {})
    towards = _Towards(allocations.get(options.pop("allocation", "uniform")), sparsities[-1])
    _check_reachable(model, towards, options=options, sparsities=sparsities)
    rounds = []
    try:
        for number, sparsity in enumerate(sparsities, 1):
            prune(model, sparsity, allocation=towards, **options)
            reached = mask_sparsity(prunable(model, options.get("layers")))
            model.optimizer.learning_rate = rate * learning_rate_factor
            if fit.get("verbose", "auto") != 0:
                _say(
                    f"Round {number} of {len(sparsities)}: {reached:.2%} zeros, learning rate "
                    f"{rate * learning_rate_factor:.3g}"
                )
            history = model.fit(**_with_plateau(fit, patience, monitor))
            apply_masks(prunable(model, options.get("layers")))  # Keras overwrites weights with averages of them
            rounds.append(Round(reached, rate * learning_rate_factor, dict(history.history)))
    finally:
        model.optimizer.learning_rate = rate
    return Rounds(tuple(rounds))


@dataclasses.dataclass(frozen=True)
class _Towards(allocations.Allocation):
    """An allocation on its way to the last round's target."""

    inner: allocations.Allocation
    final_sparsity: float

    def check_criterion(self, criterion: Any) -> None:
        """As the inner allocation does."""
        self.inner.check_criterion(criterion)

    def __call__(self, scores: Mapping[str, np.ndarray], sparsity: float, final_sparsity: float) -> dict[str, float]:
        """The inner allocation, which is told the target of the last round instead of this one's."""
        del final_sparsity
        return self.inner(scores, sparsity, self.final_sparsity)


def _check_sparsities(sparsities: Sequence[float]) -> None:
    if isinstance(sparsities, int | float) or not len(sparsities):
        raise ValueError(
            f"sparsities: expected a target for each round, such as [0.5, 0.75, 0.9], got {sparsities!r}; "
            "geometric_sparsities(0.9, rounds=3) makes them"
        )
    for number, sparsity in enumerate(sparsities):
        check_sparsity(f"sparsities[{number}]", sparsity)
    if list(sparsities) != sorted(sparsities):
        raise ValueError(f"sparsities: expected targets that rise from round to round, got {list(sparsities)!r}")


def _check_reachable(model: Any, towards: _Towards, *, options: Mapping[str, Any], sparsities: Sequence[float]) -> None:
    """Raises ValueError before the first round where a later one would ask too much of a pattern or allocation."""
    pattern = patterns.get(options.get("pattern", "unstructured"))
    shapes = {path: tuple(variable.shape) for path, variable in prunable(model, options.get("layers")).items()}
    for sparsity in sparsities:
        for reached in allocations.known_sparsities(towards, shapes, sparsity).values():
            pattern.check_sparsity(reached)


def _learning_rate(model: Any) -> float:
    """The number that the model was compiled with."""
    if not getattr(model, "compiled", False):
        raise ValueError("iterative_prune: expected a compiled model, got one that is not; call model.compile first")
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # under mixed precision
    if isinstance(optimizer.get_config()["learning_rate"], dict):
        raise TypeError(
            "iterative_prune: expected a learning rate that is a number, got a schedule, which counts steps "
            "over all rounds; compile with a number, and let it fall in each round by a callback in fit: "
            "keras.callbacks.LearningRateScheduler or ReduceLROnPlateau"
        )
    return float(optimizer.learning_rate.numpy())


def _with_plateau(fit: Mapping[str, Any], patience: int | None, monitor: str | None) -> dict[str, Any]:
    """The arguments of fit, with early stopping added."""
    if patience is None:
        return dict(fit)
    if monitor is None:
        validated = fit.get("validation_data") is not None or fit.get("validation_split")
        monitor = "val_loss" if validated else "loss"
    # Every state that could be restored was reached under this round's masks, so its zeros are in it.
    stop = keras.callbacks.EarlyStopping(monitor, patience=patience, restore_best_weights=True)
    return {**fit, "callbacks": [*keras.tree.flatten(fit.get("callbacks") or []), stop]}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
