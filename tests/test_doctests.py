"""The examples in the docstrings are true: each is run, but those marked ``# doctest: +SKIP``."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import keras
import pytest

import keras_prune
import keras_prune_export


def modules():
    for package in (keras_prune, keras_prune_export):
        yield package.__name__
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name):
    module = importlib.import_module(name)
    keras.utils.clear_session()  # layers are numbered from the start
    finder = doctest.DocTestFinder(exclude_empty=True)
    for example in finder.find(module):
        report = []
        results = doctest.DocTestRunner().run(example, out=report.append)
        assert results.failed == 0, "".join(report)


def test_there_are_examples():
    examples = [test for name in modules() for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in examples) >= 10
