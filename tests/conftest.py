"""What all tests share: where the optional data is, and quiet, repeatable Keras."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("no time limits", deadline=None)  # a busy machine is no error
hypothesis.settings.load_profile("no time limits")
DATA = pathlib.Path(__file__).resolve().parents[1].parent / "shared" / "data"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves slow tests to `make test-slow`."""
    if "slow" in (config.getoption("-m") or ""):
        return
    chosen = [item for item in items if "slow" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if "slow" in item.keywords])
    items[:] = chosen


@pytest.fixture(scope="module", autouse=True)
def fresh_state() -> Iterator[None]:
    """What a file's tests find does not depend on the files that ran before it in this process.

    Keras counts the names that it gives from the start, has its default settings, and random numbers are the same in
    every run. A file that leaves the working folder or the environment changed fails.
    """
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(1234)
    before = _process_state()
    yield
    assert _process_state() == before


def _process_state() -> tuple[str, dict[str, str]]:
    """The working folder and the variables that what is tested reads; libraries set others when they are imported."""
    read = ("CUDA_", "CXX", "KERAS_", "PATH", "PYTHON", "TF_", "TMPDIR")
    return str(pathlib.Path.cwd()), {name: value for name, value in os.environ.items() if name.startswith(read)}


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder with MNIST and other files beside the checkout; the test is skipped where it is not."""
    if not (DATA / "mnist.npz").is_file():
        pytest.skip(f"{DATA}/mnist.npz is not there")
    return DATA


@pytest.fixture(scope="module")
def packed_layers_compute():
    """Layers of which at most a third is kept compute on packed weights, whichever form the measured costs prefer."""
    from keras_prune_export import kernel_costs  # noqa: PLC0415

    patch = pytest.MonkeyPatch()
    patch.setattr(kernel_costs, "packed_pays", lambda works, *_: all(3 * w.kept <= w.rows * w.cols for w in works))
    yield
    patch.undo()


@pytest.fixture
def seeded() -> None:
    """Same random numbers in every run."""
    import keras  # noqa: PLC0415

    keras.utils.set_random_seed(1234)
