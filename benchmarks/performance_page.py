r"""Puts the figures of `make bench` into docs/performance.md and docs/figures/performance.json.

    python benchmarks/performance_page.py --results out/bench

Each table of the page stands between two comments, `<!-- name -->` and `<!-- end -->`, and is made from the JSON file
alone; tests/test_performance_page.py holds that. Results that are not in the folder stay as they are. Results of
`--quick` runs are refused.
"""

from __future__ import annotations

import json
import pathlib

import performance_tables
from absl import app, flags

from keras_prune_export.files import write_atomic

_RESULTS = flags.DEFINE_string("results", "out/bench", "The folder of the benchmarks' JSON files.")
_PAGE = flags.DEFINE_string("page", "docs/performance.md", "The page.")
_FIGURES = flags.DEFINE_string("json", "docs/figures/performance.json", "The figures that the page shows.")


def main(argv: list[str]) -> None:
    """Writes the JSON file and the page."""
    del argv
    page, path = pathlib.Path(_PAGE.value), pathlib.Path(_FIGURES.value)
    old = json.loads(path.read_text()) if path.is_file() else {}
    figures = performance_tables.merged(old, pathlib.Path(_RESULTS.value))
    write_atomic(path, (json.dumps(figures, indent=1) + "\n").encode())
    write_atomic(page, performance_tables.render(page.read_text(), figures).encode())
    print(f"written to {page} and {path}")


if __name__ == "__main__":
    app.run(main)
