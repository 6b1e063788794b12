"""SavedModels in a C++ host: LoadSavedModel, many threads, another version while it answers; all ways to serve."""

from __future__ import annotations

import pathlib
import shutil
import sys
from typing import Any

import numpy as np
import pytest
import serving_models  # type: ignore[import-not-found]

from keras_prune import native

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import serving_host

pytestmark = pytest.mark.slow  # the host is compiled and linked with TensorFlow: a minute of a CPU
OP = f"op_library={native.op_path()}"
WAYS = sorted(serving_models.WAYS)


@pytest.fixture(scope="module")
def host():
    return serving_host.build()


class Models(dict[str, Any]):
    """By way: a folder with the versions 1 and 2 of two networks, and what each should compute."""

    def __init__(self, new_folder):
        super().__init__()
        self._new_folder = new_folder

    def __missing__(self, way):
        folder, export = self._new_folder(way), serving_models.WAYS[way]
        self[way] = folder, {n: export(serving_models.network(n), folder / str(n)) for n in (1, 2)}
        return self[way]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp)


def load_test(host, folder, scratch, **inputs):
    request = serving_host.encode(inputs)
    return serving_host.LoadTest(host, folder, request=request, scratch=scratch, options=[OP])


@pytest.mark.parametrize("way", WAYS)
def test_it_computes_what_keras_does_on_every_batch(way, host, models):
    folder, expected = models[way]
    with serving_host.Host(host, folder, [OP]) as server:
        assert server.loaded["version"] == 2
        for batch in (1, 3, 64):
            x = serving_models.examples(batch)
            (got,) = server.predict({"x": x}).values()
            serving_models.assert_computes(got, expected[2], x)
        (got,) = server.predict({"x": serving_models.examples(0)}).values()
        assert got.shape == (0, serving_models.OUTPUTS)


@pytest.mark.parametrize("way", WAYS)
def test_eight_threads_get_a_thousand_equal_answers_each(way, *, host, models, tmp_path):
    folder, expected = models[way]
    x = serving_models.examples(1)
    with load_test(host, folder, tmp_path, x=x) as test:
        run = test.run(threads=8, requests=1000)
        (got,) = test.answer(2).values()
    assert (run["requests"], run["errors"], run["first_error"], run["versions"]) == (8000, 0, "", 1)
    serving_models.assert_computes(got, expected[2], x)


@pytest.mark.parametrize("way", WAYS)
def test_versions_change_while_threads_are_answered(way, *, host, models, tmp_path):
    folder, expected = models[way]
    x = serving_models.examples(2)
    with load_test(host, folder, tmp_path, x=x) as test:
        run = {"reloads": 0}
        while run["reloads"] < 6:
            run = test.run(threads=8, requests=1000, reload_ms=10)
        answers = {version: next(iter(test.answer(version).values())) for version in expected}
    assert (run["requests"] % 8000, run["errors"], run["first_error"], run["versions"]) == (0, 0, "", 2)
    for version, model in expected.items():
        serving_models.assert_computes(answers[version], model, x)


def test_a_new_version_is_served_and_a_broken_one_leaves_the_old(host, models, tmp_path):
    packed, expected = models["packed"]
    folder, x = tmp_path / "models", serving_models.examples(3)
    shutil.copytree(packed / "1", folder / "1")
    with serving_host.Host(host, folder) as server:
        first = server.predict({"x": x})
        shutil.copytree(packed / "2", folder / "2")
        assert server.reload() == 2
        second = server.predict({"x": x})
        serving_models.assert_computes(first["output_0"], expected[1], x)
        serving_models.assert_computes(second["output_0"], expected[2], x)
        shutil.copytree(packed / "2", folder / "3")
        weights = folder / "3" / "assets" / "weights.bin"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        with pytest.raises(serving_host.HostError, match="the packed weights are corrupt or another model"):
            server.reload()
        np.testing.assert_array_equal(server.predict({"x": x})["output_0"], second["output_0"])


def test_wrong_requests_are_answered_with_what_is_wrong(host, models):
    with serving_host.Host(host, models["dense"][0]) as server:
        for inputs, signature, message in (
            ({"y": serving_models.examples(1)}, "serving_default", r"expected tensors for the inputs x, got .* one, y"),
            ({}, "serving_default", "expected a tensor for each of the inputs x, got 0 tensors"),
            (
                {"x": serving_models.examples(1)},
                "other",
                "expected the name of a signature, .*, got other",
            ),
            (
                {"x": serving_models.examples(1)[:, 1:]},
                "serving_default",
                r"[Mm]atrix size-incompatible|[Ii]ncompatible shapes|shape",
            ),
        ):
            with pytest.raises(serving_host.HostError, match=message) as caught:
                server.predict(inputs, signature)
            assert caught.value.code == 3  # INVALID_ARGUMENT
        with pytest.raises(serving_host.HostError, match=r"tensorflow\.NameAttrList"):
            server.send(b"\xff\xff").result()
        assert server.predict({"x": serving_models.examples(1)})["output_0"].shape == (1, serving_models.OUTPUTS)


def test_without_the_op_tensorflow_names_it(host, models):
    """When it is first called: the op stands in a function of the graph, and these are looked at then."""
    message = "Op type not registered 'KerasPruneRelativeIndexMatmul'"
    with serving_host.Host(host, models["with_op"][0]) as server, pytest.raises(serving_host.HostError, match=message):
        server.predict({"x": serving_models.examples(1)})


def test_a_host_with_the_op_linked_in_needs_no_library(models, tmp_path):
    folder, expected = models["with_op"]
    x = serving_models.examples(1)
    request = serving_host.encode({"x": x})
    linked = serving_host.build("serving_host_with_op")
    with serving_host.LoadTest(linked, folder, request=request, scratch=tmp_path) as test:
        run = test.run(threads=8, requests=1000)
        (got,) = test.answer(2).values()
    assert (run["requests"], run["errors"], run["first_error"]) == (8000, 0, "")
    serving_models.assert_computes(got, expected[2], x)
