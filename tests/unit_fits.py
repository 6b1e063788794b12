"""A fit that gathers of units."""

from __future__ import annotations

from unit_models import X, Y  # type: ignore[import-not-found]

from keras_prune.unit_statistics import UnitStatistics


def fit(model, x=X, y=Y, **options):
    options = {"batch_size": 8, "epochs": 1, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, **options)


def gathered(model, groups, criterion, **options):
    """The statistics of one fit, connected while it lasts."""
    stats = UnitStatistics(criterion, groups)
    stats.connect(model)
    model.make_train_function(force=True)
    fit(model, **options)
    stats.disconnect()
    stats.check()
    assert stats.ready
    return stats


def at_sites(stats, groups):
    return [stats.statistic(site) for group in groups for site in group.sites]


MODES: dict[str, dict] = {
    "plain": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "3 steps": {"steps_per_execution": 3},
    "eager": {"run_eagerly": True},
}
