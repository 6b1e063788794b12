"""Progress of work that may take long."""

from __future__ import annotations

import sys
import time


class Progress:
    """A line on stderr that appears once the work takes over two seconds."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._start = time.monotonic()
        self._shown = ""

    def step(self) -> None:
        """Counts one of the ``total`` parts as done."""
        self._done += 1
        line = f"{self._title}: {100 * self._done // self._total} %"
        if time.monotonic() - self._start > 2 and line != self._shown:
            end = "\n" if self._done == self._total else ""
            print(f"\r{line}", end=end, file=sys.stderr, flush=True)  # noqa: T201
            self._shown = line
